"use strict";
// A map of the items: thumbnails where there is room, dots elsewhere, more thumbnails when zoomed in.

const STEPS = 6; // levels of magnification per octave
const OCTAVES = 10;
const MOVE = 1100; // milliseconds from one condition's map to another's
const STAGGER = 250;

// Per item, how many thumbnails must fit across the map before its own appears. Thumbnails never overlap, and one that
// has appeared stays at every higher magnification.
function appearances(xs, ys) {
  const n = xs.length;
  const at = new Float32Array(n).fill(2 ** (OCTAVES + 1));
  // A fixed pseudo-random order, so that each item of a dense region is equally likely to represent it.
  let waiting = Array.from({ length: n }, (_, i) => i);
  const rank = Uint32Array.from(waiting, (i) => Math.imul(i + 1, 2654435761));
  waiting.sort((a, b) => rank[a] - rank[b]);
  const shown = [];
  for (let level = 0; level <= OCTAVES * STEPS && waiting.length; level++) {
    const cells = 2 ** (1 + level / STEPS);
    const key = (i) => Math.floor(xs[i] * cells) * 4096 + Math.floor(ys[i] * cells);
    const grid = new Map(); // at most one per cell: two would overlap
    for (const i of shown) grid.set(key(i), i);
    const free = (i) => {
      const middle = key(i);
      for (let dx = -4096; dx <= 4096; dx += 4096) {
        for (let dy = -1; dy <= 1; dy++) {
          const j = grid.get(middle + dx + dy);
          if (j !== undefined && Math.abs(xs[i] - xs[j]) * cells < 1 && Math.abs(ys[i] - ys[j]) * cells < 1) return false;
        }
      }
      return true;
    };
    waiting = waiting.filter((i) => {
      if (!free(i)) return true;
      at[i] = cells;
      shown.push(i);
      grid.set(key(i), i);
      return false;
    });
  }
  return at;
}

class ItemMap {
  // places: Float32Array [C][2][n] between 0 and 1. paint(context, item, x, y, side, colour) draws a thumbnail; text
  // gets that colour and no frame. least: the smallest readable side. overlap: a thumbnail's side, relative to its free
  // room. pads(): what covers the canvas above and below. Callbacks: focused(item, x, y) when the item in focus is drawn
  // or lost (-1), said(item) when keys move the focus, chosen(item) on a choice.
  constructor(canvas, places, { paint, text, least, overlap, pads, focused, said, chosen }) {
    Object.assign(this, { canvas, places, paint, text, least, overlap, pads, focused, said, chosen });
    this.context = canvas.getContext("2d");
    this.n = places[0][0].length;
    this.levels = places.map(() => null);
    this.x = Float32Array.from(places[0][0]);
    this.y = Float32Array.from(places[0][1]);
    this.shown = new Float32Array(this.n); // the opacity of each thumbnail, 0 to 1
    this.order = Int32Array.from(this.x.keys()); // of drawing: the first to appear is on top
    this.codes = new Uint8Array(this.n);
    this.colours = ["#808080"]; // of the codes
    this.dots = [0x808080];
    this.framed = false;
    this.only = -1; // the highlighted code, or -1
    this.condition = 0;
    this.marks = []; // highlighted items
    this.focus = -1; // the item under the pointer or the keys
    this.selected = -1;
    this.names = [];
    this.view = { x: 0.5, y: 0.5, zoom: 1 };
    this.edges = { top: 0, bottom: 0 };
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
  }

  // The appearances on a condition's map, computed once.
  level(condition) {
    this.levels[condition] ??= appearances(...this.places[condition]);
    return this.levels[condition];
  }

  // Switch to another condition's map; items glide to their new places.
  show(condition, glide = true) {
    const now = performance.now();
    this.from = glide && !this.calm.matches ? { x: this.x.slice(), y: this.y.slice(), shown: this.shown.slice() } : null;
    this.began = now;
    this.condition = condition;
    const at = this.level(condition);
    this.order = Int32Array.from(this.x.keys()).sort((a, b) => at[b] - at[a] || a - b);
    if (!this.from) {
      this.x.set(this.places[condition][0]);
      this.y.set(this.places[condition][1]);
    }
    this.refresh();
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.width = box.width;
    this.height = box.height;
    this.ratio = Math.min(devicePixelRatio || 1, 2);
    this.canvas.width = Math.round(box.width * this.ratio);
    this.canvas.height = Math.round(box.height * this.ratio);
    this.edges = this.pads();
    const room = Math.sqrt((0.4 * box.width * box.height) / this.n);
    const side = Math.min(72, Math.max(room, this.least * (Math.min(box.width, box.height) < 480 ? 0.8 : 1)));
    // A side that a level has, so that the first view is as full as possible.
    const level = Math.floor(Math.log2(Math.max(2, (this.fit * this.overlap) / side)) * STEPS);
    this.side = (this.fit * this.overlap) / 2 ** (level / STEPS);
    this.refresh();
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
      this.draw(now);
    });
  }

  // Update positions and thumbnails; return whether anything still moves.
  step(now) {
    const [toX, toY] = this.places[this.condition];
    const at = this.level(this.condition);
    const across = (this.fit * this.view.zoom * this.overlap) / this.thumb;
    const past = this.from ? now - this.began : Infinity;
    for (let i = 0; i < this.n; i++) {
      const end = Math.min(1, Math.max(0, (across / at[i] - 1) * 12 + 1.01));
      const delay = STAGGER * ((i * 0.618034) % 1); // items start one after another
      const t = Math.min(1, Math.max(0, (past - delay) / (MOVE - STAGGER)));
      const eased = t < 0.5 ? 4 * t * t * t : 1 - (2 - 2 * t) ** 3 / 2;
      if (this.from) {
        this.x[i] = this.from.x[i] + (toX[i] - this.from.x[i]) * eased;
        this.y[i] = this.from.y[i] + (toY[i] - this.from.y[i]) * eased;
      }
      this.shown[i] = this.from ? this.from.shown[i] + (end - this.from.shown[i]) * eased : end;
    }
    if (past >= MOVE) this.from = null;
    let moving = Boolean(this.from);
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

  draw(now) {
    const moving = this.step(now);
    const { context, x, y, shown, codes, width, height } = this;
    const style = getComputedStyle(this.canvas);
    const ink = style.getPropertyValue("--ink");
    const page = style.getPropertyValue("--page");
    const accent = style.getPropertyValue("--accent");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.imageSmoothingQuality = "medium";
    const scale = this.fit * this.view.zoom;
    const [left, top] = this.at(0, 0);
    const thumb = this.thumb;
    this.drawn = [];

    this.drawDots(left, top, scale);
    for (const i of this.order) {
      if (shown[i] <= 0) continue;
      const px = left + x[i] * scale;
      const py = top + y[i] * scale;
      if (px < -thumb || py < -thumb || px > width + thumb || py > height + thumb) continue;
      const side = thumb * (0.6 + 0.35 * shown[i]);
      const faint = this.only >= 0 && codes[i] !== this.only;
      this.tile(i, px, py, side, shown[i] * (faint ? 0.12 : 1), this.framed ? this.colours[codes[i]] : null);
    }

    for (const i of [...this.marks].reverse()) this.marked(i, shown[i] > 0.5 ? thumb : 0, ink, page, 1.75);
    if (this.selected >= 0) this.marked(this.selected, Math.max(44, thumb * 1.25), ink, page, 4);
    if (this.focus >= 0 && this.focus !== this.selected) this.marked(this.focus, Math.max(44, thumb * 1.25), accent, page, 4);
    this.drawNames(ink, page);
    context.globalAlpha = 1;
    this.focused(this.focus, ...(this.focus >= 0 ? this.screen(this.focus) : []));
    if (moving) this.refresh();
  }

  // A thumbnail around a point of the canvas, with a frame if a colour is given.
  tile(item, px, py, side, alpha, frame) {
    const { context } = this;
    context.globalAlpha = alpha;
    this.drawn.push(item, px, py, side);
    this.paint(context, item, px - side / 2, py - side / 2, side, this.colours[this.codes[item]]);
    if (frame && !this.text) {
      const line = Math.max(1.5, side / 18);
      context.strokeStyle = frame;
      context.lineWidth = line;
      context.strokeRect(px - (side + line) / 2, py - (side + line) / 2, side + line, side + line);
    }
  }

  // A highlighted item: its thumbnail in a frame, or its dot in a ring (side 0).
  marked(item, side, colour, page, line) {
    const { context } = this;
    const [px, py] = this.screen(item);
    context.beginPath();
    if (side) {
      context.globalAlpha = 1;
      const high = this.text ? 30 : side; // a line of text is wider than high
      context.fillStyle = page;
      context.fillRect(px - side / 2, py - high / 2, side, high);
      this.tile(item, px, py, side, 1, null);
      context.roundRect(px - side / 2 - 1, py - high / 2 - 1, side + 2, high + 2, 3);
    } else {
      context.arc(px, py, 5, 0, 2 * Math.PI);
    }
    context.globalAlpha = 1;
    context.strokeStyle = page;
    context.lineWidth = line + 2;
    context.stroke();
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.stroke();
  }

  // Names of regions, the largest first, without overlaps; they fade while items move.
  drawNames(ink, page) {
    const { context } = this;
    const past = this.from ? performance.now() - this.began : MOVE;
    const fade = Math.max(0, (past / MOVE - 0.6) / 0.4);
    if (!fade || !this.names.length) return;
    const taken = [];
    context.font = `600 ${this.width < 480 ? 12 : 13.5}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const { text, x, y } of this.names) {
      const half = context.measureText(text).width / 2 + 7;
      let [px, py] = this.at(x, y);
      py -= this.text ? 28 : 0.9 * this.thumb; // above the dense part
      if (px < 0 || py < 0 || px > this.width || py > this.height) continue;
      px = Math.min(this.width - half - 8, Math.max(half + 8, px));
      if (taken.some((box) => Math.abs(box.px - px) < box.half + half + 4 && Math.abs(box.py - py) < 24)) continue;
      taken.push({ px, py, half });
      context.globalAlpha = 0.92 * fade;
      context.fillStyle = page;
      context.beginPath();
      context.roundRect(px - half, py - 11, 2 * half, 22, 11);
      context.fill();
      context.globalAlpha = 0.2 * fade;
      context.strokeStyle = ink;
      context.lineWidth = 1;
      context.stroke();
      context.globalAlpha = fade;
      context.fillStyle = ink;
      context.fillText(text, px, py + 1);
    }
  }

  // Dots for items without a visible thumbnail, pixel by pixel: 10,000 canvas calls would be too slow for a frame.
  // Replaces the canvas content.
  drawDots(left, top, scale) {
    const { x, y, shown, codes, ratio } = this;
    const { width, height } = this.canvas;
    if (this.layer?.width !== width || this.layer?.height !== height) {
      this.layer = this.context.createImageData(width, height);
      this.pixels = new Uint32Array(this.layer.data.buffer);
    }
    const { pixels } = this;
    pixels.fill(0);
    const radius = (this.n > 1000 ? 1.7 : 2.4) * ratio;
    const reach = Math.ceil(radius);
    const most = this.framed ? 200 : 90;
    const stamp = []; // opacity at a distance, with a soft edge
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        const alpha = Math.round(most * Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(dx, dy))));
        if (alpha) stamp.push([dy * width + dx, alpha]);
      }
    }
    const offsets = Int32Array.from(stamp, ([offset]) => offset);
    const alphas = Int32Array.from(stamp, ([, alpha]) => alpha);
    const faint = Int32Array.from(alphas, (alpha) => alpha >> 3);
    for (let i = 0; i < this.n; i++) {
      if (shown[i] >= 1) continue;
      const px = Math.round((left + x[i] * scale) * ratio);
      const py = Math.round((top + y[i] * scale) * ratio);
      if (px < reach || py < reach || px >= width - reach || py >= height - reach) continue;
      const at = py * width + px;
      const colour = this.dots[codes[i]];
      const strength = this.only >= 0 && codes[i] !== this.only ? faint : alphas;
      for (let j = 0; j < offsets.length; j++) {
        const place = at + offsets[j];
        if (pixels[place] >>> 24 <= strength[j]) pixels[place] = (strength[j] << 24) | colour;
      }
    }
    this.context.putImageData(this.layer, 0, 0);
  }

  // Set the colours of items by code; the last code is for items without a colour of their own.
  colour(codes, colours, framed) {
    this.codes.set(codes);
    this.colours = colours;
    this.framed = framed;
    // Blue, green and red in the lower bytes, slightly greyed, so that white dots show on white.
    this.dots = colours.map((name) => {
      this.context.fillStyle = name;
      const parts = [1, 3, 5].map((at) => parseInt(this.context.fillStyle.slice(at, at + 2), 16));
      const [red, green, blue] = parts.map((part) => Math.round(0.88 * part + 0.12 * 128));
      return (blue << 16) | (green << 8) | red;
    });
    this.refresh();
  }

  // The item at a point of the canvas: the top thumbnail, else the nearest dot in reach, else -1.
  hit(px, py, reach = 9) {
    for (let j = this.drawn.length - 4; j >= 0; j -= 4) {
      const [item, x, y, side] = this.drawn.slice(j, j + 4);
      if (Math.abs(px - x) <= side / 2 && Math.abs(py - y) <= side / 2) return item;
    }
    let best = -1;
    let least = reach;
    for (let i = 0; i < this.n; i++) {
      const [x, y] = this.screen(i);
      const gap = Math.hypot(px - x, py - y);
      if (gap < least) [best, least] = [i, gap];
    }
    return best;
  }

  // Zoom by a factor around a point of the canvas.
  zoom(factor, px = this.width / 2, py = this.middle, soft = false) {
    const view = { ...(soft ? this.goal ?? this.view : this.view) };
    const zoom = Math.min(64, Math.max(0.7, view.zoom * factor));
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
    this.refresh();
  }
  all() {
    this.look({ x: 0.5, y: 0.5, zoom: 1 }, true);
  }

  // Move the focus to the nearest item in a direction, and bring it into view.
  walk(dx, dy) {
    const from = this.focus >= 0 ? this.focus : this.selected >= 0 ? this.selected : 0;
    let best = -1;
    let least = Infinity;
    for (let i = 0; i < this.n; i++) {
      const along = (this.x[i] - this.x[from]) * dx + (this.y[i] - this.y[from]) * dy;
      const aside = Math.abs((this.x[i] - this.x[from]) * dy) + Math.abs((this.y[i] - this.y[from]) * dx);
      // Prefer visible thumbnails, so that users see where the focus goes.
      const cost = along + 2 * aside + (this.shown[i] < 0.5 ? 10 : 0);
      if (along > 1e-6 && aside <= 2 * along && cost < least) [best, least] = [i, cost];
    }
    if (best < 0) return;
    this.focus = best;
    const [px, py] = this.screen(best);
    const edge = 40;
    if (px < edge || py < this.edges.top || px > this.width - edge || py > this.height - this.edges.bottom) {
      this.look({ x: this.x[best], y: this.y[best], zoom: this.view.zoom }, true);
    }
    this.said(best);
    this.refresh();
  }

  listen() {
    const { canvas } = this;
    const pointers = new Map();
    let start = null;
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    const leave = () => {
      this.focus = -1;
      this.refresh();
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, point(event));
      start = pointers.size === 1 ? { ...point(event), moved: false } : { moved: true };
      this.goal = null;
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = point(event);
      const before = pointers.get(event.pointerId);
      if (!before) {
        if (event.pointerType === "touch") return;
        const item = this.drawn ? this.hit(now.x, now.y) : -1;
        if (item !== this.focus) {
          this.focus = item;
          this.refresh();
        }
        canvas.style.cursor = item >= 0 ? "pointer" : "grab";
        return;
      }
      const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      if (!start.moved && Math.hypot(now.x - start.x, now.y - start.y) > 5) {
        start.moved = true;
        leave();
      }
      if (start.moved && !others.length) this.pan(now.x - before.x, now.y - before.y);
      if (others.length === 1) {
        const [other] = others;
        const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
        const factor = Math.hypot(now.x - other.x, now.y - other.y) / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
        this.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
        this.zoom(factor, middle.x, middle.y);
      }
      pointers.set(event.pointerId, now);
    });
    const up = (event) => {
      if (!pointers.delete(event.pointerId) || pointers.size) return;
      if (event.type === "pointerup" && !start.moved) {
        const { x, y } = point(event);
        const item = this.hit(x, y, event.pointerType === "touch" ? 20 : 9);
        if (item >= 0) this.chosen(item);
      }
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", leave);
    canvas.addEventListener("blur", leave);
    canvas.addEventListener("dblclick", (event) => {
      const { x, y } = point(event);
      this.zoom(2, x, y, true);
    });
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const lines = event.deltaMode === 1 ? 33 : 1;
        const { x, y } = point(event);
        this.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), x, y);
      },
      { passive: false },
    );
    const keys = {
      ArrowLeft: () => this.walk(-1, 0),
      ArrowRight: () => this.walk(1, 0),
      ArrowUp: () => this.walk(0, -1),
      ArrowDown: () => this.walk(0, 1),
      Enter: () => this.focus >= 0 && this.chosen(this.focus),
      " ": () => this.focus >= 0 && this.chosen(this.focus),
      "+": () => this.zoom(1.5, undefined, undefined, true),
      "=": () => this.zoom(1.5, undefined, undefined, true),
      "-": () => this.zoom(1 / 1.5, undefined, undefined, true),
      0: () => this.all(),
      Escape: leave,
    };
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
      event.preventDefault();
      keys[event.key]();
    });
  }

  pan(dx, dy) {
    const scale = this.fit * this.view.zoom;
    this.look({ x: this.view.x - dx / scale, y: this.view.y - dy / scale, zoom: this.view.zoom }, false);
  }
}
