"use strict";
// The items of the page: names, attributes and pictures. Text from the data is only ever set as text.

const { ids, columns, pictures, condition } = CSN_DATA;
const N = ids.length;
for (const column of columns) {
  const Codes = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[column.bytes];
  column.codes = new Codes(bytesOf(column.codes).buffer);
}
const missing = new Set(pictures?.missing);
const hasPicture = (item) => pictures !== null && !missing.has(item);
const sheets = new Map(); // number -> a promise of an image
const HELD = 40; // sheets in memory

function valuesOf(item) {
  return columns.map((column) => [column.name, column.values[column.codes[item]]]).filter(([, value]) => value !== "");
}

// The last part of a path.
const nameOf = (item) => ids[item].replace(/^.*\/(?=.)/, "");

function sheetOf(number) {
  if (!sheets.has(number)) {
    const image = new Image();
    image.src = pictures.files[number];
    if (sheets.size >= HELD) sheets.delete(sheets.keys().next().value);
    sheets.set(number, image.decode().then(() => image));
  }
  return sheets.get(number);
}

// An item's picture with a side in pixels, or a card with its name and attributes.
function portrait(item, size, most = 6) {
  if (!hasPicture(item)) {
    const facts = valuesOf(item).slice(0, most).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
    return el("div", { className: "card" }, el("strong", {}, nameOf(item)), el("dl", {}, ...facts));
  }
  const canvas = el("canvas", { width: 2 * size, height: 2 * size, role: "img", "aria-label": nameOf(item) });
  draw(canvas, item);
  return canvas;
}

async function draw(canvas, item) {
  const { side, sheet, ink } = pictures;
  const across = Math.floor(sheet / side);
  const place = item % across ** 2;
  const image = await sheetOf(Math.floor(item / across ** 2)).catch(() => null);
  if (!image) return; // it could not be read
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const from = [(place % across) * side, Math.floor(place / across) * side, side, side];
  context.drawImage(image, ...from, 0, 0, canvas.width, canvas.height);
  canvas.dataset.item = item;
  if (!ink) return;
  context.globalCompositeOperation = "source-in"; // ink has the colour of the text
  context.fillStyle = getComputedStyle(document.body).getPropertyValue("--ink");
  context.fillRect(0, 0, canvas.width, canvas.height);
}

// Load the pictures of a question before it is asked.
function preload(items) {
  if (!pictures) return;
  const across = Math.floor(pictures.sheet / pictures.side);
  for (const item of items) if (hasPicture(item)) sheetOf(Math.floor(item / across ** 2)).catch(() => null);
}
