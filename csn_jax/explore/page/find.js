"use strict";
// The search box and the filters: which items pass, and how many items each value would leave.

const LISTED = 40; // values of a filter that are shown; the search box finds the others
const FOUND = 8; // suggestions of each kind

// Columns that a filter is of use for: not those where nearly every item has a value of its own.
const facets = columns.filter((column) => column.values.length > 1 && (isAmount(column) || column.values.length <= Math.max(50, N / 2)));
const lowered = (texts) => texts.map((text) => text.toLowerCase());
let lowerIds = null; // made when the box is first used

// Per code of a column whether it passes a filter, or null if the filter is not set.
function allowedCodes(column) {
  const filter = state.filters.get(column);
  if (!filter) return null;
  if (filter instanceof Set) return Uint8Array.from(column.values, (_, code) => Number(filter.has(code)));
  return Uint8Array.from(column.values, (value) => {
    const amount = value === "" ? NaN : Number(value);
    return Number(amount >= (filter.low ?? -Infinity) && amount <= (filter.high ?? Infinity));
  });
}

// Which items have the text of the search box in their id or in a value; null if the box is empty.
function matching(query) {
  const text = query.trim().toLowerCase();
  if (!text) return null;
  lowerIds ??= lowered(ids);
  const found = Uint8Array.from(lowerIds, (id) => Number(id.includes(text)));
  for (const column of columns) {
    column.lower ??= lowered(column.values);
    const codes = Uint8Array.from(column.lower, (value) => Number(value.includes(text)));
    if (codes.includes(1)) column.codes.forEach((code, i) => (found[i] |= codes[code]));
  }
  return found;
}

// Apply the query and all filters; then per facet the number of items with each value that pass all other filters.
function applyFilters() {
  const found = matching(state.query);
  const tests = facets.map((column) => ({ column, allowed: allowedCodes(column) }));
  const active = tests.filter(({ allowed }) => allowed);
  const failed = new Uint8Array(N); // by how many filters
  const last = new Uint8Array(N); // the facet by which it failed
  tests.forEach(({ column, allowed }, f) => {
    if (!allowed) return;
    const { codes } = column;
    for (let i = 0; i < N; i++) {
      if (!allowed[codes[i]]) {
        failed[i]++;
        last[i] = f;
      }
    }
  });
  facets.forEach((column, f) => {
    const counts = new Float64Array(column.values.length);
    const { codes } = column;
    for (let i = 0; i < N; i++) {
      if ((!found || found[i]) && (failed[i] === 0 || (failed[i] === 1 && last[i] === f))) counts[codes[i]]++;
    }
    column.left = counts;
  });
  state.passing = active.length || found ? Uint8Array.from(failed, (n, i) => Number(n === 0 && (!found || found[i] === 1))) : null;
  itemMap.allow(state.passing);
  const n = state.passing ? state.passing.reduce((sum, one) => sum + one, 0) : N;
  $("matches").textContent = state.passing ? `${number(n)} of ${counted(N, "item")} match` : `${counted(N, "item")}`;
  $("clear-filters").hidden = $("matches-csv").hidden = !state.passing;
  for (const facet of $("facets").children) facet.show();
  showItem();
  saveAddress();
}

function setFilter(column, filter) {
  const empty = filter instanceof Set ? !filter.size : filter.low === null && filter.high === null;
  if (empty) state.filters.delete(column);
  else state.filters.set(column, filter);
  applyFilters();
}

function toggleValue(column, code) {
  const filter = new Set(state.filters.get(column) ?? []);
  if (!filter.delete(code)) filter.add(code);
  setFilter(column, filter);
}

function clearFilters() {
  state.filters.clear();
  state.query = $("query").value = "";
  $("found").hidden = true;
  applyFilters();
}

// What a filter lets through, in words.
function filterText(column) {
  const filter = state.filters.get(column);
  if (!filter) return "any";
  if (filter instanceof Set) return [...filter].map((code) => column.values[code] || "not known").join(", ");
  if (filter.low === null) return `up to ${filter.high}`;
  return filter.high === null ? `from ${filter.low}` : `${filter.low} to ${filter.high}`;
}

// A facet that can be opened: boxes with counts, or the ends of a range.
function facetOf(column) {
  const chosen = el("span", { className: "chosen-values" });
  const summary = el("summary", {}, el("b", {}, column.name), " ", chosen);
  const body = el("div", { className: "facet" });
  const facet = el("details", {}, summary, body);
  facet.show = () => {
    chosen.textContent = short(filterText(column), 60);
    facet.classList.toggle("set", state.filters.has(column));
    if (!facet.open) return;
    const focused = body.contains(document.activeElement) ? document.activeElement.dataset.code : null;
    if (isAmount(column)) showRange(column, body);
    else showValues(column, body);
    if (focused) body.querySelector(`[data-code="${focused}"]`)?.focus();
  };
  facet.ontoggle = facet.show;
  return facet;
}

function showValues(column, body) {
  const filter = state.filters.get(column) ?? new Set();
  const ordered = [...column.values.keys()].sort((a, b) => filter.has(b) - filter.has(a) || column.left[b] - column.left[a] || a - b);
  const shown = ordered.slice(0, Math.max(LISTED, filter.size));
  body.replaceChildren(
    ...shown.map((code) => {
      const box = el("input", { type: "checkbox", checked: filter.has(code), onchange: () => toggleValue(column, code) });
      box.dataset.code = String(code);
      const text = column.values[code] || "not known";
      return el("label", { title: text }, box, el("span", {}, text), el("small", {}, number(column.left[code])));
    }),
    ...(ordered.length > shown.length ? [el("p", {}, `${number(ordered.length - shown.length)} more values: type one into the search box.`)] : []),
  );
}

function showRange(column, body) {
  if (body.childElementCount) {
    for (const input of body.querySelectorAll("input")) if (document.activeElement !== input) input.value = state.filters.get(column)?.[input.dataset.code] ?? "";
    return;
  }
  const range = rangeOf(column);
  const inputs = ["low", "high"].map((end, i) => {
    const input = el("input", { type: "number", step: "any", placeholder: String(range[i]), value: state.filters.get(column)?.[end] ?? "", "aria-label": `${column.name} ${i ? "at most" : "at least"}` });
    input.dataset.code = end;
    input.oninput = () => {
      const [low, high] = inputs.map(({ value }) => (value === "" ? null : Number(value)));
      setFilter(column, { low, high });
    };
    return input;
  });
  body.replaceChildren(el("div", { className: "range" }, inputs[0], " to ", inputs[1]));
}

// ---- the search box and its suggestions

function suggest() {
  const text = state.query.trim().toLowerCase();
  const list = $("found");
  list.replaceChildren();
  list.hidden = !text;
  if (!text) return;
  const values = facets
    .filter((column) => !isAmount(column))
    .flatMap((column) => [...column.values.keys()].filter((code) => column.lower[code].includes(text)).map((code) => ({ column, code })))
    .sort((a, b) => a.column.values[a.code].length - b.column.values[b.code].length)
    .slice(0, FOUND);
  const items = [];
  for (let i = 0; i < N && items.length < FOUND; i++) if (lowerIds[i].includes(text)) items.push(i);
  const entry = (act, ...parts) => el("li", {}, el("button", { type: "button", onclick: act }, ...parts));
  list.append(
    ...values.map(({ column, code }) =>
      entry(
        () => {
          state.query = $("query").value = "";
          list.hidden = true;
          const filter = new Set(state.filters.get(column) ?? []).add(code);
          setFilter(column, filter);
        },
        el("i", {}, `${short(column.name, 24)} `),
        short(column.values[code], 60),
      ),
    ),
    ...items.map((item) => entry(() => choose(item, true), el("i", {}, "item "), short(ids[item], 80))),
  );
  if (!list.childElementCount) list.append(el("li", {}, "Nothing matches."));
}

function makeFind() {
  let timer = 0;
  $("query").oninput = () => {
    clearTimeout(timer);
    const run = () => {
      state.query = $("query").value;
      applyFilters();
      suggest();
    };
    timer = setTimeout(run, N > 20_000 ? 150 : 0);
  };
  $("query").onkeydown = (event) => {
    const first = $("found").querySelector("button");
    if (event.key === "ArrowDown" && first) first.focus();
    else if (event.key === "Escape") clearFilters();
    else return;
    event.preventDefault();
  };
  $("found").onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const buttons = [...$("found").querySelectorAll("button")];
    (buttons[buttons.indexOf(document.activeElement) + step] ?? $("query")).focus();
  };
  $("clear-filters").onclick = clearFilters;
  $("matches-csv").onclick = () => saveCsv("matches.csv", itemsTable([...ids.keys()].filter(passes)));
  $("facets").replaceChildren(...facets.map(facetOf));
}
