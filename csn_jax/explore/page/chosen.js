"use strict";
// The chosen item, its neighbours under every condition, and under a mixture.

function choose(item, look = false) {
  state.item = item;
  if (look) itemMap.look({ x: itemMap.x[item], y: itemMap.y[item], zoom: Math.max(itemMap.view.zoom, 4) }, true);
  showItem();
  $("said").textContent = `Chosen: ${ids[item]}`;
  saveAddress();
}

// A row of neighbours, marked as alike or not by a column.
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
  const link = CSN_DATA.link
    ? [el("a", { id: "link", href: CSN_DATA.link.replaceAll("{id}", () => encoded(ids[item])), target: "_blank", rel: "noopener noreferrer" }, "Open this item ↗")]
    : [];
  $("chosen").replaceChildren(
    ...(pictures && hasPicture(item) ? [thumbnail(item, 104)] : []),
    el(
      "div",
      {},
      el("h3", { id: "chosen-id" }, ids[item]),
      el("dl", {}, ...values.slice(0, 8).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { title: value }, value)))),
      ...link,
    ),
  );
  itemMap.selected = item;
  if (!vectors) {
    $("strips").replaceChildren(el("p", {}, "Loading the vectors …"));
  } else {
    $("strips").replaceChildren(...conditions.map(({ name }, c) => stripOf(name, c)));
  }
  $("among").textContent = state.passing ? "Only items that match the search and the filters are shown." : "";
  showMixture();
  markHits();
  markStrip();
}

// Half of a surrogate pair has no form in an address.
const encoded = (text) => encodeURIComponent(text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd"));

function stripOf(name, c) {
  const column = columnOf.get(name);
  const { list, same, known } = strip(`Nearest by ${name}`, hitsOf(c), column);
  const { kind } = conditions[c];
  const word = kind === "numeric" || kind === "rank" ? "near" : kind === "set" ? "share a member" : "the same";
  const section = el(
    "section",
    { className: "strip" },
    el("h4", {}, "Nearest by ", el("b", {}, name), known ? el("small", {}, `${same} of ${known} ${word}`) : ""),
    list,
  );
  section.dataset.condition = String(c);
  return section;
}

function markStrip() {
  for (const section of $("strips").children) section.classList.toggle("active", section.dataset.condition === String(state.condition));
}

// Mark hits on the map: those of the condition on screen, or of the mixture.
function markHits() {
  itemMap.marks = hitsOf(state.marking === "mixture" ? -1 : state.condition).map(({ item }) => item);
  $("mark-mixture").setAttribute("aria-pressed", String(state.marking === "mixture"));
  itemMap.refresh();
}

// ---- the mixture

function makeSliders() {
  $("mixture").hidden = C < 2;
  $("sliders").replaceChildren();
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
      if (state.marking === "mixture") markHits();
      saveAddress();
    };
    show();
    $("sliders").append(el("label", { htmlFor: slider.id, title: name }, name), slider, output);
  });
  $("hits").value = String(state.hits);
}

function makeMixture() {
  $("hits").replaceChildren(...[K, 30, 100].filter((n) => n < N).map((n) => el("option", { value: String(n) }, number(n))));
  $("hits").onchange = () => {
    state.hits = Number($("hits").value);
    showMixture();
    markHits();
    saveAddress();
  };
  $("mark-mixture").onclick = () => {
    state.marking = state.marking === "mixture" ? "condition" : "mixture";
    markHits();
    saveAddress();
  };
  $("hits-csv").onclick = () => saveCsv("hits.csv", hitsTable(hitsOf(-1)));
  makeSliders();
}

function showMixture() {
  const empty = dimensionWeights(masks, state.weights).every((weight) => weight === 0);
  const content = empty
    ? el("p", { className: "empty" }, "All weights are zero: move a slider.")
    : strip("Nearest by your mixture", hitsOf(-1), null).list;
  $("mixed").replaceChildren(content);
}
