"use strict";
// Dots of all items: by WebGL where it is drawn by hardware, else pixel by pixel.

class PixelDots {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
  }

  // Draw at x, y [n] times `scale` plus `left`, `top`, in device pixels. paint: Uint32Array [n], colour with its opacity
  // in the upper byte; 0 is invisible.
  draw({ x, y, paint, left, top, scale, radius }) {
    const { width, height } = this.canvas;
    if (!width || !height) return;
    if (this.layer?.width !== width || this.layer?.height !== height) {
      this.layer = this.context.createImageData(width, height);
      this.pixels = new Uint32Array(this.layer.data.buffer);
      this.dirty = [0, height];
    }
    const { pixels } = this;
    pixels.fill(0);
    const reach = Math.ceil(radius);
    const offsets = [];
    const shares = []; // of the opacity at a distance, with a soft edge, in 256ths
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        const share = Math.round(256 * Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(dx, dy))));
        if (share) {
          offsets.push(dy * width + dx);
          shares.push(share);
        }
      }
    }
    const [at, of] = [Int32Array.from(offsets), Int32Array.from(shares)];
    for (let i = 0; i < paint.length; i++) {
      const alpha = paint[i] >>> 24;
      if (!alpha) continue;
      const px = Math.round(left + x[i] * scale);
      const py = Math.round(top + y[i] * scale);
      if (px < reach || py < reach || px >= width - reach || py >= height - reach) continue;
      const middle = py * width + px;
      const colour = paint[i] & 0xffffff;
      for (let j = 0; j < at.length; j++) {
        const place = middle + at[j];
        const strength = (alpha * of[j]) >> 8;
        if (pixels[place] >>> 24 <= strength) pixels[place] = (strength << 24) | colour;
      }
    }
    this.context.putImageData(this.layer, 0, 0);
  }
}

const VERTEX = `
attribute vec2 place;
attribute vec4 paint;
uniform vec3 view;
uniform vec2 size;
uniform mediump float radius;
varying vec4 colour;
void main() {
  vec2 at = (place * view.z + view.xy) / size * 2.0 - 1.0;
  gl_Position = paint.a > 0.0 ? vec4(at.x, -at.y, 0.0, 1.0) : vec4(2.0, 2.0, 0.0, 1.0);
  gl_PointSize = 2.0 * radius + 1.0;
  colour = paint;
}`;
const FRAGMENT = `
precision mediump float;
uniform float radius;
varying vec4 colour;
void main() {
  float gap = length(gl_PointCoord - 0.5) * (2.0 * radius + 1.0);
  float alpha = colour.a * clamp(radius + 0.5 - gap, 0.0, 1.0);
  gl_FragColor = vec4(colour.rgb * alpha, alpha);
}`;

class GlDots {
  constructor(canvas, gl) {
    this.canvas = canvas;
    this.gl = gl;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error("the shaders of the dots do not link");
    gl.useProgram(program);
    this.uniforms = Object.fromEntries(["view", "size", "radius"].map((name) => [name, gl.getUniformLocation(program, name)]));
    this.buffers = ["place", "paint"].map((name) => {
      const buffer = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      const at = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(at);
      if (name === "place") gl.vertexAttribPointer(at, 2, gl.FLOAT, false, 0, 0);
      else gl.vertexAttribPointer(at, 4, gl.UNSIGNED_BYTE, true, 0, 0);
      return buffer;
    });
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  // As in PixelDots. moved, painted: whether x and y, or paint, differ from those of the last call.
  draw({ x, y, paint, left, top, scale, radius, moved, painted }) {
    const { gl } = this;
    const [place, colours] = this.buffers;
    if (moved || !this.places) {
      this.places ??= new Float32Array(2 * x.length);
      for (let i = 0; i < x.length; i++) {
        this.places[2 * i] = x[i];
        this.places[2 * i + 1] = y[i];
      }
      gl.bindBuffer(gl.ARRAY_BUFFER, place);
      gl.bufferData(gl.ARRAY_BUFFER, this.places, gl.DYNAMIC_DRAW);
    }
    if (painted) {
      gl.bindBuffer(gl.ARRAY_BUFFER, colours);
      gl.bufferData(gl.ARRAY_BUFFER, new Uint8Array(paint.buffer), gl.DYNAMIC_DRAW);
    }
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform3f(this.uniforms.view, left, top, scale);
    gl.uniform2f(this.uniforms.size, this.canvas.width, this.canvas.height);
    gl.uniform1f(this.uniforms.radius, radius);
    gl.drawArrays(gl.POINTS, 0, x.length);
  }
}

// What draws WebGL here, by name.
function rendererOf(gl) {
  const name = String(gl.getParameter(gl.RENDERER));
  const debug = /^WebKit/.test(name) && gl.getExtension("WEBGL_debug_renderer_info");
  return debug ? String(gl.getParameter(debug.UNMASKED_RENDERER_WEBGL)) : name;
}

// What draws dots on a canvas. WebGL in software is slower than pixels, and browsers warn of it.
function dotsOf(canvas) {
  const options = { antialias: false, failIfMajorPerformanceCaveat: true };
  const probe = document.createElement("canvas").getContext("webgl", options);
  const software = !probe || /swiftshader|llvmpipe|softpipe|software|basic render/i.test(rendererOf(probe));
  probe?.getExtension("WEBGL_lose_context")?.loseContext();
  const gl = software ? null : canvas.getContext("webgl", options);
  if (!gl) return new PixelDots(canvas);
  try {
    return new GlDots(canvas, gl);
  } catch {
    const other = canvas.cloneNode(); // a canvas keeps its first kind of context
    canvas.replaceWith(other);
    return new PixelDots(other);
  }
}
