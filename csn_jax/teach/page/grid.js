"use strict";
// One item and twelve candidates: select all that are like it.

const KEYS = ["Q", "W", "E", "R", "T", "Y", "A", "S", "D", "F", "G", "H"].map((letter) => `Key${letter}`); // by place on any keyboard
let selected = new Set();

function showGrid({ item, shown }) {
  $("question").textContent = `Which are alike, by ${condition}?`;
  const facts = valuesOf(item).slice(0, 4).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  const beside = hasPicture(item) ? [el("div", { className: "facts" }, el("strong", {}, nameOf(item)), el("dl", {}, ...facts))] : [];
  $("shown").replaceChildren(portrait(item, 180), ...beside);
  selected = new Set();
  $("cells").replaceChildren(
    ...shown.map((other, i) => {
      const key = el("kbd", { "aria-hidden": "true" }, KEYS[i].slice(3));
      const button = el("button", { type: "button", className: "cell", "aria-pressed": "false", "aria-label": nameOf(other) }, portrait(other, 120, 3), key);
      button.onclick = () => toggle(i);
      return button;
    }),
  );
  showDone();
}

function toggle(i) {
  const other = question.shown[i];
  if (other === undefined) return;
  if (!selected.delete(other)) selected.add(other);
  $("cells").children[i].setAttribute("aria-pressed", String(selected.has(other)));
  showDone();
}

function showDone() {
  const words = selected.size ? `Next: ${number(selected.size)} alike` : "Next: none is alike";
  $("done").replaceChildren(el("kbd", {}, "↵"), ` ${words}`);
}

const finishGrid = () => answer({ alike: question.shown.filter((other) => selected.has(other)) });

function keyOfGrid(event) {
  const at = KEYS.indexOf(event.code);
  const cells = [...$("cells").children];
  const here = cells.indexOf(document.activeElement);
  const across = getComputedStyle($("cells")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
  if (at >= 0) toggle(at);
  else if (event.key === "Enter" && document.activeElement.tagName !== "BUTTON") finishGrid();
  else if (event.key === "Enter" && here >= 0) finishGrid(); // Space selects
  else if (step) cells[here < 0 ? 0 : Math.min(cells.length - 1, Math.max(0, here + step))].focus();
  else return false;
  return true;
}
