"use strict";
// The selection: what a box, a lasso or keys enclose; and lists that leave the page as CSV.

// A table of items: their ids and all attributes; more: {name: value per item} of further columns, first.
function itemsTable(items, more = []) {
  const head = [...more.map(([name]) => name), "id", ...columns.map(({ name }) => name)];
  return [head, ...items.map((item, i) => [...more.map(([, values]) => values[i]), ids[item], ...columns.map((column) => valueOf(column, item))])];
}

function hitsTable(hits) {
  const more = [["rank", hits.map((_, i) => i + 1)], ["distance", hits.map(({ distance }) => distance)]];
  return itemsTable(hits.map(({ item }) => item), more);
}

// items: an array. more: whether they join the present selection.
function select(items, more = false) {
  state.selected = new Set(more ? [...state.selected, ...items] : items);
  showSelection();
  saveAddress();
}

function toggleSelected(item) {
  if (!state.selected.delete(item)) state.selected.add(item);
  $("said").textContent = `${ids[item]} ${state.selected.has(item) ? "is selected" : "is not selected"}, ${number(state.selected.size)} in all`;
  showSelection();
  saveAddress();
}

function showSelection() {
  const items = [...state.selected];
  itemMap.picked = state.selected;
  itemMap.emphasise();
  $("selection").hidden = !items.length;
  if (!items.length) return;
  $("selection-title").textContent = `${counted(items.length, "item")} selected`;
  const column = currentColouring()?.column;
  const parts = [];
  if (column) {
    const counts = new Map();
    for (const item of items) counts.set(valueOf(column, item), (counts.get(valueOf(column, item)) ?? 0) + 1);
    const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 8);
    parts.push(
      el("h3", {}, column.name),
      el(
        "ul",
        { className: "shares" },
        ...most.map(([value, n]) => {
          const bar = el("span", { className: "bar" });
          bar.style.width = `${(100 * n) / items.length}%`;
          const track = el("span", { className: "track", "aria-hidden": "true" }, bar);
          return el("li", {}, el("span", {}, value || "not known"), el("small", {}, `${number(n)} · ${percent(n / items.length)}`), track);
        }),
      ),
      ...(counts.size > most.length ? [el("p", {}, `and ${counted(counts.size - most.length, "more value")}`)] : []),
    );
  }
  const some = items.slice(0, 20).map((item) => {
    const button = el("button", { type: "button", className: "hit", title: ids[item], "aria-label": ids[item], onclick: () => choose(item, true) }, thumbnail(item, 56));
    return el("li", {}, button);
  });
  $("selected").replaceChildren(...parts, el("ol", { className: pictures ? "hits" : "hits names", "aria-label": "Selected items" }, ...some));
}

function makeSelection() {
  for (const tool of ["box", "lasso"]) {
    $(`tool-${tool}`).onclick = () => {
      itemMap.tool = itemMap.tool === tool ? "move" : tool;
      for (const other of ["box", "lasso"]) $(`tool-${other}`).setAttribute("aria-pressed", String(itemMap.tool === other));
    };
  }
  $("clear-selection").onclick = () => select([]);
  $("selection-csv").onclick = () => saveCsv("selection.csv", itemsTable([...state.selected]));
}
