"use strict";
// Pointers and keys on the map.

// The corners of what a tool encloses: of the box between the first and last point, or the points themselves.
function outlineOf(tool, points) {
  if (tool !== "box") return points;
  const [a, b] = [points[0], points.at(-1)];
  return [a, { x: b.x, y: a.y }, b, { x: a.x, y: b.y }];
}

// Whether a point is inside an outline: a line from it to the right crosses the outline an odd number of times.
function isInside(px, py, outline) {
  let inside = false;
  for (let i = 0, j = outline.length - 1; i < outline.length; j = i++) {
    const [a, b] = [outline[i], outline[j]];
    if (a.y > py !== b.y > py && px < ((b.x - a.x) * (py - a.y)) / (b.y - a.y) + a.x) inside = !inside;
  }
  return inside;
}

Object.assign(ItemMap.prototype, {
  // The items inside an outline on the canvas that pass the filters.
  inside(outline) {
    const found = [];
    for (let i = 0; i < this.n; i++) {
      if ((!this.allowed || this.allowed[i]) && isInside(...this.screen(i), outline)) found.push(i);
    }
    return found;
  },
  inView() {
    const { width: x, height: y } = this;
    return this.inside([{ x: 0, y: 0 }, { x, y: 0 }, { x, y }, { x: 0, y }]);
  },

  // The item at a point of the canvas: the top thumbnail, else the nearest dot in reach, else -1.
  hit(px, py, reach = 9) {
    const { boxes, x, y, allowed } = this;
    for (let j = boxes.length - 4; j >= 0; j -= 4) {
      if (Math.abs(px - boxes[j + 1]) <= boxes[j + 3] / 2 && Math.abs(py - boxes[j + 2]) <= boxes[j + 3] / 2) return boxes[j];
    }
    const scale = this.fit * this.view.zoom;
    const [left, top] = this.at(0, 0);
    let best = -1;
    let least = reach * reach;
    for (let i = 0; i < this.n; i++) {
      const [dx, dy] = [left + x[i] * scale - px, top + y[i] * scale - py];
      const gap = dx * dx + dy * dy;
      if (gap < least && (!allowed || allowed[i])) [best, least] = [i, gap];
    }
    return best;
  },

  // Move the focus to the nearest item in a direction, and bring it into view.
  walk(dx, dy) {
    const from = this.focus >= 0 ? this.focus : this.selected >= 0 ? this.selected : 0;
    let best = -1;
    let least = Infinity;
    for (let i = 0; i < this.n; i++) {
      if (this.allowed && !this.allowed[i]) continue;
      const along = (this.x[i] - this.x[from]) * dx + (this.y[i] - this.y[from]) * dy;
      const aside = Math.abs((this.x[i] - this.x[from]) * dy) + Math.abs((this.y[i] - this.y[from]) * dx);
      // Prefer visible thumbnails, so that users see where the focus goes.
      const cost = along + 2 * aside + (this.opacity[i] < 0.5 ? 10 : 0);
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
  },
});

function listenTo(map) {
  const { canvas } = map;
  const pointers = new Map();
  let start = null;
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const leave = () => {
    map.focus = -1;
    map.refresh();
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, point(event));
    start = pointers.size === 1 ? { ...point(event), moved: false } : { moved: true };
    map.shape = map.tool !== "move" && pointers.size === 1 ? [point(event)] : null;
    map.goal = null;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = point(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "touch") return;
      const item = map.boxes ? map.hit(now.x, now.y) : -1;
      if (item !== map.focus) {
        map.focus = item;
        map.refresh();
      }
      canvas.style.cursor = map.tool !== "move" ? "crosshair" : item >= 0 ? "pointer" : "grab";
      return;
    }
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    if (!start.moved && Math.hypot(now.x - start.x, now.y - start.y) > 5) {
      start.moved = true;
      leave();
    }
    if (map.shape) {
      map.shape.push(now);
      map.refresh();
    } else if (start.moved && !others.length) map.pan(now.x - before.x, now.y - before.y);
    if (others.length === 1) {
      const [other] = others;
      const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
      const factor = Math.hypot(now.x - other.x, now.y - other.y) / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
      map.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
      map.zoom(factor, middle.x, middle.y);
    }
    pointers.set(event.pointerId, now);
  });
  const up = (event) => {
    if (!pointers.delete(event.pointerId) || pointers.size) return;
    const shape = map.shape;
    map.shape = null;
    if (event.type !== "pointerup") return map.refresh();
    if (shape && start.moved) return map.enclosed(map.inside(outlineOf(map.tool, shape)), event.shiftKey);
    if (!start.moved) {
      const { x, y } = point(event);
      const item = map.hit(x, y, event.pointerType === "touch" ? 20 : 9);
      if (item >= 0) map.chosen(item);
    }
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("blur", leave);
  canvas.addEventListener("dblclick", (event) => {
    const { x, y } = point(event);
    map.zoom(2, x, y, true);
  });
  const onWheel = (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 33 : 1;
    const { x, y } = point(event);
    map.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), x, y);
  };
  canvas.addEventListener("wheel", onWheel, { passive: false });
  const go = (dx, dy) => (event) => (event.shiftKey ? map.pan(-80 * dx, -80 * dy) : map.walk(dx, dy));
  const choose = () => map.focus >= 0 && map.chosen(map.focus);
  const keys = {
    ArrowLeft: go(-1, 0),
    ArrowRight: go(1, 0),
    ArrowUp: go(0, -1),
    ArrowDown: go(0, 1),
    Enter: choose,
    " ": choose,
    "+": () => map.zoom(1.5, undefined, undefined, true),
    "=": () => map.zoom(1.5, undefined, undefined, true),
    "-": () => map.zoom(1 / 1.5, undefined, undefined, true),
    0: () => map.all(),
    x: () => map.toggled(map.focus >= 0 ? map.focus : map.selected),
    v: () => map.enclosed(map.inView(), false),
    Escape: leave,
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key](event);
  });
}
