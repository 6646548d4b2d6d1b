"use strict";
// Exact search over all items under any weights, as csn_jax.Index does it.

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i); // ten times as fast as Uint8Array.from
  return bytes;
}

// The weight per dimension: the sum over conditions of weight times mask squared.
function dimensionWeights(masks, weights) {
  const sums = new Float64Array(masks[0].length);
  masks.forEach((mask, c) => {
    if (weights[c]) for (let d = 0; d < sums.length; d++) sums[d] += weights[c] * mask[d] * mask[d];
  });
  return sums;
}

// The k items nearest to the query, without the query: [{item, distance}], nearest first, ties by position. With
// negative weights a squared distance may be negative; its root then keeps the sign.
function nearest(vectors, width, query, weights, k) {
  const live = [];
  for (let d = 0; d < width; d++) if (weights[d] !== 0) live.push(d);
  const dims = Int32Array.from(live);
  const count = vectors.length / width;
  const items = [];
  const squares = [];
  for (let item = 0; item < count; item++) {
    if (item === query) continue;
    let square = 0;
    for (let j = 0; j < dims.length; j++) {
      const d = dims[j];
      const gap = vectors[query * width + d] - vectors[item * width + d];
      square += weights[d] * gap * gap;
    }
    if (items.length === k && square >= squares[k - 1]) continue;
    let at = items.length;
    while (at > 0 && squares[at - 1] > square) at--;
    items.splice(at, 0, item);
    squares.splice(at, 0, square);
    if (items.length > k) {
      items.pop();
      squares.pop();
    }
  }
  return items.map((item, i) => ({ item, distance: Math.sign(squares[i]) * Math.sqrt(Math.abs(squares[i])) }));
}
