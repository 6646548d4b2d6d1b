"use strict";
// Random numbers with a seed, so that a page asks every person the same random questions.

// A function that gives numbers in [0, 1): mulberry32.
function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const below = (random, n) => Math.floor(random() * n);

// k different members of a list, in random order.
function drawn(random, list, k) {
  const pool = Array.from(list);
  const most = Math.min(k, pool.length);
  for (let i = 0; i < most; i++) {
    const j = i + below(random, pool.length - i);
    [pool[i], pool[j]] = [pool[j], pool[i]];
  }
  return pool.slice(0, most);
}
