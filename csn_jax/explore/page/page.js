"use strict";
// The page around the map: the selected item, its neighbours, the mixture, masks and errors. Text from the data is only
// ever set as text.

const { ids, conditions, columns } = CSN_DATA;
const N = ids.length;
const C = conditions.length;
const D = CSN_DATA.dimensions.length;
const K = Math.min(10, N - 1); // neighbours
const FEW = 10; // values that colours can distinguish
const COLOURS = ["#4269d0", "#e8a400", "#f4553d", "#4fb8a8", "#3a9a4b", "#f78fb3", "#9b59e8", "#8a5a3c", "#7fb3f5", "#a3a800"];
const RAMP = ["#3b4cc0", "#5a78e4", "#7b9ff9", "#9ebeff", "#c0b8c0", "#f2b89c", "#f39879", "#e36c55", "#cc403a", "#b40426"];
const OTHER = "#94938e";
const CLEARLY = 0.1; // of a numeric column's range; smaller gaps are near

const vectors = new Float32Array(bytesOf(CSN_VECTORS).buffer);
const masks = conditions.map((condition) => condition.mask);
const single = conditions.map((_, c) => dimensionWeights(masks, conditions.map((_, other) => Number(other === c))));
const places = (() => {
  const packed = new Uint16Array(bytesOf(CSN_DATA.maps).buffer); // [C, N, 2]
  return conditions.map((_, c) =>
    [0, 1].map((axis) => Float32Array.from({ length: N }, (_, i) => packed[(c * N + i) * 2 + axis] / 65535)),
  );
})();
const columnOf = new Map(columns.map((column) => [column.name, column]));
const state = { condition: 0, item: 0, weights: conditions.map((_, c) => (c < 2 ? 1 : 0)), colouring: null };

const $ = (id) => document.getElementById(id);

// An element with properties (data and aria attributes too) and children; strings become text.
function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const number = (value) => value.toLocaleString("en");
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const valueOf = (column, item) => column.values[column.codes[item]];
const listed = (words) => (words.length > 1 ? `${words.slice(0, -1).join(", ")} and ${words.at(-1)}` : words[0]);

// ---- thumbnails

const sheets = []; // canvases: fast to draw from, and ink is drawn in the colour of the text
const pictures = CSN_DATA.pictures;

async function loadSheets() {
  await Promise.all(
    pictures.files.map(async (file, i) => {
      const image = new Image();
      image.src = file;
      await image.decode();
      sheets[i] = { image, canvas: el("canvas", { width: image.width, height: image.height }) };
      tint(sheets[i]);
      itemMap.refresh();
    }),
  );
  showItem();
}

function tint({ image, canvas }) {
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "copy";
  context.drawImage(image, 0, 0);
  if (!pictures.ink) return;
  context.globalCompositeOperation = "source-in";
  context.fillStyle = getComputedStyle(document.body).getPropertyValue("--ink");
  context.fillRect(0, 0, canvas.width, canvas.height);
}

function paint(context, item, x, y, size, colour) {
  if (!pictures) {
    const style = getComputedStyle(document.body);
    const middle = y + size / 2;
    context.fillStyle = colour;
    context.beginPath();
    context.arc(x + size / 2, middle - 7, 3.5, 0, 2 * Math.PI);
    context.fill();
    context.font = "500 12px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.strokeStyle = style.getPropertyValue("--page");
    context.lineWidth = 4;
    context.strokeText(nameOf(item, 12), x + size / 2, middle + 6, size - 6);
    context.fillStyle = style.getPropertyValue("--ink");
    context.fillText(nameOf(item, 12), x + size / 2, middle + 6, size - 6);
    return;
  }
  const across = Math.floor(pictures.sheet / pictures.side);
  const sheet = sheets[Math.floor(item / across ** 2)];
  if (!sheet) return;
  const place = item % across ** 2;
  const { side } = pictures;
  context.drawImage(sheet.canvas, (place % across) * side, Math.floor(place / across) * side, side, side, x, y, size, size);
}

const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

// A short name: the last part of a path, shortened in the middle.
function nameOf(item, length) {
  const name = ids[item].replace(/^.*\/(?=.)/, "");
  const half = Math.floor(length / 2);
  return name.length > length ? `${name.slice(0, half - 1)}…${name.slice(-half)}` : name;
}

// A thumbnail with a side in pixels, or a name if there are no pictures.
function thumbnail(item, size) {
  if (!pictures) return el("span", { className: "name" }, nameOf(item, 14));
  const canvas = el("canvas", { width: 2 * size, height: 2 * size, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  paint(context, item, 0, 0, 2 * size);
  return canvas;
}

// ---- the values of an item

function valuesOf(item) {
  return columns.map((column) => [column.name, valueOf(column, item)]).filter(([, value]) => value !== "");
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
    const counts = new Map(column.values.map((value) => [value, 0]));
    for (const code of column.codes) counts.set(column.values[code], counts.get(column.values[code]) + 1);
    let below = 0;
    for (const value of known) {
      column.scale.set(value, below + counts.get(value) / 2);
      below += counts.get(value);
    }
  }
  column.scale.width = column.scale.get(known.at(-1)) - column.scale.get(known[0]);
  return column.scale;
}

function rangeOf(column) {
  const numbers = column.values.filter((value) => value !== "").map(Number);
  return [numbers.reduce((a, b) => Math.min(a, b)), numbers.reduce((a, b) => Math.max(a, b))];
}

// ---- colours by a column: {column, codes, colours, entries: [{text, code}] | null, range}

function colouringOf(column) {
  const counts = column.values.map(() => 0);
  for (const code of column.codes) counts[code]++;
  const known = column.values.map((value, code) => ({ value, code })).filter(({ value }) => value !== "");
  if (known.length < 2 || column.kind === "set") return null;
  const numbers = known.map(({ value }) => Number(value));
  const scale = isAmount(column) || (column.kind === "ordinal" && known.length > FEW);
  if (scale && numbers.every(Number.isFinite)) {
    const [low, high] = rangeOf(column);
    if (low === high) return null;
    const codeOf = column.values.map((value) =>
      value === "" ? RAMP.length : Math.min(RAMP.length - 1, Math.floor(((Number(value) - low) / (high - low)) * RAMP.length)),
    );
    return { column, codes: column.codes.map((code) => codeOf[code]), colours: [...RAMP, OTHER], range: [low, high], entries: null };
  }
  const ordered = known.sort((a, b) => counts[b.code] - counts[a.code] || a.code - b.code);
  const few = ordered.slice(0, ordered.length > FEW ? FEW - 1 : FEW);
  const covered = few.reduce((sum, { code }) => sum + counts[code], 0);
  if (covered < 0.6 * N) return null;
  if (column.kind === "ordinal") few.sort((a, b) => Number(a.value) - Number(b.value));
  const named = few.map(({ value }) => colourNamed(value));
  const own = named.filter(Boolean).length > 0.7 * few.length;
  const colours = [...few.map((_, i) => (own ? named[i] ?? OTHER : COLOURS[i])), OTHER];
  const codeOf = column.values.map(() => few.length);
  few.forEach(({ code }, i) => (codeOf[code] = i));
  const entries = few.map(({ value }, i) => ({ text: value, code: i }));
  if (covered < N) entries.push({ text: ordered.length > few.length ? "others" : "not known", code: few.length });
  return { column, codes: column.codes.map((code) => codeOf[code]), colours, entries, range: null };
}

// The colour that a value names in English, or undefined: red items are best marked red.
function colourNamed(value) {
  const words = value.toLowerCase().split(" ");
  return [words.join(""), words[0]].find((name) => /^[a-z]+$/.test(name) && CSS.supports("color", name) && !CSS.supports("all", name) && name !== "transparent" && name !== "currentcolor");
}

const colourings = columns.map(colouringOf).filter(Boolean);

function colourBy(colouring) {
  state.colouring = colouring;
  itemMap.only = -1;
  if (colouring) itemMap.colour(colouring.codes, colouring.colours, true);
  else itemMap.colour(new Uint8Array(N), [OTHER], false);
  const box = $("legend");
  box.hidden = !colourings.length;
  if (box.hidden) return;
  const select = el(
    "select",
    { id: "colouring", onchange: () => colourBy(colourings[Number(select.value)] ?? null) },
    ...colourings.map((other, i) => el("option", { value: String(i), selected: other === colouring }, other.column.name)),
    el("option", { value: "-1", selected: !colouring }, "nothing"),
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
        itemMap.refresh();
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
  const column = columnOf.get(conditions[c].name);
  const colouring = column && colouringOf(column);
  if (!colouring?.entries) return [];
  return colouring.entries
    .filter(({ code }) => code < colouring.colours.length - 1)
    .map(({ text, code }) => ({ text, items: [...colouring.codes.keys()].filter((i) => colouring.codes[i] === code) }))
    .sort((a, b) => b.items.length - a.items.length)
    .map(({ text, items }) => ({ text: short(text, 24), ...densest(c, items) }));
}

// ---- the map

const itemMap = new ItemMap($("map"), places, {
  paint,
  text: !pictures,
  least: !pictures ? 84 : pictures.ink ? 25 : 34,
  overlap: !pictures ? 1 : pictures.ink ? 1.9 : 1.35, // glyphs are airy
  pads() {
    const covered = $("map").parentElement.querySelector(".corner").offsetHeight;
    return { top: $("switch").parentElement.offsetTop + $("switch").offsetHeight + 32, bottom: covered + 40 };
  },
  focused(item, x, y) {
    const card = $("card");
    card.hidden = item < 0;
    if (item < 0) return;
    if (card.dataset.item !== String(item)) {
      card.dataset.item = String(item);
      card.replaceChildren(
        ...(pictures ? [thumbnail(item, 112)] : []),
        el("strong", {}, ids[item]),
        ...valuesOf(item).slice(0, 5).map(([name, value]) => el("span", {}, el("i", {}, `${name} `), value)),
      );
    }
    const gap = Math.max(44, 1.25 * itemMap.thumb) / 2 + 10;
    const right = x + gap + card.offsetWidth < itemMap.width - 4;
    card.style.left = `${right ? x + gap : Math.max(4, x - gap - card.offsetWidth)}px`;
    card.style.top = `${Math.max(4, Math.min(y - 24, itemMap.height - card.offsetHeight - 4))}px`;
  },
  said(item) {
    $("said").textContent = [ids[item], ...valuesOf(item).map((pair) => pair.join(" "))].join(", ");
  },
  chosen: choose,
});

function showCondition(c, glide = true) {
  state.condition = c;
  const { name } = conditions[c];
  $("map").setAttribute("aria-label", `${number(N)} items by ${name}`);
  itemMap.names = regionsOf(c);
  itemMap.marks = nearest(vectors, D, state.item, single[c], K).map(({ item }) => item);
  itemMap.show(c, glide);
  markStrip();
}

function markStrip() {
  for (const strip of $("strips").children) strip.classList.toggle("active", strip.dataset.condition === String(state.condition));
}

function choose(item) {
  state.item = item;
  showItem();
  $("said").textContent = `Chosen: ${ids[item]}`;
}

// ---- the selected item

function strip(title, hits, column) {
  const list = el("ol", { className: pictures ? "hits" : "hits names", "aria-label": title });
  let [same, known] = [0, 0];
  hits.forEach(({ item, distance }, i) => {
    const like = column ? alike(column, state.item, item) : null;
    if (like !== null) known++;
    if (like) same++;
    const about = column && valueOf(column, item) !== "" ? `, ${column.name} ${valueOf(column, item)}` : "";
    const button = el(
      "button",
      {
        type: "button",
        className: like === null ? "hit" : like ? "hit alike" : "hit unlike",
        title: `${ids[item]}${about}\ndistance ${distance.toFixed(3)}`,
        "aria-label": `${i + 1}. ${ids[item]}${about}, distance ${distance.toFixed(3)}`,
        onclick: () => choose(item),
      },
      thumbnail(item, 56),
    );
    button.dataset.item = String(item);
    button.dataset.distance = String(distance);
    list.append(el("li", {}, button));
  });
  return { list, same, known };
}

function showItem() {
  const { item } = state;
  const values = valuesOf(item);
  $("chosen").replaceChildren(
    ...(pictures ? [thumbnail(item, 104)] : []),
    el(
      "div",
      {},
      el("h3", { id: "chosen-id" }, ids[item]),
      el("dl", {}, ...values.slice(0, 8).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { title: value }, value)))),
    ),
  );
  $("strips").replaceChildren(
    ...conditions.map(({ name, kind }, c) => {
      const column = columnOf.get(name);
      const { list, same, known } = strip(`Nearest by ${name}`, nearest(vectors, D, item, single[c], K), column);
      const word = kind === "numeric" || kind === "rank" ? "near" : kind === "set" ? "share a member" : "the same";
      const section = el(
        "section",
        { className: "strip" },
        el("h4", {}, "Nearest by ", el("b", {}, name), known ? el("small", {}, `${same} of ${known} ${word}`) : ""),
        list,
      );
      section.dataset.condition = String(c);
      return section;
    }),
  );
  itemMap.selected = item;
  itemMap.marks = nearest(vectors, D, item, single[state.condition], K).map((hit) => hit.item);
  itemMap.refresh();
  markStrip();
  showMixture();
}

// ---- the mixture

function makeSliders() {
  $("mixture").hidden = C < 2;
  conditions.forEach(({ name }, c) => {
    const output = el("output", { htmlFor: `weight-${c}` });
    const slider = el("input", { id: `weight-${c}`, type: "range", min: "-1", max: "1", step: "0.05" });
    slider.value = String(state.weights[c]);
    const show = () => {
      const weight = Number(slider.value);
      output.textContent = weight.toFixed(2).replace("-", "−");
      slider.setAttribute("aria-valuetext", `${output.textContent} ${name}`);
    };
    slider.oninput = () => {
      state.weights[c] = Number(slider.value);
      show();
      showMixture();
    };
    show();
    $("sliders").append(el("label", { htmlFor: slider.id, title: name }, name), slider, output);
  });
}

function showMixture() {
  const weights = dimensionWeights(masks, state.weights);
  const empty = weights.every((weight) => weight === 0);
  const content = empty
    ? el("p", { className: "empty" }, "All weights are zero: move a slider.")
    : strip("Nearest by your mixture", nearest(vectors, D, state.item, weights, K), null).list;
  $("mixed").replaceChildren(content);
}

// ---- masks and errors

function showMasks() {
  const most = masks.reduce((top, mask) => mask.reduce((a, b) => Math.max(a, b), top), 0);
  const live = (d) => masks.filter((mask) => mask[d] > 0).length;
  const order = CSN_DATA.dimensions;
  const used = order.filter((d) => live(d) > 0).length;
  const shared = order.filter((d) => live(d) > 1).length;
  $("masks-text").textContent =
    `Each item is one vector of ${D} numbers. The mask of a condition weighs each of them: a stronger colour is a larger weight. ` +
    `${used} of ${D} dimensions are in use${C > 1 ? `, ${shared} by several conditions` : ""}.`;
  const read = el("p", { className: "read", "aria-live": "polite" });
  let at = 0;
  const say = () => {
    const parts = masks.map((mask, c) => `${conditions[c].name} ${mask[order[at]].toFixed(2)}`);
    read.textContent = `dimension ${order[at]}: ${parts.join(", ")}`;
  };
  const grid = el("div", { className: "heat", tabIndex: 0, role: "group", "aria-label": "Weights of the dimensions; arrow keys move between them" });
  conditions.forEach(({ name, mask }) => {
    const own = mask.filter((weight) => weight > 0).length;
    const row = el("canvas", { width: D * 8, height: 8, role: "img", "aria-label": `${name} uses ${own} of ${D} dimensions` });
    const context = row.getContext("2d");
    order.forEach((d, i) => {
      context.globalAlpha = Math.max(0, mask[d]) / (most || 1);
      context.fillStyle = getComputedStyle(document.body).getPropertyValue("--heat");
      context.fillRect(i * 8, 0, 7, 8);
    });
    grid.append(el("span", { className: "name", title: name }, name), row, el("span", { className: "own" }, `uses ${own}`));
  });
  grid.onpointermove = (event) => {
    if (event.target.tagName !== "CANVAS") return;
    const box = event.target.getBoundingClientRect();
    at = Math.min(D - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * D)));
    say();
  };
  grid.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    at = (at + step + D) % D;
    say();
  };
  say();
  $("masks").replaceChildren(grid, read);
}

function showErrors() {
  const { results } = CSN_DATA;
  if (!results) return;
  $("errors").hidden = false;
  $("errors-text").textContent =
    "A triplet asks which of two items is more similar to a third under the condition. The table has the share of wrong " +
    `answers on the ${results.split} split; guessing gives 50 %.`;
  $("errors-rows").replaceChildren(
    ...results.rows.map(([name, error, [low, high], triplets], i) => {
      const bar = el("span", { className: "bar" });
      bar.style.width = `${Math.min(100, 200 * error)}%`;
      return el(
        "tr",
        { className: i === results.rows.length - 1 ? "total" : "" },
        el("th", { scope: "row" }, name, el("span", { className: "track", "aria-hidden": "true" }, bar)),
        el("td", {}, percent(error)),
        el("td", {}, `${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)}`),
        el("td", {}, number(triplets)),
      );
    }),
  );
}

// ---- start

// The first selected item: in the densest part of the first condition's most frequent value.
function typical() {
  const column = columnOf.get(conditions[0].name);
  const counts = column ? column.values.map((value, code) => (value === "" ? 0 : column.codes.filter((other) => other === code).length)) : [];
  const most = counts.indexOf(counts.reduce((a, b) => Math.max(a, b), 0));
  const items = [...ids.keys()].filter((i) => !column || column.codes[i] === most);
  const { x, y } = densest(0, items);
  const gap = (i) => Math.hypot(places[0][0][i] - x, places[0][1][i] - y);
  return items.reduce((best, i) => (gap(i) < gap(best) ? i : best));
}

function start() {
  const names = conditions.map(({ name }) => name);
  const sample = N < CSN_DATA.total ? ` (drawn at random from ${number(CSN_DATA.total)})` : "";
  $("lead").append(
    `${number(N)} items${sample}, with one vector per item. The conditions `,
    ...names.slice(0, 6).flatMap((name, i, all) => [el("b", {}, name), i < all.length - 2 ? ", " : i === all.length - 2 ? " and " : ""]),
    `${names.length > 6 ? ` and ${names.length - 6} more` : ""} weigh the same vectors with masks of their own. ` +
      "Switch the condition to see the items regroup; select an item to see its nearest neighbours.",
  );
  if (C === 1) $("lead").textContent = `${number(N)} items${sample} by ${names[0]}. Select an item to see its nearest neighbours.`;
  document.title = `What counts as alike? ${listed(names.slice(0, 4))} · ${CSN_DATA.run}`;
  conditions.forEach(({ name }, c) => {
    const radio = el("input", { type: "radio", name: "condition", id: `by-${c}`, checked: c === 0, onchange: () => showCondition(c) });
    $("switch").append(el("label", { title: name }, radio, el("span", {}, name)));
  });
  $("zoom-in").onclick = () => itemMap.zoom(1.6, undefined, undefined, true);
  $("zoom-out").onclick = () => itemMap.zoom(1 / 1.6, undefined, undefined, true);
  $("zoom-all").onclick = () => itemMap.all();
  $("about").textContent =
    `Run ${CSN_DATA.run}: ${CSN_DATA.variant} masks, step ${number(CSN_DATA.step)}, ${CSN_DATA.split} split${sample}. ` +
    `Maps by t-SNE, seed ${CSN_DATA.seed}, each aligned with the first. Items that are near each other are similar; the gaps ` +
    "between groups mean little. Neighbours are exact.";
  colourBy(colourings.find(({ column }) => conditions.some(({ name }) => name === column.name)) ?? colourings[0] ?? null);
  state.item = typical();
  makeSliders();
  showCondition(0, false);
  showItem();
  showMasks();
  showErrors();
  if (pictures) loadSheets();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    sheets.forEach(tint);
    $("card").dataset.item = "";
    showItem();
    showMasks();
  });
  // Compute the other maps' thumbnails in advance.
  conditions.forEach((_, c) => setTimeout(() => itemMap.level(c), 300 + 200 * c));
}

start();
