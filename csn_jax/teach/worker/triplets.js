"use strict";
// Answers as triplets [anchor, positive, negative] of items, and the error of weights on held-out answers.

const MOST = 1000; // triplets that a fit takes, as in csn_jax adapt
const PER_ANSWER = 20; // triplets drawn per value that was given
const LEAST_HELD = 8; // random answers, from which the error has an interval

// Triplets of values that were given to items. Each draws a value of two items or more, two different items of it, and an
// item of another value, so that a frequent value does not dominate. answers: [{item, value}], a value is a text.
function tripletsOfValues(answers, random, most = MOST) {
  const byValue = new Map();
  for (const { item, value } of answers) byValue.set(value, [...(byValue.get(value) ?? []), item]);
  const pairs = [...byValue.values()].filter((items) => items.length > 1);
  if (!pairs.length || byValue.size < 2) return [];
  const triplets = [];
  for (let t = Math.min(most, PER_ANSWER * answers.length); t > 0; t--) {
    const own = pairs[below(random, pairs.length)];
    const [anchor, positive] = drawn(random, own, 2);
    let negative;
    do negative = answers[below(random, answers.length)].item;
    while (own.includes(negative));
    triplets.push([anchor, positive, negative]);
  }
  return triplets;
}

// Triplets of screens. What was selected is alike among itself too. answers: [{item, shown, alike}].
function tripletsOfScreens(answers, random, most = MOST) {
  const triplets = answers.flatMap(({ item, shown, alike }) => allTripletsOf(item, shown, alike));
  return triplets.length > most ? drawn(random, triplets, most) : triplets;
}

// Each two of an item and what was selected, with each that was not; nothing if nothing was.
function allTripletsOf(item, shown, alike) {
  const others = shown.filter((other) => !alike.includes(other));
  const same = [item, ...alike];
  return same.flatMap((a) => same.flatMap((b) => (a === b ? [] : others.map((negative) => [a, b, negative]))));
}

// Each item that was selected, with each that was not.
function tripletsOfScreen({ item, shown, alike }) {
  const selected = new Set(alike);
  const others = shown.filter((other) => !selected.has(other));
  return alike.flatMap((positive) => others.map((negative) => [item, positive, negative]));
}

function squareOf(points, k, w, a, b) {
  let square = 0;
  for (let d = 0; d < k; d++) {
    const gap = points[a * k + d] - points[b * k + d];
    square += w[d] * gap * gap;
  }
  return square;
}

// {error, half} of weights on values of random items, or null if these are too few. The error is that of two items of one
// value and one of another, each anchor counting alike; half is half of its 95 % interval, by leaving out each item once.
function errorOfValues(points, k, w, answers) {
  const n = answers.length;
  if (n < LEAST_HELD) return null;
  const square = answers.map(({ item }) => Float64Array.from(answers, (other) => squareOf(points, k, w, item, other.item)));
  let [sum, count] = [0, 0];
  const [sums, counts] = [new Float64Array(n), new Float64Array(n)]; // without each item
  for (let i = 0; i < n; i++) {
    const alike = [];
    const unlike = [];
    for (let j = 0; j < n; j++) if (j !== i) (answers[j].value === answers[i].value ? alike : unlike).push(j);
    if (!alike.length || !unlike.length) continue;
    const wrong = new Float64Array(n); // triplets of this anchor and an item
    let all = 0;
    for (const p of alike) {
      for (const q of unlike) {
        if (square[i][q] <= square[i][p]) [wrong[p], wrong[q], all] = [wrong[p] + 1, wrong[q] + 1, all + 1];
      }
    }
    sum += all / (alike.length * unlike.length);
    count++;
    for (let l = 0; l < n; l++) {
      if (l === i) continue;
      const isAlike = answers[l].value === answers[i].value;
      const left = isAlike ? (alike.length - 1) * unlike.length : alike.length * (unlike.length - 1);
      if (left) [sums[l], counts[l]] = [sums[l] + (all - wrong[l]) / left, counts[l] + 1];
    }
  }
  if (count < 4) return null;
  const parts = Array.from(sums, (part, l) => part / Math.max(1, counts[l]));
  const mean = meanOf(parts);
  const variance = ((n - 1) / n) * parts.reduce((total, part) => total + (part - mean) ** 2, 0);
  return withInterval(sum / count, Math.sqrt(variance), n);
}

// The same for random screens, each of which counts alike.
function errorOfScreens(points, k, w, answers) {
  const parts = [];
  for (const answer of answers) {
    const triplets = tripletsOfScreen(answer);
    const wrong = triplets.filter(([a, p, n]) => squareOf(points, k, w, a, n) <= squareOf(points, k, w, a, p));
    if (triplets.length) parts.push(wrong.length / triplets.length);
  }
  if (parts.length < 4) return null;
  const mean = meanOf(parts);
  const variance = parts.reduce((total, part) => total + (part - mean) ** 2, 0) / (parts.length - 1);
  return withInterval(mean, Math.sqrt(variance / parts.length), parts.length);
}

// Few answers without a fault do not prove that there is none: the interval is never narrower than one fault in n makes it.
function withInterval(error, deviation, n) {
  const df = n - 1;
  const student = 1.96 + 2.37 / df + 2.8 / df ** 2 + 3.3 / df ** 3; // its quantile, nearly
  const least = Math.sqrt(Math.max(error, 1 / n) / n) / 4;
  return { error, half: student * Math.max(deviation, least) };
}
