"use strict";
// Facts about the model: its masks and its errors.

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
