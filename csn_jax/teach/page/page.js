"use strict";
// Start, the turn of questions and answers, and the worker that fits to them.

let question = null; // {item, random}, and `shown` for a grid
let ahead = null; // the next question, asked for while a person looks at this one
let waiting = false; // for a question that is not here yet
let turn = 0; // grows when answers are undone: what the worker says of earlier ones is old
let learning = false;
let unlearned = false; // whether answers came while it learned
let learned = null; // what the worker said last

const program = URL.createObjectURL(new Blob([CSN_WORKER], { type: "text/javascript" }));
const worker = new Worker(program);
worker.onmessage = ({ data }) => {
  if (data.learned) {
    learning = false;
    learned = data.learned;
    showKnown(learned);
    if (unlearned) learn();
  } else if (data.turn === turn) {
    ahead = data.next;
    if (ahead) preload([ahead.item, ...(ahead.shown ?? [])]);
    if (waiting) next();
  }
};
worker.onerror = () => ($("about").textContent = "The fit failed; your answers are kept and can be saved.");

function learn() {
  unlearned = learning;
  if (learning) return;
  learning = true;
  worker.postMessage({ turn, learn: state.answers });
}

// Ask for the question after the answers so far, and the one on screen.
function lookAhead() {
  ahead = undefined;
  worker.postMessage({ turn, ahead: question ? [...state.answers, { ...question, value: undefined, alike: undefined }] : state.answers });
}

function next() {
  waiting = ahead === undefined;
  if (waiting) return;
  question = ahead;
  show();
  lookAhead();
}

function show() {
  for (const id of ["by-values", "by-grid", "done"]) $(id).hidden = !question || (id === "by-values") !== (ask === "values");
  for (const id of ["skip"]) $(id).disabled = !question;
  $("undo").disabled = !state.answers.length;
  showKnown(learned);
  if (!question) {
    $("question").textContent = "All items are answered";
    $("why").textContent = "Save your answers.";
    $("shown").replaceChildren();
    return;
  }
  $("why").textContent = question.again ? "Asked again." : question.random ? "A random one, to measure the error." : "Chosen to teach most.";
  (ask === "values" ? showValues : showGrid)(question);
  $("question").focus();
}

function answer(given) {
  if (!question) return;
  const { again, ...asked } = question;
  const before = again ? state.answers.findIndex(({ item }) => item === asked.item) : -1;
  if (before >= 0) state.answers[before] = { ...asked, ...given };
  else state.answers.push({ ...asked, ...given });
  $("said").textContent = ask === "values" ? `${given.value ?? "cannot say"}` : given.alike ? `${number(given.alike.length)} alike` : "cannot say";
  question = null;
  keep();
  learn();
  if (again) restart();
  else next();
}

function undo() {
  const last = state.answers.pop();
  if (!last) return;
  const given = new Set([...CSN_DATA.values, ...state.answers.map(({ value }) => value)]);
  state.values = state.values.filter((value) => given.has(value)); // a misspelt one goes too
  keep();
  learn();
  turn++;
  const { value, alike, ...asked } = last;
  question = asked;
  show();
  lookAhead();
}

function askAgain(item) {
  const { random, shown } = state.answers.find((one) => one.item === item);
  turn++;
  question = { item, random, again: true, ...(shown ? { shown } : {}) };
  show();
  lookAhead();
}

// Forget what was asked ahead, and ask anew.
function restart() {
  turn++;
  question = null;
  lookAhead();
  next();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target === $("rater")) return;
  let taken = true;
  const inText = event.target === $("typed") && $("typed").value !== "";
  if (question && (ask === "values" ? keyOfValues : keyOfGrid)(event)) taken = true;
  else if (event.key === "Backspace" && !inText) undo();
  else if (event.key === "0" && !inText && question) answer(ask === "values" ? { value: null } : { alike: null });
  else taken = false;
  if (taken) event.preventDefault();
});

function start() {
  restore();
  document.title = `Teach ${condition}`;
  document.body.className = ask;
  $("help").textContent =
    ask === "values"
      ? "Type a value and press Enter, or press the digit of a value. 0: cannot say. Backspace: undo. /: type a value that begins with a digit."
      : "Select with the letters, or with arrow keys and Space; Enter goes on. 0: cannot say. Backspace: undo.";
  $("typed").oninput = showChoices;
  $("choices").onscroll = window.onresize = markCut;
  $("rename").hidden = ask !== "values";
  $("rename").onclick = rename;
  $("skip").onclick = () => answer(ask === "values" ? { value: null } : { alike: null });
  $("undo").onclick = undo;
  $("done").onclick = finishGrid;
  $("rater").value = state.rater;
  $("rater").oninput = () => {
    state.rater = $("rater").value.trim();
    keep();
  };
  $("save").textContent = `Save ${FILE}`;
  $("save").onclick = () => {
    saveCsv(FILE, table());
    $("saved").textContent = `Saved ${counted(givenIn(state.answers), "answer")} as ${FILE}, where the browser puts downloads. Move the file to where you run the command.`;
  };
  $("clear").onclick = () => {
    if (!confirm("Forget all answers?")) return;
    state.answers = [];
    state.values = [...CSN_DATA.values];
    learned = null;
    keep();
    learn();
    restart();
  };
  $("save-text").textContent = "This browser keeps your answers. Save them to teach with them. With your name in the file, those of several people can be joined.";
  $("command").textContent = CSN_DATA.command;
  const sample = N < CSN_DATA.total ? ` (drawn at random from ${number(CSN_DATA.total)})` : "";
  $("about").textContent = `${number(N)} items${sample} of ${CSN_DATA.name}, ${number(CSN_DATA.k)} axes. This page sends nothing.`;
  const points = new Float32Array(bytesOf(CSN_POINTS).buffer);
  worker.postMessage({ turn, points, n: N, k: CSN_DATA.k, ask });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => question && show());
  if (state.answers.length) learn();
  showKnown(null);
  restart();
}

// Whether nothing is on its way any more.
const isSettled = () => !learning && !waiting && ahead !== undefined;

start();
