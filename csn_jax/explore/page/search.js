"use strict";
// Exact search over all loaded vectors under any weights, as csn_jax.Index does it.

const BLOCK = 8; // dimensions between two looks at whether an item can still be near

// The weight per dimension: the sum over conditions of weight times mask squared.
function dimensionWeights(masks, weights) {
  const sums = new Float64Array(masks[0].length);
  masks.forEach((mask, c) => {
    if (weights[c]) for (let d = 0; d < sums.length; d++) sums[d] += weights[c] * mask[d] * mask[d];
  });
  return sums;
}

// Stored vectors: those dimensions that any mask weighs, as floats, or as 8-bit integers with a scale per dimension.
class Vectors {
  constructor({ live, scale, data }) {
    const { buffer } = bytesOf(data);
    this.live = live;
    this.width = live.length;
    this.rounded = scale !== null;
    this.scale = scale ?? live.map(() => 1);
    this.values = this.rounded ? new Int8Array(buffer) : new Float32Array(buffer);
  }

  // The k items nearest to an item, without it: [{item, distance}], nearest first, ties by position. weights: per
  // dimension; allowed: null, or per item whether it may be found. With negative weights a squared distance may be
  // negative; its root then keeps the sign.
  nearest(query, weights, k, allowed = null) {
    const { values, width, scale, live } = this;
    const own = live.map((d, j) => weights[d] * scale[j] * scale[j]);
    // Heavy dimensions first: most items are then known to be far after a few of them.
    const dims = Int32Array.from([...own.keys()].filter((j) => own[j] !== 0).sort((a, b) => own[b] - own[a] || a - b));
    const heavy = Float64Array.from(dims, (j) => own[j]);
    const from = Float64Array.from(dims, (j) => values[query * width + j]);
    const positive = heavy.every((weight) => weight > 0);
    const count = width ? values.length / width : 0;
    const items = [];
    const squares = [];
    let worst = Infinity;
    for (let item = 0; item < count; item++) {
      if (item === query || (allowed && !allowed[item])) continue;
      const start = item * width;
      let square = 0;
      for (let j = 0; j < dims.length; ) {
        const end = positive ? Math.min(dims.length, j + BLOCK) : dims.length;
        for (; j < end; j++) {
          const gap = from[j] - values[start + dims[j]];
          square += heavy[j] * gap * gap;
        }
        if (positive && square >= worst) break;
      }
      if (square >= worst) continue;
      let at = items.length;
      while (at > 0 && squares[at - 1] > square) at--;
      items.splice(at, 0, item);
      squares.splice(at, 0, square);
      if (items.length > k) {
        items.pop();
        squares.pop();
      }
      if (items.length === k) worst = squares[k - 1];
    }
    return items.map((item, i) => ({ item, distance: Math.sign(squares[i]) * Math.sqrt(Math.abs(squares[i])) }));
  }
}
