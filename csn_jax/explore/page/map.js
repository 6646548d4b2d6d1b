"use strict";
// A map of the items: thumbnails where there is room, dots elsewhere, more thumbnails when zoomed in.

const MOVE = 1100; // milliseconds from one condition's map to another's
const STAGGER = 250;
const BORN = 0.916; // a thumbnail starts to appear at this share of its room

class ItemMap {
  // canvas lies above dots, a canvas of the same size. places: Float32Array [C][2][n] between 0 and 1. order, leads: as
  // in Levels. paint(context, item, x, y, side, colour) draws a thumbnail; ready(item): whether it can; isText(item):
  // whether it is a line of text, which gets no frame. least: the smallest readable side. overlap: a thumbnail's side,
  // relative to its free room. pads(): what covers the canvas above and below. Callbacks: focused(item, x, y) when the
  // item in focus is drawn or lost (-1), said(item) when keys move the focus, chosen(item) on a choice, drawn() after a
  // frame, looked() when the view moves, enclosed(items, more) when a shape was drawn around items.
  constructor(canvas, dots, places, options) {
    Object.assign(this, { canvas, places }, options);
    this.context = canvas.getContext("2d");
    this.dots = dotsOf(dots);
    this.n = places[0][0].length;
    this.levels = places.map(() => null);
    this.allowed = null; // what passes the filters; null: all
    this.x = Float32Array.from(places[0][0]);
    this.y = Float32Array.from(places[0][1]);
    this.opacity = new Float32Array(this.n); // of each thumbnail, 0 to 1
    this.thumbs = []; // items with a visible thumbnail
    this.codes = new Uint8Array(this.n);
    this.colours = ["#808080"]; // of the codes
    this.framed = false;
    this.only = -1; // the highlighted code, or -1
    this.picked = null; // Set of selected items, or null
    this.lit = new Uint8Array(this.n).fill(1);
    this.paints = new Uint32Array(this.n);
    this.condition = 0;
    this.marks = []; // highlighted items
    this.focus = -1; // the item under the pointer or the keys
    this.selected = -1;
    this.names = [];
    this.tool = "move"; // or box, lasso
    this.shape = null; // the points of the shape being drawn
    this.view = { x: 0.5, y: 0.5, zoom: 1 };
    this.edges = { top: 0, bottom: 0 };
    this.frames = [];
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    listenTo(this);
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
  }

  // The appearances on a condition's map, of what passes the filters.
  level(condition) {
    const { allowed, order, leads } = this;
    // Filtered items are few, so all of them may show their pictures.
    this.levels[condition] ??= allowed
      ? new Levels(...this.places[condition], order.filter((i) => allowed[i]))
      : new Levels(...this.places[condition], order, leads);
    return this.levels[condition];
  }

  // Show only these items (Uint8Array [n], or null for all) in colour and with thumbnails.
  allow(allowed) {
    this.allowed = allowed;
    this.levels = this.places.map(() => null);
    this.emphasise();
  }

  // Which items are shown in full colour: those that pass, have the highlighted colour, and are selected.
  emphasise() {
    const { allowed, only, codes, picked, lit } = this;
    for (let i = 0; i < this.n; i++) {
      lit[i] = Number((!allowed || allowed[i] === 1) && (only < 0 || codes[i] === only) && (!picked?.size || picked.has(i)));
    }
    this.repaint();
  }

  // Colour the dots anew, as when thumbnails have become available, and draw.
  repaint() {
    this.covered = -1;
    this.refresh();
  }

  // Switch to another condition's map; items glide to their new places.
  show(condition, glide = true) {
    this.from = glide && !this.calm.matches ? { x: this.x.slice(), y: this.y.slice(), thumbs: this.thumbs, opacity: this.opacity.slice() } : null;
    this.began = performance.now();
    this.condition = condition;
    if (!this.from) {
      this.x.set(this.places[condition][0]);
      this.y.set(this.places[condition][1]);
    }
    this.moved = true;
    this.repaint();
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.width = box.width;
    this.height = box.height;
    this.ratio = Math.min(devicePixelRatio || 1, 2);
    for (const canvas of [this.canvas, this.dots.canvas]) {
      canvas.width = Math.round(box.width * this.ratio);
      canvas.height = Math.round(box.height * this.ratio);
    }
    this.edges = this.pads();
    const room = Math.sqrt((0.4 * box.width * box.height) / this.n);
    const side = Math.min(72, Math.max(room, this.least * (Math.min(box.width, box.height) < 480 ? 0.8 : 1)));
    // A side that a level has, so that the first view is as full as possible.
    const level = Math.floor(Math.log2(Math.max(2, (this.fit * this.overlap) / side)) * STEPS);
    this.side = (this.fit * this.overlap) / 2 ** (level / STEPS);
    this.repaint();
  }

  // Pixels across the whole map, and across a thumbnail, which grows more slowly than the magnification.
  get fit() {
    return Math.max(40, Math.min(this.width * 0.9, this.height - this.edges.top - this.edges.bottom));
  }
  get middle() {
    return (this.height + this.edges.top - this.edges.bottom) / 2;
  }
  get thumb() {
    return this.side * Math.min(2.2, 1 + 0.28 * Math.max(0, Math.log2(this.view.zoom)));
  }

  // The canvas point of a map position.
  at(x, y) {
    const scale = this.fit * this.view.zoom;
    return [this.width / 2 + (x - this.view.x) * scale, this.middle + (y - this.view.y) * scale];
  }
  screen(item) {
    return this.at(this.x[item], this.y[item]);
  }

  refresh() {
    this.waiting ??= requestAnimationFrame((now) => {
      this.waiting = null;
      const began = performance.now();
      this.draw(now);
      this.frames.push(performance.now() - began);
      if (this.frames.length > 200) this.frames.shift();
    });
  }

  // Update positions and thumbnails; return whether anything still moves.
  step(now) {
    const [toX, toY] = this.places[this.condition];
    const levels = this.level(this.condition);
    const across = (this.fit * this.view.zoom * this.overlap) / this.thumb;
    levels.upTo(across / BORN);
    const past = this.from ? now - this.began : Infinity;
    for (const i of this.thumbs) this.opacity[i] = 0;
    this.thumbs = [];
    const { at, shown } = levels;
    let full = 0; // how many thumbnails are fully visible
    for (const i of shown) {
      if (at[i] * BORN >= across) break;
      const end = Math.min(1, Math.max(0, (across / at[i] - 1) * 12 + 1.01));
      if (end >= 1) full++;
      this.opacity[i] = end;
      this.thumbs.push(i);
    }
    if (this.from) {
      const { from } = this;
      const eased = (i) => {
        const delay = STAGGER * ((i * 0.618034) % 1); // items start one after another
        const t = Math.min(1, Math.max(0, (past - delay) / (MOVE - STAGGER)));
        return t < 0.5 ? 4 * t * t * t : 1 - (2 - 2 * t) ** 3 / 2;
      };
      for (let i = 0; i < this.n; i++) {
        const share = eased(i);
        this.x[i] = from.x[i] + (toX[i] - from.x[i]) * share;
        this.y[i] = from.y[i] + (toY[i] - from.y[i]) * share;
      }
      const now = new Set(this.thumbs);
      for (const i of from.thumbs) if (!now.has(i)) this.thumbs.push(i);
      for (const i of this.thumbs) {
        const end = now.has(i) ? this.opacity[i] : 0;
        this.opacity[i] = from.opacity[i] + (end - from.opacity[i]) * eased(i);
      }
      this.moved = true;
      full = -2; // dots everywhere until all have arrived
      if (past >= MOVE) {
        this.from = null;
        this.x.set(toX);
        this.y.set(toY);
      }
    }
    if (full !== this.covered) this.colourDots(full);
    let moving = Boolean(this.from);
    if (full === -2 && !moving) moving = true; // one more frame, without the dots below thumbnails
    if (this.goal) {
      const { view, goal } = this;
      const share = this.calm.matches ? 1 : 0.22;
      view.zoom *= (goal.zoom / view.zoom) ** share;
      view.x += (goal.x - view.x) * share;
      view.y += (goal.y - view.y) * share;
      if (Math.abs(Math.log(goal.zoom / view.zoom)) < 0.002 && Math.hypot(goal.x - view.x, goal.y - view.y) * this.fit * view.zoom < 0.5) {
        Object.assign(view, goal);
        this.goal = null;
      }
      moving = true;
    }
    return moving;
  }

  // The colour of every dot; those below the first `full` thumbnails are invisible.
  colourDots(full) {
    this.covered = full;
    this.painted = true;
    const { paints, lit, codes } = this;
    const most = this.framed ? 200 : 90;
    const [strong, faint] = [(most << 24) >>> 0, ((most >> 3) << 24) >>> 0];
    for (let i = 0; i < this.n; i++) paints[i] = (lit[i] ? strong : faint) | this.tints[codes[i]];
    const { shown } = this.level(this.condition);
    for (let j = 0; j < full; j++) if (this.ready(shown[j])) paints[shown[j]] = 0;
  }

  // Set the colours of items by code; the last code is for items without a colour of their own.
  colour(codes, colours, framed) {
    this.codes.set(codes);
    this.colours = colours;
    this.framed = framed;
    // Blue, green and red in the lower bytes, slightly greyed, so that white dots show on white.
    this.tints = colours.map((name) => {
      this.context.fillStyle = name;
      const parts = [1, 3, 5].map((at) => parseInt(this.context.fillStyle.slice(at, at + 2), 16));
      const [red, green, blue] = parts.map((part) => Math.round(0.88 * part + 0.12 * 128));
      return (blue << 16) | (green << 8) | red;
    });
    this.emphasise();
  }

  // Zoom by a factor around a point of the canvas.
  zoom(factor, px = this.width / 2, py = this.middle, soft = false) {
    const view = { ...(soft ? this.goal ?? this.view : this.view) };
    const zoom = Math.min(128, Math.max(0.7, view.zoom * factor));
    const gap = 1 / (this.fit * view.zoom) - 1 / (this.fit * zoom);
    view.x += (px - this.width / 2) * gap;
    view.y += (py - this.middle) * gap;
    view.zoom = zoom;
    this.look(view, soft);
  }
  look(view, soft) {
    view.x = Math.min(1.1, Math.max(-0.1, view.x));
    view.y = Math.min(1.1, Math.max(-0.1, view.y));
    this.goal = soft ? view : null;
    if (!soft) this.view = view;
    this.looked();
    this.refresh();
  }
  all() {
    this.look({ x: 0.5, y: 0.5, zoom: 1 }, true);
  }
  pan(dx, dy) {
    const scale = this.fit * this.view.zoom;
    this.look({ x: this.view.x - dx / scale, y: this.view.y - dy / scale, zoom: this.view.zoom }, false);
  }
}
ItemMap.prototype.tints = [0x808080];
