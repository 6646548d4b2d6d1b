"use strict";
// The items of the page, their attributes, and what the page has chosen. Text from the data is only ever set as text.

const { ids, conditions, columns } = CSN_DATA;
const N = ids.length;
const C = conditions.length;
const D = CSN_DATA.dimensions.length;
const K = Math.min(10, N - 1); // neighbours
const CLEARLY = 0.1; // of a numeric column's range; smaller gaps are near

for (const column of columns) {
  const Codes = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[column.bytes];
  column.codes = new Codes(bytesOf(column.codes).buffer);
}
const masks = conditions.map((condition) => condition.mask);
const single = conditions.map((_, c) => dimensionWeights(masks, conditions.map((_, other) => Number(other === c))));
const places = (() => {
  const packed = new Uint16Array(bytesOf(CSN_DATA.maps).buffer); // [C, N, 2]
  return conditions.map((_, c) =>
    [0, 1].map((axis) => Float32Array.from({ length: N }, (_, i) => packed[(c * N + i) * 2 + axis] / 65535)),
  );
})();
const columnOf = new Map(columns.map((column) => [column.name, column]));
const state = {
  condition: 0,
  item: 0,
  weights: conditions.map((_, c) => (c < 2 ? 1 : 0)),
  colouring: "auto", // the column of the condition on screen; or a column; or null
  marking: "condition", // whose hits are marked on the map; or "mixture"
  hits: K, // of the mixture
  query: "",
  filters: new Map(), // column -> Set of codes, or {low, high}
  passing: null, // Uint8Array of what passes query and filters; null: everything
  selected: new Set(),
};
let vectors = null; // a Vectors once it is loaded

const valueOf = (column, item) => column.values[column.codes[item]];
const passes = (item) => !state.passing || state.passing[item] === 1;

// A short name: the last part of a path, shortened in the middle.
function nameOf(item, length) {
  const name = ids[item].replace(/^.*\/(?=.)/, "");
  const half = Math.floor(length / 2);
  return name.length > length ? `${name.slice(0, half - 1)}…${name.slice(-half)}` : name;
}

function valuesOf(item) {
  return columns.map((column) => [column.name, valueOf(column, item)]).filter(([, value]) => value !== "");
}

// How many items have each value of a column.
function countsOf(column) {
  const counts = new Float64Array(column.values.length);
  for (const code of column.codes) counts[code]++;
  return counts;
}

// Whether two items are alike in a column: true, false, or null if a value is missing.
function alike(column, a, b) {
  const [x, y] = [valueOf(column, a), valueOf(column, b)];
  if (x === "" || y === "") return null;
  if (column.kind === "set") {
    const members = new Set(x.split(";"));
    return y.split(";").some((member) => members.has(member));
  }
  if (isAmount(column)) {
    const scale = scaleOf(column);
    return Math.abs(scale.get(x) - scale.get(y)) < CLEARLY * scale.width;
  }
  return x === y;
}

const isAmount = (column) => column.kind === "numeric" || column.kind === "rank";

// The place of each value of a column on its scale, and the width of the scale: numbers, or their ranks among the items.
function scaleOf(column) {
  if (column.scale) return column.scale;
  const known = column.values.filter((value) => value !== "").sort((a, b) => Number(a) - Number(b));
  column.scale = new Map(known.map((value) => [value, Number(value)]));
  if (column.kind === "rank") {
    const counts = countsOf(column);
    const countOf = new Map(column.values.map((value, code) => [value, counts[code]]));
    let below = 0;
    for (const value of known) {
      column.scale.set(value, below + countOf.get(value) / 2);
      below += countOf.get(value);
    }
  }
  column.scale.width = column.scale.get(known.at(-1)) - column.scale.get(known[0]);
  return column.scale;
}

function rangeOf(column) {
  const numbers = column.values.filter((value) => value !== "").map(Number);
  return [numbers.reduce((a, b) => Math.min(a, b)), numbers.reduce((a, b) => Math.max(a, b))];
}

// The nearest items under a condition, or the mixture (-1), among those that pass the filters; [] until vectors are here.
function hitsOf(c) {
  if (!vectors) return [];
  const key = [state.item, c < 0 ? state.weights : "", c < 0 ? state.hits : K].join();
  const known = hitsOf.known.get(c);
  if (known && known.key === key && known.passing === state.passing) return known.hits;
  const weights = c < 0 ? dimensionWeights(masks, state.weights) : single[c];
  const hits = weights.some((weight) => weight !== 0) || c >= 0 ? vectors.nearest(state.item, weights, c < 0 ? state.hits : K, state.passing) : [];
  hitsOf.known.set(c, { key, passing: state.passing, hits });
  return hits;
}
hitsOf.known = new Map();
