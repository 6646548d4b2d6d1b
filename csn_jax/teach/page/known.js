"use strict";
// What the answers have taught so far: the error with its interval, advice, and answers that contradict each other.

const WIDEST = 0.5; // of the scale of errors: guessing

// The number of answers that are not "cannot say".
const givenIn = (answers) => answers.filter((one) => (ask === "values" ? one.value : one.alike) !== null).length;

function showKnown(learned) {
  const given = givenIn(state.answers);
  const skipped = state.answers.length - given;
  const unit = ask === "values" ? "item" : "screen";
  $("progress").textContent = `${counted(given, unit)} answered${skipped ? `, ${number(skipped)} not` : ""}.`;
  if (!learned) return;
  const rows = [];
  if (isKnown(learned)) rows.push(errorRow("before teaching", learned.raw), errorRow(`by ${condition}`, learned.error, true));
  $("errors").replaceChildren(...rows);
  $("advice").textContent = adviceOf(learned);
  showDoubts(learned.doubts);
}

function errorRow(name, { error, half }, now = false) {
  const [low, high] = [Math.max(0, error - half), Math.min(1, error + half)];
  const bar = el("span", { className: now ? "bar now" : "bar" });
  bar.style.width = `${100 * Math.min(1, error / WIDEST)}%`;
  const doubt = el("span", { className: "doubt" });
  doubt.style.left = `${100 * Math.min(1, low / WIDEST)}%`;
  doubt.style.width = `${100 * (Math.min(1, high / WIDEST) - Math.min(1, low / WIDEST))}%`;
  const words = `${percent(error)} (${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)})`;
  return el("div", { className: "error" }, el("b", {}, name), el("span", {}, words), el("span", { className: "track", "aria-hidden": "true" }, bar, doubt));
}

// A count to one digit and a half, so that it does not change with every answer: 37 is 40, and 137 is 150.
function rounded(count) {
  const step = Math.max(1, 10 ** Math.floor(Math.log10(count)) / 2);
  return Math.ceil(count / step) * step;
}

const points = (share) => `${Math.abs(100 * share).toFixed(1)} points`;

// Whether the error is known at all: an interval over half of the scale says nothing.
const isKnown = ({ error, raw }) => error !== null && raw !== null && error.half < WIDEST / 2;

function adviceOf(learned) {
  const { gained, more, held } = learned;
  if (!isKnown(learned)) {
    const given = ask === "values" ? `${counted(held, "value")} so far` : `${counted(held, "screen")} so far`;
    const enough = ask === "values" ? " About 20 are enough." : "";
    return `The error is not known yet. One question in five is random and measures it (${given}).${enough}`;
  }
  const parts = [`Error: of two alike and one other at random, how often the other is nearer. From ${counted(held, "random answer")} that it did not learn from.`];
  if (learned.error.error >= learned.raw.error) parts.push("It is not lower than before teaching yet: more answers are needed.");
  else if (gained !== null) {
    const flat = gained < 0.01;
    parts.push(flat ? "The second half of your answers lowered the error by less than a point: more may change little." : `The second half of your answers lowered the error by ${points(gained)}: more answers help.`);
  }
  const count = rounded(more.answers);
  if (!more.answers) parts.push("The error is known within ±2 points.");
  else if (ask === "values" && count > N - state.answers.length) parts.push(`Too few items are left to know it within ±${more.points} points.`);
  else parts.push(`To know it within ±${more.points} points: about ${number(count)} more.`);
  parts.push("adapt measures it more closely, from all answers.");
  return parts.join(" ");
}

function showDoubts(doubts) {
  const some = doubts.slice(0, 4);
  $("doubts-section").hidden = !some.length;
  $("doubts-text").textContent = ask === "values" ? "These answers differ from those of all five nearest items. Both may be right." : "You said both of these pairs: that they are alike, and that they are not.";
  $("doubts").replaceChildren(
    ...some.map((doubt) => {
      const words = ask === "values" ? `${nameOf(doubt.item)}: ${doubt.value}, near ${doubt.like}` : `${nameOf(doubt.item)} and ${nameOf(doubt.other)}`;
      const parts = hasPicture(doubt.item) ? [portrait(doubt.item, 48)] : [];
      if (doubt.other !== undefined && hasPicture(doubt.other)) parts.push(portrait(doubt.other, 48));
      const again = el("button", { type: "button", className: "plain", onclick: () => askAgain(doubt.item) }, "Ask again");
      return el("li", {}, ...parts, el("span", {}, words), again);
    }),
  );
}
