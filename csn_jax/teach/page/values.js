"use strict";
// One item: type its value, pick one of those so far, or press its digit.

const DIGITS = 9; // values that have a key

function countsOfValues() {
  const counts = new Map(state.values.map((value) => [value, 0]));
  for (const { value } of state.answers) if (value !== null) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

function showValues({ item }) {
  $("question").textContent = `Which ${condition}?`;
  const facts = hasPicture(item) ? valuesOf(item).slice(0, 6).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]) : [];
  $("shown").replaceChildren(portrait(item, 320, 12), ...(hasPicture(item) ? [el("div", { className: "facts" }, el("strong", {}, nameOf(item)), el("dl", {}, ...facts))] : []));
  $("typed").value = "";
  showChoices();
}

function showChoices() {
  const counts = countsOfValues();
  const typed = $("typed").value.trim();
  $("choices").replaceChildren(
    ...state.values.map((value, i) => {
      const key = i < DIGITS ? [el("kbd", {}, String(i + 1)), " "] : [];
      const button = el("button", { type: "button", className: "choice", onclick: () => answer({ value }) }, ...key, value, " ", el("small", {}, String(counts.get(value))));
      if (typed && !startsWith(value, typed)) button.classList.add("dim");
      return button;
    }),
  );
  $("typed-hint").textContent = typed ? hintOf(typed) : "";
  $("rename").disabled = !state.values.length;
  markCut();
}

// Fade the list out where more values lie below.
function markCut() {
  const { scrollTop, clientHeight, scrollHeight } = $("choices");
  $("choices").classList.toggle("cut", scrollTop + clientHeight < scrollHeight - 4);
}

// Give a value another name. The name of another value merges the two.
function rename() {
  const typed = prompt(`Which value gets another name? ${state.values.join(", ")}`)?.trim();
  const old = typed ? valueTyped(typed) : null;
  if (!state.values.includes(old)) return;
  const name = prompt(`The new name of “${old}”. The name of another value merges the two.`, old)?.trim().slice(0, $("typed").maxLength);
  if (!name) return;
  state.values = [...new Set(state.values.map((value) => (value === old ? name : value)))];
  for (const one of state.answers) if (one.value === old) one.value = name;
  keep();
  learn();
  showChoices();
}

function hintOf(typed) {
  const taken = valueTyped(typed);
  const other = `Shift+Enter: the new value “${typed}”`;
  if (taken === null) return `${begunBy(typed).join(", ")} begin so: type more; ${other}`;
  if (!state.values.includes(taken)) return `Enter: the new value “${taken}”`;
  return taken === typed ? `Enter: ${taken}` : `Enter: ${taken}; ${other}`;
}

const startsWith = (value, typed) => value.toLowerCase().startsWith(typed.toLowerCase());

const begunBy = (typed) => state.values.filter((value) => startsWith(value, typed));

// What Enter gives: the value that begins so, null if several do, else the text itself.
function valueTyped(typed) {
  const exact = state.values.find((value) => value.toLowerCase() === typed.toLowerCase());
  const begun = begunBy(typed);
  return exact ?? (begun.length > 1 ? null : begun[0] ?? typed);
}

function keyOfValues(event) {
  const inField = event.target === $("typed");
  const typed = $("typed").value.trim();
  if (inField && event.key === "Enter" && typed) {
    const value = event.shiftKey ? typed : valueTyped(typed);
    if (value === null) return true;
    if (!state.values.includes(value)) state.values.push(value);
    answer({ value });
  } else if (inField && event.key === "Escape") {
    $("typed").value = "";
    showChoices();
    $("question").focus();
  } else if (inField) return false;
  else if (/^[1-9]$/.test(event.key) && state.values[event.key - 1] !== undefined) answer({ value: state.values[event.key - 1] });
  else if (event.key === "/") $("typed").focus();
  else if (event.key.length === 1 && /\p{L}/u.test(event.key)) {
    $("typed").focus(); // and the letter goes there
    return false;
  } else return false;
  return true;
}
