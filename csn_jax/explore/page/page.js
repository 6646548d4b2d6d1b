"use strict";
// Start: put the parts of the page together.

const itemMap = new ItemMap($("map"), $("dots"), places, {
  order: placeOf ? Int32Array.from(new Uint32Array(bytesOf(CSN_DATA.order).buffer)) : mixed(ids.keys()),
  leads: placeOf ? pictures.leads : N,
  paint,
  ready: (item) => isHere(item) || !hasPicture(item),
  isText: (item) => !hasPicture(item),
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
        ...(hasPicture(item) ? [thumbnail(item, 112)] : []),
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
  chosen: (item) => choose(item),
  toggled: (item) => toggleSelected(item),
  enclosed(items, more) {
    select(items, more);
    $("said").textContent = `${counted(state.selected.size, "item")} selected`;
  },
  drawn: () => pictures && loadWanted(),
  looked: () => saveAddress(),
});

function showCondition(c, glide = true) {
  state.condition = c;
  const { name } = conditions[c];
  $("map").setAttribute("aria-label", `${number(N)} items by ${name}`);
  itemMap.names = regionsOf(c);
  showColours();
  showSelection(); // its shares are those of the column that gives the colours
  markHits();
  itemMap.show(c, glide);
  markStrip();
  saveAddress();
}

// The first selected item: in the densest part of the first condition's most frequent value.
function typical() {
  const column = columnOf.get(conditions[0].name);
  const counts = column ? countsOf(column).map((count, code) => (column.values[code] === "" ? 0 : count)) : [];
  const most = counts.indexOf(counts.reduce((a, b) => Math.max(a, b), 0));
  const items = [...ids.keys()].filter((i) => !column || column.codes[i] === most);
  const { x, y } = densest(0, items);
  const gap = (i) => Math.hypot(places[0][0][i] - x, places[0][1][i] - y);
  return items.reduce((best, i) => (gap(i) < gap(best) ? i : best));
}

// Vectors come after the first picture of the map: they are most of the page.
function loadVectors() {
  const script = el("script", { src: "vectors.js" });
  script.onload = () => {
    vectors = new Vectors(CSN_VECTORS);
    if (vectors.rounded) $("about").textContent += " Neighbours are exact among vectors rounded to 8 bits per number.";
    showItem();
    performance.mark("ready");
  };
  document.body.append(script);
}

const isOfMaps = CSN_DATA.variant === "maps";

function showWords() {
  const names = conditions.map(({ name }) => name);
  const sample = N < CSN_DATA.total ? ` (drawn at random from ${number(CSN_DATA.total)})` : "";
  $("lead").append(
    `${number(N)} items${sample}, with one vector per item. The conditions `,
    ...names.slice(0, 6).flatMap((name, i, all) => [el("b", {}, name), i < all.length - 2 ? ", " : i === all.length - 2 ? " and " : ""]),
    `${names.length > 6 ? ` and ${names.length - 6} more` : ""} weigh the same vectors in ways of their own. ` +
      "Switch the condition to see the items regroup; select an item to see its nearest neighbours.",
  );
  if (C === 1) $("lead").textContent = `${number(N)} items${sample} by ${names[0]}. Select an item to see its nearest neighbours.`;
  document.title = `What counts as alike? ${listed(names.slice(0, 4))} · ${CSN_DATA.run}`;
  const from = CSN_DATA.split
    ? `Run ${CSN_DATA.run}: ${CSN_DATA.variant}${isOfMaps ? "" : " masks"}, step ${number(CSN_DATA.step)}, ${CSN_DATA.split} split${sample}.`
    : `File ${CSN_DATA.run}${sample}.`;
  const by = CSN_DATA.sampled ? "Maps by t-SNE of a sample of the items; the others are beside their nearest ones in it." : "Maps by t-SNE.";
  $("about").textContent =
    `${from} ${by} Seed ${CSN_DATA.seed}; each map is aligned with the first. Items that are near each other are similar; the gaps ` +
    `between groups mean little. Neighbours are found among these ${number(N)} items by their vectors, not on the map.` +
    (CSN_DATA.share < 1 ? ` Of wide vectors, the page has the first principal axes, with ${percent(CSN_DATA.share)} of the variance.` : "");
}

function start() {
  showWords();
  conditions.forEach(({ name }, c) => {
    const radio = el("input", { type: "radio", name: "condition", id: `by-${c}`, checked: c === 0, onchange: () => showCondition(c) });
    $("switch").append(el("label", { title: name }, radio, el("span", {}, name)));
  });
  $("zoom-in").onclick = () => itemMap.zoom(1.6, undefined, undefined, true);
  $("zoom-out").onclick = () => itemMap.zoom(1 / 1.6, undefined, undefined, true);
  $("zoom-all").onclick = () => itemMap.all();
  makeFind();
  makeSelection();
  makeMixture();
  state.item = typical();
  restore();
  $("masks-section").hidden = isOfMaps; // blocks of ones
  if (!isOfMaps) showMasks();
  showErrors();
  addEventListener("hashchange", restore);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    redraw();
    $("card").dataset.item = "";
    showItem();
    if (!isOfMaps) showMasks();
    itemMap.repaint();
  });
  requestAnimationFrame(() => setTimeout(loadVectors));
}

// Whether nothing is on its way any more.
const isSettled = () => vectors !== null && !itemMap.waiting && !onTheirWay.size && !waiting.size;

start();
