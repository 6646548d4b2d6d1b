"use strict";
// Thumbnails from sheets, which are loaded when one of their pictures is wanted, and forgotten when others are.

const { pictures } = CSN_DATA;
const HELD = 48; // sheets in memory
const AT_ONCE = 4; // sheets on their way
const sheets = new Map(); // number -> {image, drawn, used}: `drawn` is what pictures are cut from, `used` the frame that did so last
const wanted = new Map(); // number of a sheet -> how many of its pictures are wanted
const waiting = new Map(); // number of a sheet -> functions to call when it is here
const onTheirWay = new Set();
let frame = 0; // of the map
const missing = new Set(pictures?.missing);
const placeOf = CSN_DATA.order && pictures ? new Uint32Array(N) : null; // of an item on the sheets
if (placeOf) new Uint32Array(bytesOf(CSN_DATA.order).buffer).forEach((item, place) => (placeOf[item] = place));

const hasPicture = (item) => pictures !== null && !missing.has(item);
const across = pictures ? Math.floor(pictures.sheet / pictures.side) : 1;
const positionOf = (item) => (placeOf ? placeOf[item] : item);
const sheetOf = (item) => Math.floor(positionOf(item) / across ** 2);
const isHere = (item) => hasPicture(item) && sheets.has(sheetOf(item));

// Ask for the sheet of an item's picture, and call `then` when it is here.
function want(item, then = null) {
  const sheet = sheetOf(item);
  if (sheets.has(sheet)) return;
  wanted.set(sheet, (wanted.get(sheet) ?? 0) + (then ? 100 : 1)); // the chosen item's before the map's
  if (then) waiting.set(sheet, [...(waiting.get(sheet) ?? []), then]);
}

// Load the sheets that are wanted most; what was wanted is forgotten, as the next frame asks again.
function loadWanted() {
  const full = sheets.size >= HELD && [...sheets.values()].every((sheet) => sheet.used === frame);
  const may = ([sheet, times]) => !sheets.has(sheet) && !onTheirWay.has(sheet) && (!full || times >= 100);
  const most = [...wanted].filter(may).sort((a, b) => b[1] - a[1]);
  for (const [sheet] of most.slice(0, AT_ONCE - onTheirWay.size)) load(sheet);
  wanted.clear();
  for (const [sheet, callbacks] of waiting) if (!onTheirWay.has(sheet)) wanted.set(sheet, 100 * callbacks.length);
}

async function load(number) {
  onTheirWay.add(number);
  const image = new Image();
  image.src = pictures.files[number];
  await image.decode().catch(() => null);
  const sheet = { image, drawn: null, used: frame };
  await draw(sheet);
  const oldest = [...sheets].sort((a, b) => a[1].used - b[1].used);
  for (const [old] of oldest.slice(0, Math.max(0, sheets.size + 1 - HELD))) sheets.delete(old);
  sheets.set(number, sheet);
  onTheirWay.delete(number);
  const callbacks = waiting.get(number) ?? [];
  waiting.delete(number);
  for (const callback of callbacks) callback();
  itemMap.repaint();
  loadWanted();
}

// Make of a sheet what pictures are cut from: a bitmap, or for ink a canvas in the colour of the text.
async function draw(sheet) {
  const { image } = sheet;
  if (!image.width) sheet.drawn = el("canvas", { width: 1, height: 1 }); // it could not be read
  else if (pictures.ink) sheet.drawn = tinted(image);
  else sheet.drawn = await createImageBitmap(image);
}

function tinted(image) {
  const canvas = el("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = getComputedStyle(document.body).getPropertyValue("--ink");
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}

// After a change of colours: ink in those of now.
function redraw() {
  if (pictures?.ink) for (const sheet of sheets.values()) if (sheet.image.width) sheet.drawn = tinted(sheet.image);
}

// Draw an item's thumbnail, or its name if it has none; nothing while its sheet is not here.
function paint(context, item, x, y, size, colour) {
  if (!hasPicture(item)) return label(context, item, x, y, size, colour);
  const number = sheetOf(item);
  const sheet = sheets.get(number);
  if (!sheet) return want(item);
  sheet.used = frame;
  const place = positionOf(item) % across ** 2;
  const { side } = pictures;
  context.drawImage(sheet.drawn, (place % across) * side, Math.floor(place / across) * side, side, side, x, y, size, size);
}

function label(context, item, x, y, size, colour) {
  const middle = y + size / 2;
  context.fillStyle = colour ?? label.ink;
  context.beginPath();
  context.arc(x + size / 2, middle - 7, 3.5, 0, 2 * Math.PI);
  context.fill();
  context.font = `500 ${size < 60 ? 10 : 12}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.strokeStyle = label.page;
  context.lineWidth = 4;
  const name = nameOf(item, size < 60 ? 8 : 12);
  context.strokeText(name, x + size / 2, middle + 6, Math.max(size - 6, 40));
  context.fillStyle = label.ink;
  context.fillText(name, x + size / 2, middle + 6, Math.max(size - 6, 40));
}

// The colours of labels; reading them for every label would be slow.
function readColours() {
  const style = getComputedStyle(document.body);
  label.ink = style.getPropertyValue("--ink");
  label.page = style.getPropertyValue("--page");
}

// A thumbnail with a side in pixels, or a name if the item has no picture.
function thumbnail(item, size) {
  if (!hasPicture(item)) return el("span", { className: "name" }, nameOf(item, 14));
  const canvas = el("canvas", { width: 2 * size, height: 2 * size, "aria-hidden": "true" });
  const draw = () => {
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    paint(context, item, 0, 0, 2 * size);
  };
  if (isHere(item)) draw();
  else {
    want(item, draw);
    setTimeout(loadWanted);
  }
  return canvas;
}
