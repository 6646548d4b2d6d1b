"use strict";
// The state of the page in its address, so that a link or a reload shows the same.

const PAUSE = 400; // milliseconds without a change: browsers refuse many changes of an address in a row
const LARGEST = 500; // selected items that an address holds
let saving = 0;
let restoring = false;

// Names stand for conditions, columns and values, so that an address outlives a page that is written anew.
function addressOf() {
  const { x, y, zoom } = itemMap.goal ?? itemMap.view;
  const parts = new URLSearchParams({ by: conditions[state.condition].name, item: ids[state.item], view: [x, y, zoom].map((n) => n.toFixed(4)).join() });
  parts.set("weights", state.weights.join());
  if (state.hits !== K) parts.set("hits", String(state.hits));
  if (state.marking === "mixture") parts.set("mark", "mixture");
  if (state.colouring !== "auto") parts.set("colour", state.colouring ? `=${state.colouring.name}` : "");
  if (state.query) parts.set("find", state.query);
  for (const [column, filter] of state.filters) {
    const values = filter instanceof Set ? [...filter].map((code) => column.values[code]) : filter;
    parts.append("filter", JSON.stringify([column.name, values]));
  }
  if (state.selected.size && state.selected.size <= LARGEST) parts.set("selected", JSON.stringify([...state.selected].map((item) => ids[item])));
  return `#${parts}`;
}

function saveAddress() {
  if (restoring) return;
  clearTimeout(saving);
  saving = setTimeout(() => {
    saving = 0;
    history.replaceState(null, "", addressOf());
  }, PAUSE);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

// Read the address into the state; what it names and the page does not have is left out.
function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const position = new Map(parts.has("item") || parts.has("selected") ? ids.map((id, i) => [id, i]) : []);
  const by = conditions.findIndex(({ name }) => name === parts.get("by"));
  if (by >= 0) state.condition = by;
  state.item = position.get(parts.get("item")) ?? state.item;
  const weights = parts.get("weights")?.split(",").map(Number);
  if (weights?.length === C && weights.every((weight) => Math.abs(weight) <= 1)) state.weights = weights;
  state.hits = [30, 100].find((n) => n < N && String(n) === parts.get("hits")) ?? K;
  state.marking = parts.get("mark") === "mixture" ? "mixture" : "condition";
  const colour = parts.get("colour");
  state.colouring = colour === null ? "auto" : columnOf.get(colour.slice(1)) ?? null;
  state.query = parts.get("find") ?? "";
  state.filters.clear();
  for (const text of parts.getAll("filter")) {
    const [name, values] = parsed(text) ?? [];
    const column = columnOf.get(name);
    if (!facets.includes(column)) continue;
    if (Array.isArray(values)) {
      const codes = values.map((value) => column.values.indexOf(value)).filter((code) => code >= 0);
      if (codes.length) state.filters.set(column, new Set(codes));
    } else if (values && isAmount(column)) {
      const [low, high] = [values.low, values.high].map((end) => (Number.isFinite(end) ? end : null));
      if (low !== null || high !== null) state.filters.set(column, { low, high });
    }
  }
  const selected = parsed(parts.get("selected") ?? "null");
  state.selected = new Set(Array.isArray(selected) ? selected.map((id) => position.get(id)).filter((item) => item !== undefined) : []);
  const view = parts.get("view")?.split(",").map(Number);
  if (view?.length === 3 && view.every(Number.isFinite)) {
    itemMap.view = { x: view[0], y: view[1], zoom: Math.min(128, Math.max(0.7, view[2])) };
    itemMap.goal = null;
  }
}

// Show the state that the address holds.
function restore() {
  restoring = true;
  readAddress();
  $("query").value = state.query;
  $(`by-${state.condition}`).checked = true;
  makeSliders();
  applyFilters();
  showCondition(state.condition, false);
  restoring = false;
}
