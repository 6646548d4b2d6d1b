"use strict";
// Colours of items by a column, the legend, and names of regions of the map.

const FEW = 10; // values that colours can distinguish
const COLOURS = ["#4269d0", "#e8a400", "#f4553d", "#4fb8a8", "#3a9a4b", "#f78fb3", "#9b59e8", "#8a5a3c", "#7fb3f5", "#a3a800"];
const RAMP = ["#3b4cc0", "#5a78e4", "#7b9ff9", "#9ebeff", "#c0b8c0", "#f2b89c", "#f39879", "#e36c55", "#cc403a", "#b40426"];
const OTHER = "#94938e";

// {column, codes, colours, entries: [{text, code}] | null, range}, or null for a column with one value.
function colouringOf(column) {
  if (column.colouring === undefined) column.colouring = makeColouring(column);
  return column.colouring;
}

function makeColouring(column) {
  const counts = countsOf(column);
  const known = column.values.map((value, code) => ({ value, code })).filter(({ value }) => value !== "");
  if (known.length < 2) return null;
  const scale = isAmount(column) || (column.kind === "ordinal" && known.length > FEW);
  if (scale && known.every(({ value }) => Number.isFinite(Number(value)))) {
    const [low, high] = rangeOf(column);
    if (low === high) return null;
    const codeOf = column.values.map((value) =>
      value === "" ? RAMP.length : Math.min(RAMP.length - 1, Math.floor(((Number(value) - low) / (high - low)) * RAMP.length)),
    );
    return { column, codes: Uint8Array.from(column.codes, (code) => codeOf[code]), colours: [...RAMP, OTHER], range: [low, high], entries: null };
  }
  const ordered = known.sort((a, b) => counts[b.code] - counts[a.code] || a.code - b.code);
  const few = ordered.slice(0, ordered.length > FEW ? FEW - 1 : FEW);
  const covered = few.reduce((sum, { code }) => sum + counts[code], 0);
  if (column.kind === "ordinal") few.sort((a, b) => Number(a.value) - Number(b.value));
  const named = few.map(({ value }) => colourNamed(value));
  const own = named.filter(Boolean).length > 0.7 * few.length;
  const colours = [...few.map((_, i) => (own ? named[i] ?? OTHER : COLOURS[i])), OTHER];
  const codeOf = column.values.map(() => few.length);
  few.forEach(({ code }, i) => (codeOf[code] = i));
  const entries = few.map(({ value }, i) => ({ text: value, code: i }));
  if (covered < N) entries.push({ text: ordered.length > few.length ? "others" : "not known", code: few.length });
  return { column, codes: Uint8Array.from(column.codes, (code) => codeOf[code]), colours, entries, range: null, covered };
}

// The colour that a value names in English, or undefined: red items are best marked red.
function colourNamed(value) {
  const words = value.toLowerCase().split(" ");
  return [words.join(""), words[0]].find((name) => /^[a-z]+$/.test(name) && CSS.supports("color", name) && !CSS.supports("all", name) && name !== "transparent" && name !== "currentcolor");
}

// Where the user has not chosen, colours are those of the condition on screen: others would contradict its map.
function currentColouring() {
  const column = state.colouring === "auto" ? columnOf.get(conditions[state.condition].name) : state.colouring;
  return column ? colouringOf(column) : null;
}

function showColours() {
  const colouring = currentColouring();
  itemMap.only = -1;
  if (colouring) itemMap.colour(colouring.codes, colouring.colours, true);
  else itemMap.colour(new Uint8Array(N), [OTHER], false);
  const choices = columns.filter(colouringOf);
  const box = $("legend");
  box.hidden = !choices.length;
  if (box.hidden) return;
  const option = (value, text) => el("option", { value, selected: value === chosen }, text);
  const chosen = typeof state.colouring === "string" ? "auto" : String(columns.indexOf(state.colouring));
  const select = el(
    "select",
    { id: "colouring", onchange: () => colourBy({ auto: "auto", "-1": null }[select.value] ?? columns[Number(select.value)] ?? null) },
    option("auto", "the condition"),
    ...choices.map((column) => option(String(columns.indexOf(column)), short(column.name, 40))),
    option("-1", "nothing"),
  );
  const entries = el("div", { className: "entries" });
  if (colouring?.entries) {
    for (const { text, code } of colouring.entries) {
      const swatch = el("span", { className: "swatch" });
      swatch.style.background = colouring.colours[code];
      const button = el("button", { type: "button", title: text, "aria-pressed": "false" }, swatch, short(text, 22));
      button.onclick = () => {
        itemMap.only = itemMap.only === code ? -1 : code;
        for (const other of entries.children) other.setAttribute("aria-pressed", String(other === button && itemMap.only === code));
        itemMap.emphasise();
      };
      entries.append(button);
    }
  } else if (colouring) {
    const bar = el("span", { className: "ramp" });
    bar.style.background = `linear-gradient(90deg, ${RAMP.join(", ")})`;
    entries.append(String(colouring.range[0]), bar, String(colouring.range[1]));
  }
  const focused = document.activeElement?.id === "colouring";
  box.replaceChildren(el("label", { className: "by" }, el("span", {}, "Colour by"), select), entries);
  if (focused) select.focus();
  itemMap.resize(); // the legend may have changed its height
}

// colouring: "auto", a column, or null for none.
function colourBy(colouring) {
  state.colouring = colouring;
  showColours();
  showSelection();
  saveAddress();
}

// The point where items are densest on a condition's map: {x, y}.
function densest(c, items) {
  const across = 20;
  const [xs, ys] = places[c];
  const counts = new Float64Array((across + 2) ** 2); // with a margin of empty cells
  const around = [0, 1, -1, across + 2, -across - 2];
  const bin = (value) => 1 + Math.min(across - 1, Math.floor(value * across));
  const cell = (i) => bin(xs[i]) * (across + 2) + bin(ys[i]);
  for (const i of items) for (const step of around) counts[cell(i) + step] += step ? 0.6 : 1;
  const top = counts.indexOf(counts.reduce((a, b) => Math.max(a, b)));
  const near = items.filter((i) => around.some((step) => cell(i) + step === top));
  const mean = (values) => near.reduce((sum, i) => sum + values[i], 0) / near.length;
  return { x: mean(xs), y: mean(ys) };
}

// The values of a condition and where each is densest on its map: [{text, x, y}], the most frequent first.
function regionsOf(c) {
  if (conditions[c].regions) return conditions[c].regions;
  const column = columnOf.get(conditions[c].name);
  const colouring = column && colouringOf(column);
  let regions = [];
  if (colouring?.entries && column.kind !== "set" && colouring.covered >= 0.6 * N) {
    const items = colouring.colours.map(() => []);
    colouring.codes.forEach((code, i) => items[code].push(i));
    regions = colouring.entries
      .filter(({ code }) => code < colouring.colours.length - 1)
      .sort((a, b) => items[b.code].length - items[a.code].length)
      .map(({ text, code }) => ({ text: short(text, 24), ...densest(c, items[code]) }));
  }
  conditions[c].regions = regions;
  return regions;
}
