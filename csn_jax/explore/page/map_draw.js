"use strict";
// What a frame of the map looks like.

Object.assign(ItemMap.prototype, {
  draw(now) {
    frame++;
    const moving = this.step(now);
    const { context, x, y, opacity, codes, width, height, ratio } = this;
    readColours();
    const style = getComputedStyle(this.canvas);
    const [ink, page, accent] = ["--ink", "--page", "--accent"].map((name) => style.getPropertyValue(name));
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.imageSmoothingQuality = "medium";
    const scale = this.fit * this.view.zoom;
    const [left, top] = this.at(0, 0);
    const radius = (this.n > 20_000 ? 1.3 : this.n > 1000 ? 1.7 : 2.4) * Math.min(2, Math.max(1, this.view.zoom ** 0.3)) * ratio;
    this.dots.draw({ x, y, paint: this.paints, left: left * ratio, top: top * ratio, scale: scale * ratio, radius, moved: this.moved, painted: this.painted });
    this.moved = this.painted = false;
    this.boxes = [];
    const { thumb } = this;
    for (let j = this.thumbs.length - 1; j >= 0; j--) { // the first to appear is on top
      const i = this.thumbs[j];
      if (opacity[i] <= 0) continue;
      const px = left + x[i] * scale;
      const py = top + y[i] * scale;
      if (px < -thumb || py < -thumb || px > width + thumb || py > height + thumb) continue;
      const side = thumb * (0.6 + 0.35 * opacity[i]);
      this.tile(i, px, py, side, opacity[i] * (this.lit[i] ? 1 : 0.12), this.framed ? this.colours[codes[i]] : null);
    }
    this.drawPicked(left, top, scale, accent);
    for (const i of [...this.marks].reverse()) this.marked(i, opacity[i] > 0.5 ? thumb : 0, ink, page, 1.75);
    if (this.selected >= 0) this.marked(this.selected, Math.max(44, thumb * 1.25), ink, page, 4);
    if (this.focus >= 0 && this.focus !== this.selected) this.marked(this.focus, Math.max(44, thumb * 1.25), accent, page, 4);
    this.drawNames(ink, page);
    this.drawShape(accent);
    context.globalAlpha = 1;
    this.focused(this.focus, ...(this.focus >= 0 ? this.screen(this.focus) : []));
    this.drawn();
    if (moving) this.refresh();
  },

  // A thumbnail around a point of the canvas, with a frame if a colour is given.
  tile(item, px, py, side, alpha, frame) {
    const { context } = this;
    context.globalAlpha = alpha;
    this.boxes.push(item, px, py, side);
    this.paint(context, item, px - side / 2, py - side / 2, side, this.colours[this.codes[item]]);
    if (frame && !this.isText(item) && this.ready(item)) {
      const line = Math.max(1.5, side / 18);
      context.strokeStyle = frame;
      context.lineWidth = line;
      context.strokeRect(px - (side + line) / 2, py - (side + line) / 2, side + line, side + line);
    }
  },

  // A highlighted item: its thumbnail in a frame, or its dot in a ring (side 0).
  marked(item, side, colour, page, line) {
    const { context } = this;
    const [px, py] = this.screen(item);
    context.beginPath();
    if (side) {
      context.globalAlpha = 1;
      const high = this.isText(item) ? 30 : side; // a line of text is wider than high
      context.fillStyle = page;
      context.fillRect(px - side / 2, py - high / 2, side, high);
      this.tile(item, px, py, side, 1, null);
      context.beginPath(); // a label draws a path of its own
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
  },

  // A ring around each selected item, while they are few enough to tell apart.
  drawPicked(left, top, scale, accent) {
    if (!this.picked?.size || this.picked.size > 3000) return;
    const { context } = this;
    context.globalAlpha = 1;
    context.strokeStyle = accent;
    context.lineWidth = 2;
    context.beginPath();
    for (const i of this.picked) {
      const [px, py] = [left + this.x[i] * scale, top + this.y[i] * scale];
      if (px < 0 || py < 0 || px > this.width || py > this.height) continue;
      context.moveTo(px + 4, py);
      context.arc(px, py, 4, 0, 2 * Math.PI);
    }
    context.stroke();
  },

  // The box or lasso that is being drawn.
  drawShape(accent) {
    if (!this.shape || this.shape.length < 2) return;
    const { context } = this;
    context.globalAlpha = 1;
    context.beginPath();
    for (const { x, y } of outlineOf(this.tool, this.shape)) context.lineTo(x, y);
    context.closePath();
    context.setLineDash([6, 4]);
    context.strokeStyle = accent;
    context.lineWidth = 2;
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 0.12;
    context.fillStyle = accent;
    context.fill();
  },

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
  },
});
