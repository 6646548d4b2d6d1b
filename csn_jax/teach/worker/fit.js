"use strict";
// The convex fit of csn_jax adapt: weights w >= 0 of principal axes, from triplets. See csn_jax/adapt/fit.py.

const STEPS = 200;
const TOLERANCE = 1e-9; // the fit ends after so many steps, or when weights move less
const STRENGTHS = [1e2, 1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5]; // of the regularisation, from strong to weak

// The gains of triplets, [T * k] row by row: per axis, the squared difference to the negative minus that to the positive.
// points: [N * k]; triplets: [[anchor, positive, negative], ...].
function gainsOf(points, k, triplets) {
  const gain = new Float64Array(triplets.length * k);
  triplets.forEach(([anchor, positive, negative], t) => {
    const [a, p, n] = [anchor * k, positive * k, negative * k];
    for (let d = 0; d < k; d++) gain[t * k + d] = (points[a + d] - points[n + d]) ** 2 - (points[a + d] - points[p + d]) ** 2;
  });
  return gain;
}

// The minimum of mean_t max(0, 1 - w . gain_t)^2 / 2 + strength / 2 * |w - mean(w)|^2 over w >= 0, by Newton's method on
// the weights that are not held at 0. It begins at `start`, or at the best equal weights.
function fit(gain, k, strength, start = null) {
  const n = gain.length / k;
  let w = start ? Float64Array.from(start) : equalWeights(gain, k);
  let short = lacking(gain, k, w);
  const gradient = new Float64Array(k);
  for (let step = 0; step < STEPS; step++) {
    const mean = meanOf(w);
    gradient.fill(0);
    for (let t = 0; t < n; t++) {
      if (short[t] > 0) for (let d = 0; d < k; d++) gradient[d] -= gain[t * k + d] * short[t];
    }
    let moved = 0;
    for (let d = 0; d < k; d++) {
      gradient[d] = gradient[d] / n + strength * (w[d] - mean);
      moved = Math.max(moved, Math.abs(w[d] - Math.max(0, w[d] - gradient[d])));
    }
    if (moved < TOLERANCE) break;
    const free = [];
    for (let d = 0; d < k; d++) if (w[d] > Math.min(moved, 1e-3) || gradient[d] < 0) free.push(d);
    const hessian = curvature(gain, k, short, free, strength);
    const direction = Float64Array.from(gradient, (g) => -g);
    const solved = solve(hessian, free.length, Float64Array.from(free, (d) => -gradient[d]));
    free.forEach((d, i) => (direction[d] = solved[i]));
    const before = valueOf(w, short, strength);
    for (let length = 1; length > 1e-12; length /= 2) {
      const next = new Float64Array(k);
      let slope = 0;
      for (let d = 0; d < k; d++) {
        next[d] = Math.max(0, w[d] + length * direction[d]);
        slope += gradient[d] * (next[d] - w[d]);
      }
      const nextShort = lacking(gain, k, next);
      if (length < 1e-11 || valueOf(next, nextShort, strength) <= before + 1e-4 * slope) {
        [w, short] = [next, nextShort];
        break;
      }
    }
  }
  return w;
}

// The weights that fit the triplets, one Float64Array per strength. Each fit begins at the one before, or at `start`.
function path(gain, k, strengths = STRENGTHS, start = null) {
  let square = 0;
  for (const g of gain) square += g * g;
  const size = Math.sqrt(square / gain.length) || 1;
  const scaled = gain.map((g) => g / size);
  const weights = [];
  for (const strength of strengths) weights.push(fit(scaled, k, strength, weights.at(-1) ?? start?.map((value) => value * size)));
  return weights.map((w) => w.map((value) => value / size));
}

const meanOf = (w) => w.reduce((a, b) => a + b, 0) / w.length;

function equalWeights(gain, k) {
  const n = gain.length / k;
  let [total, square] = [0, 0];
  for (let t = 0; t < n; t++) {
    let sum = 0;
    for (let d = 0; d < k; d++) sum += gain[t * k + d];
    total += sum / n;
    square += (sum * sum) / n;
  }
  return new Float64Array(k).fill(Math.max(0, total) / Math.max(square, 1e-300));
}

// What each triplet lacks to a margin of 1.
function lacking(gain, k, w) {
  const short = new Float64Array(gain.length / k);
  for (let t = 0; t < short.length; t++) {
    let sum = 0;
    for (let d = 0; d < k; d++) sum += gain[t * k + d] * w[d];
    short[t] = Math.max(0, 1 - sum);
  }
  return short;
}

function valueOf(w, short, strength) {
  const mean = meanOf(w);
  let [loss, pull] = [0, 0];
  for (const s of short) loss += s * s;
  for (const x of w) pull += (x - mean) ** 2;
  return loss / (2 * short.length) + (strength / 2) * pull;
}

// The second derivatives over the free weights, as rows of a lower triangle in [f * f].
function curvature(gain, k, short, free, strength) {
  const f = free.length;
  const n = short.length;
  const hessian = new Float64Array(f * f);
  const rows = [];
  for (let t = 0; t < n; t++) if (short[t] > 0) rows.push(Float64Array.from(free, (d) => gain[t * k + d]));
  while (rows.length % 4) rows.push(new Float64Array(f)); // four at a time: memory is the bottleneck
  for (let t = 0; t < rows.length; t += 4) {
    const [a, b, c, d] = [rows[t], rows[t + 1], rows[t + 2], rows[t + 3]];
    for (let i = 0; i < f; i++) {
      const [x, y, z, u] = [a[i], b[i], c[i], d[i]];
      const at = i * f;
      for (let j = 0; j <= i; j++) hessian[at + j] += x * a[j] + y * b[j] + z * c[j] + u * d[j];
    }
  }
  for (let i = 0; i < f; i++) {
    for (let j = 0; j <= i; j++) hessian[i * f + j] = hessian[i * f + j] / n - strength / k;
    hessian[i * f + i] += strength + 1e-10; // singular when no triplet lacks anything
  }
  return hessian;
}

// x with A x = b, for a symmetric positive definite A in its lower triangle, which is overwritten (Cholesky).
function solve(A, n, b) {
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = A[i * n + j];
      for (let m = 0; m < j; m++) sum -= A[i * n + m] * A[j * n + m];
      A[i * n + j] = i === j ? Math.sqrt(Math.max(sum, 1e-300)) : sum / A[j * n + j];
    }
  }
  const x = Float64Array.from(b);
  for (let i = 0; i < n; i++) {
    for (let m = 0; m < i; m++) x[i] -= A[i * n + m] * x[m];
    x[i] /= A[i * n + i];
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let m = i + 1; m < n; m++) x[i] -= A[m * n + i] * x[m];
    x[i] /= A[i * n + i];
  }
  return x;
}
