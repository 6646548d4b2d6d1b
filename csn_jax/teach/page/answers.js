"use strict";
// The answers, which the browser keeps; and the file that csn_jax adapt reads.

const ask = CSN_DATA.ask;
const KEY = `csn_jax.teach.${CSN_DATA.key}`;
const state = {
  // Of values: {item, random, value}; of screens: {item, random, shown, alike}. null is "cannot say".
  answers: [],
  values: [...CSN_DATA.values],
  rater: "",
};

function keep() {
  const kept = state.answers.map((answer) => ({ ...answer, item: ids[answer.item], ...(ask === "grid" ? names(answer) : {}) }));
  try {
    localStorage.setItem(KEY, JSON.stringify({ answers: kept, values: state.values, rater: state.rater }));
  } catch {
    $("about").textContent = "This browser keeps nothing for pages from disk: save your answers before you close the page.";
  }
}

const names = ({ shown, alike }) => ({ shown: shown.map((item) => ids[item]), alike: alike && alike.map((item) => ids[item]) });

// What the browser kept; what cannot be read, or names other items, is left out.
function restore() {
  const position = new Map(ids.map((id, item) => [id, item]));
  const known = (id) => position.has(id);
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    for (const answer of kept.answers ?? []) {
      const read = { item: position.get(answer.item), random: answer.random === true };
      if (ask === "values") read.value = answer.value === null ? null : String(answer.value);
      else {
        if (![...answer.shown, ...(answer.alike ?? [])].every(known)) continue;
        read.shown = answer.shown.map((id) => position.get(id));
        read.alike = answer.alike && answer.alike.map((id) => position.get(id));
      }
      if (read.item !== undefined) state.answers.push(read);
    }
    state.values = [...new Set([...state.values, ...(kept.values ?? []).map(String)])];
    state.rater = String(kept.rater ?? "");
  } catch {
    state.answers = [];
  }
}

const FILE = ask === "values" ? "labels.csv" : "triplets.csv";

// A row per value, or per triplet of a screen: two of the item and what was selected are more alike than one of them and
// what was not. Triplets of one screen belong together when adapt measures its error.
function table() {
  const { rater } = state;
  if (ask === "values") {
    const rows = state.answers.filter(({ value }) => value !== null).map(({ item, value }) => [ids[item], value, rater]);
    return [["id", condition, "rater"], ...rows];
  }
  const rows = [];
  for (const { item, shown, alike } of state.answers) {
    const others = shown.filter((other) => alike && !alike.includes(other));
    const same = [item, ...(alike ?? [])];
    for (const anchor of same) {
      for (const positive of same) {
        if (anchor === positive) continue;
        for (const negative of others) rows.push([ids[anchor], ids[positive], ids[negative], condition, rater, ids[item]]);
      }
    }
  }
  return [["anchor", "positive", "negative", "condition", "rater", "screen"], ...rows];
}
