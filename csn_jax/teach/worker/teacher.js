"use strict";
// What the page knows of a condition: the fit to the answers so far, its error on random ones, and what to ask next.

const EVERY = 5; // one question in so many is random: these measure the error and are not fitted to
const POOL = 5; // items that the next question is chosen from
const SHOWN = 12; // candidates of a screen
const ANCHORS = 10; // items that the next screen's is chosen from
const NEAR = 3; // candidates that are near by now
const BEFORE = 5; // candidates that are items of earlier screens, which links the answers; the others are random
const AROUND = 30; // nearest items, which the near candidates are drawn from
const FIRST_STRENGTH = 3; // position in STRENGTHS, until random answers choose
const NEIGHBOURS = 5; // answered items that an answer is compared with

class Teacher {
  // points: [n * k]; ask: "values" or "grid".
  constructor({ points, n, k, ask, seed = 0, choosing = true }) {
    Object.assign(this, { points, n, k, ask, choosing });
    this.random = randomOf(seed + 1);
    const order = drawn(randomOf(seed), Array(n).keys(), n);
    // Random questions are about these items alone, in this order, and others never: the sample stays random.
    const held = Math.min(n, Math.max(Math.floor(n / EVERY), SHOWN + 1));
    this.held = order.slice(0, held);
    this.free = n > held + SHOWN ? order.slice(held) : order;
    this.weights = new Float64Array(k).fill(1);
    this.strength = null; // position in STRENGTHS
  }

  // Fit to the answers, and say how good that is. Answers of null, "cannot say", teach nothing.
  learn(answers) {
    const { points, k, ask } = this;
    const known = answers.filter((answer) => (ask === "values" ? answer.value : answer.alike) !== null);
    const held = known.filter((answer) => answer.random);
    const chosen = known.filter((answer) => !answer.random);
    const errorOf = (w) => (ask === "values" ? errorOfValues : errorOfScreens)(points, k, w, held);
    const raw = errorOf(new Float64Array(k).fill(1));
    let now = null;
    const tried = this.strengths();
    const parts = raw && this.pathOf(chosen, tried);
    if (parts) {
      const gain = gainsOf(points, k, this.tripletsOf(held, randomOf(1)));
      const losses = parts.map((w) => lacking(gain, k, w).reduce((sum, short) => sum + short * short, 0));
      const best = losses.indexOf(Math.min(...losses));
      this.strength = STRENGTHS.indexOf(tried[best]);
      now = errorOf(parts[best]);
    }
    const strength = STRENGTHS[this.strength ?? FIRST_STRENGTH];
    const whole = this.pathOf(known, [strength], this.weights);
    if (whole) this.weights = whole[0];
    const half = now && chosen.length >= 40 ? this.pathOf(chosen.slice(0, Math.floor(chosen.length / 2)), [strength], this.weights) : null;
    return {
      answers: answers.length,
      known: known.length,
      held: held.length,
      error: now,
      raw,
      gained: half ? errorOf(half[0]).error - now.error : null,
      more: now ? this.more(now.half, answers.length) : null,
      doubts: this.doubts(known),
      strength,
      weights: Array.from(this.weights),
    };
  }

  tripletsOf(answers, random) {
    return (this.ask === "values" ? tripletsOfValues : tripletsOfScreens)(answers, random);
  }

  pathOf(answers, strengths, start = null) {
    const triplets = this.tripletsOf(answers, randomOf(0));
    return triplets.length ? path(gainsOf(this.points, this.k, triplets), this.k, strengths, start) : null;
  }

  // The strengths to try: all at first, then those beside the best so far.
  strengths() {
    return this.strength === null ? STRENGTHS : STRENGTHS.slice(Math.max(0, this.strength - 1), this.strength + 2);
  }

  // How many more answers give the error within 10, 5 or 2 points: the first of these that is not reached.
  more(half, answers) {
    const points = [10, 5, 2].find((within) => 100 * half > within);
    if (!points) return { points: 2, answers: 0 };
    return { points, answers: Math.ceil(answers * ((100 * half) / points) ** 2 - answers) };
  }

  // The next question, after these answers and what is asked already: {item, random}, and for a grid `shown`.
  next(answers) {
    const random = answers.length % EVERY === 0;
    const asked = answers.filter((answer) => answer.random === random).length;
    if (this.ask === "grid") return random ? this.randomScreen(asked) : this.screen(answers);
    const done = new Set(answers.map(({ item }) => item));
    if (random) {
      const item = this.held.find((one) => !done.has(one));
      if (item !== undefined) return { item, random };
    }
    const left = this.free.filter((item) => !done.has(item));
    if (!left.length) return null;
    return { item: this.choosing ? this.choice(left, answers) : left[below(this.random, left.length)], random: false };
  }

  // Of a few random items, the one whose value is likely to be the rarest so far: that of the nearest answered item. From
  // a larger pool it would be an odd one, which teaches less than a random item.
  choice(left, answers) {
    const known = answers.filter(({ value, random }) => value !== null && value !== undefined && !random);
    const counts = new Map();
    for (const { value } of known) counts.set(value, (counts.get(value) ?? 0) + 1);
    let [rarest, chosen] = [Infinity, null];
    for (const item of drawn(this.random, left, POOL)) {
      let [nearest, count] = [Infinity, 0];
      for (const { item: other, value } of known) {
        const square = squareOf(this.points, this.k, this.weights, item, other);
        if (square < nearest) [nearest, count] = [square, counts.get(value)];
      }
      if (count < rarest) [rarest, chosen] = [count, item];
    }
    return chosen;
  }

  randomScreen(asked) {
    const random = randomOf(1000 + asked); // the same screens for every person
    const item = this.held[asked % this.held.length];
    return { item, random: true, shown: drawn(random, this.held.filter((other) => other !== item), SHOWN) };
  }

  // Some of the nearest items under the present fit, some that earlier screens were about, and the others at random.
  screen(answers) {
    const done = new Set(answers.map(({ item }) => item));
    const left = this.free.filter((one) => !done.has(one));
    const item = this.farthest(drawn(this.random, left.length ? left : this.free, this.choosing ? ANCHORS : 1), [...done]);
    const others = this.free.filter((other) => other !== item);
    if (!this.choosing) return { item, random: false, shown: drawn(this.random, others, SHOWN) };
    const squares = new Map(others.map((other) => [other, squareOf(this.points, this.k, this.weights, item, other)]));
    const near = drawn(this.random, [...others].sort((a, b) => squares.get(a) - squares.get(b)).slice(0, AROUND), NEAR);
    const joined = answers.filter((answer) => !answer.random && answer.alike?.length).map((answer) => answer.item);
    const before = drawn(this.random, new Set(joined.filter((other) => other !== item && !near.includes(other))), BEFORE);
    const shown = [...near, ...before];
    const rest = drawn(this.random, others.filter((other) => !shown.includes(other)), SHOWN - shown.length);
    return { item, random: false, shown: drawn(this.random, [...shown, ...rest], SHOWN) };
  }

  // Of a pool of items, the one farthest from all others that were asked about.
  farthest(pool, asked) {
    let [best, found] = [-1, pool[0]];
    for (const item of pool) {
      let nearest = Infinity;
      for (const other of asked) nearest = Math.min(nearest, squareOf(this.points, this.k, this.weights, item, other));
      if (nearest > best) [best, found] = [nearest, item];
    }
    return found;
  }

  // Answers that others contradict: [{item, ...}], the clearest first.
  doubts(known) {
    return this.ask === "values" ? this.doubtfulValues(known) : this.doubtfulPairs(known);
  }

  // Items whose nearest answered items have all one other value.
  doubtfulValues(known) {
    if (known.length < 30) return [];
    const found = [];
    for (const { item, value } of known) {
      const near = known
        .filter((other) => other.item !== item)
        .map((other) => [squareOf(this.points, this.k, this.weights, item, other.item), other.value])
        .sort((a, b) => a[0] - b[0])
        .slice(0, NEIGHBOURS);
      const like = near[0][1];
      if (like !== value && near.every((pair) => pair[1] === like)) found.push({ item, value, like, square: near[0][0] });
    }
    return found.sort((a, b) => a.square - b.square);
  }

  // Pairs that were called alike on one screen and not on another.
  doubtfulPairs(known) {
    const said = new Map();
    const found = [];
    for (const { item, shown, alike } of known) {
      for (const other of shown) {
        const pair = [item, other].sort((a, b) => a - b).join();
        const now = alike.includes(other);
        if (said.has(pair) && said.get(pair) !== now) found.push({ item, other });
        said.set(pair, now);
      }
    }
    return found;
  }
}
