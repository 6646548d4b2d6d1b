"use strict";
// Which thumbnails a map has room for, at every magnification.

const STEPS = 6; // levels of magnification per octave
const OCTAVES = 10;
const COARSE = 64; // so many thumbnails across the map: before that, only items that lead may show a picture

// Per item, how many thumbnails must fit across the map before its own appears. Thumbnails never overlap, and one that
// has appeared stays at every higher magnification. Levels are found when they are needed: all take long for many items.
class Levels {
  // xs, ys: Float32Array [n] between 0 and 1. order: items in the order in which they are considered; the first `leads`
  // of them lead.
  constructor(xs, ys, order, leads = order.length) {
    Object.assign(this, { xs, ys });
    this.at = new Float32Array(xs.length).fill(2 ** (OCTAVES + 1));
    this.shown = []; // in the order of appearance
    this.waiting = order.subarray(0, leads);
    this.later = order.subarray(leads);
    this.level = 0;
  }

  // Find what appears before `cells` thumbnails fit across the map.
  upTo(cells) {
    while (this.level <= OCTAVES * STEPS && 2 ** (1 + this.level / STEPS) <= cells) this.next();
  }

  next() {
    const { xs, ys, at, shown } = this;
    const cells = 2 ** (1 + this.level++ / STEPS);
    if (cells >= COARSE && this.later.length) {
      this.waiting = Int32Array.from([...this.waiting, ...this.later]);
      this.later = this.later.subarray(0, 0);
    }
    if (!this.waiting.length) return;
    const across = Math.ceil(cells) + 3; // with a margin, so that a cell has neighbours on all sides
    const grid = (Levels.grid ??= new Int32Array((2 ** (OCTAVES + 1) + 4) ** 2)).fill(-1, 0, across * across);
    const key = (i) => (Math.floor(xs[i] * cells) + 1) * across + Math.floor(ys[i] * cells) + 1;
    for (const i of shown) grid[key(i)] = i; // at most one per cell: two would overlap
    const free = (i) => {
      const middle = key(i);
      for (let dx = -across; dx <= across; dx += across) {
        for (let step = middle + dx - 1; step <= middle + dx + 1; step++) {
          const j = grid[step];
          if (j >= 0 && Math.abs(xs[i] - xs[j]) * cells < 1 && Math.abs(ys[i] - ys[j]) * cells < 1) return false;
        }
      }
      return true;
    };
    this.waiting = this.waiting.filter((i) => {
      if (!free(i)) return true;
      at[i] = cells;
      shown.push(i);
      grid[key(i)] = i;
      return false;
    });
  }
}

// Items in a fixed pseudo-random order, so that each item of a dense region is equally likely to represent it.
function mixed(items) {
  return Int32Array.from(items).sort((a, b) => (Math.imul(a + 1, 2654435761) >>> 0) - (Math.imul(b + 1, 2654435761) >>> 0));
}

// At how many thumbnails across the map each one appears.
function appearances(xs, ys) {
  const levels = new Levels(xs, ys, mixed(xs.keys()));
  levels.upTo(Infinity);
  return levels.at;
}
