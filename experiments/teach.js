"use strict";
// Simulated people answer the questions of the page of csn_jax teach. experiments/teach.py puts the page's own program
// before this file, and runs both: node FILE REQUEST.json prints {runs: [{answers, learned}]}.

const EACH = 10; // answers between two fits, as a person is about as fast
const request = JSON.parse(require("fs").readFileSync(process.argv[2], "utf8"));
const { n, k, ask, values, total, wrong, runs, choosing } = request;
const points = new Float32Array(Uint8Array.from(Buffer.from(request.points, "base64")).buffer);
const names = [...new Set(values)].filter((value) => value !== "");

// What a person says to a question, who is wrong now and then.
function say(question, random) {
  const own = values[question.item];
  const slips = () => random() < wrong;
  if (ask === "values") {
    if (own === "") return { value: null };
    return { value: slips() ? names.filter((name) => name !== own)[below(random, names.length - 1)] : own };
  }
  if (own === "") return { alike: null };
  return { alike: question.shown.filter((other) => (values[other] === own) !== slips()) };
}

function simulate(seed) {
  const teacher = new Teacher({ points, n, k, ask, seed, choosing });
  const random = randomOf(7919 * (seed + 1));
  const answers = [];
  while (answers.length < total) {
    if (choosing && answers.length && answers.length % EACH === 0) teacher.learn(answers);
    const question = teacher.next(answers);
    if (!question) break;
    answers.push({ ...question, ...say(question, random) });
  }
  return { answers, learned: teacher.learn(answers) };
}

process.stdout.write(JSON.stringify({ runs: runs.map(simulate) }));
