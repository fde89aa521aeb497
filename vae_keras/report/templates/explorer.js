"use strict";
// The page of a model. One vector of latents, `z`, and for a model with classes the class to decode
// in, `label`, are the state: the ring on the map, the sliders and the decoded picture show them,
// and every control sets them.
const facts = JSON.parse(document.getElementById("facts").textContent);
const [height, width, channels] = facts.shape;
const size = height * width * channels, latents = facts.latent_dim;
const $ = (id) => document.getElementById(id);
const COLOURS = ["#4c78a8", "#f58518", "#54a24b", "#e45756", "#8d6cab", "#3aa6a6", "#c9a227",
  "#d67195", "#9d7660", "#7f8a94"];
const colour = (index) => facts.names.length <= COLOURS.length ? COLOURS[index]
  : `hsl(${(index * 137.5) % 360} 55% 52%)`;
const dark = matchMedia("(prefers-color-scheme: dark)");
const SCORE_DRAWS = 16; // posterior draws behind the ELBO of a drawing

let images, points, parts = {}, ort;
let z = new Float32Array(latents), label = 0, chosen = -1, hovered = -1;
const hidden = new Set();

// ---------------------------------------------------------------- the model

async function blob(name) {
  const element = $(name);
  const data = await fetch(`data:application/octet-stream;base64,${element.textContent}`);
  element.remove(); // the text of the engine takes more memory than the engine
  const stream = data.body.pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  images = await blob("images");
  points = new Float32Array((await blob("points")).buffer);
  fit();
  const script = new Blob([await blob("engine-script")], { type: "text/javascript" });
  ort = await import(URL.createObjectURL(script));
  ort.env.wasm.wasmBinary = (await blob("engine-wasm")).buffer;
  ort.env.wasm.numThreads = 1; // threads need a server that isolates the page
  ort.env.logLevel = "error";
  const weights = [{ path: "weights", data: await blob("weights") }];
  for (const element of document.querySelectorAll("script[id^=part-]")) {
    const name = element.id.slice(5);
    parts[name] = await ort.InferenceSession.create(await blob(element.id), {
      executionProviders: ["wasm"], externalData: weights, logSeverityLevel: 3,
    });
  }
}

// The engine computes one request at a time.
let queue = Promise.resolve();
function run(part, feeds, rows) {
  const shapes = { images: [rows, ...facts.shape], latents: [rows, latents], noise: [rows, latents],
    labels: [rows, facts.names.length] };
  const tensors = {};
  for (const name in feeds) tensors[name] = new ort.Tensor("float32", feeds[name], shapes[name]);
  const result = queue.then(() => parts[part].run(tensors));
  queue = result.catch(() => {});
  return result.then((found) => Object.fromEntries(
    Object.entries(found).map(([name, tensor]) => [name, tensor.data])));
}
// Returns the one-hot labels of rows of one class, which a model with classes takes in addition.
function given(rows, of) {
  if (!facts.conditional) return {};
  const labels = new Float32Array(rows * facts.names.length);
  for (let row = 0; row < rows; row++) labels[row * facts.names.length + of] = 1;
  return { labels };
}
const encode = (pixels, rows = 1, of = label) =>
  run("encoder", { images: pixels, ...given(rows, of) }, rows);
const decode = (values, rows = 1, of = label) =>
  run("decoder", { latents: values, ...given(rows, of) }, rows).then((found) => found.means);
const score = (pixels, noise, rows = 1) =>
  run("score", { images: pixels, noise, ...given(rows, label) }, rows);
const prior = (noise, rows = 1) => facts.learned_prior
  ? run("prior", { noise }, rows).then((found) => found.latents) : Promise.resolve(noise);

// Returns a function that works on the newest request only, so that pictures keep up with a hand.
function newest(work) {
  let waiting = null, busy = false;
  return async (...request) => {
    waiting = request;
    if (busy) return;
    busy = true;
    try {
      while (waiting) {
        const next = waiting;
        waiting = null;
        await work(...next);
      }
    } finally { busy = false; }
  };
}

function normal(count) {
  const draws = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    draws[i] = Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  }
  return draws;
}

// ---------------------------------------------------------------- pictures

function paint(canvas, values, offset = 0, scale = 255) {
  canvas.width = width;
  canvas.height = height;
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      data.data[4 * i + c] = scale * values[offset + channels * i + (channels === 3 ? c : 0)];
    }
    data.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(data, 0, 0);
}
const paintImage = (canvas, index) => paint(canvas, images, index * size, 1);
const pixelsOf = (index) =>
  Float32Array.from(images.subarray(index * size, (index + 1) * size), (value) => value / 255);
const classOf = (index) => facts.classes ? facts.classes[index] : 0;
const nameOf = (index) => `image ${index + 1}${facts.labels ? `, ${facts.labels[index]}` : ""}`;

const showDecoded = newest(async (values) => paint($("decoded"), await decode(values)));
const showImage = newest(async (index) => {
  paintImage($("image"), index);
  $("image-text").textContent = nameOf(index);
  const { loc } = await encode(pixelsOf(index), 1, classOf(index));
  paint($("reconstruction"), await decode(loc, 1, classOf(index)));
});

function setLatents(values) {
  z = Float32Array.from(values);
  for (const slider of document.querySelectorAll(".slider input")) setSlider(slider);
  drawMap();
  return showDecoded(z);
}

async function choose(index) {
  chosen = index;
  showImage(index);
  if (facts.conditional && classOf(index) !== label) {
    markLabel(classOf(index));
    showDraws();
  }
  return setLatents((await encode(pixelsOf(index))).loc);
}

// ---------------------------------------------------------------- the map

const map = $("map"), view = { x: 0, y: 0, scale: 1 };
const place = (values) => facts.directions.map((direction) =>
  direction.reduce((sum, part, i) => sum + part * (values[i] - facts.centre[i]), 0));
const toScreen = (x, y) => [map.clientWidth / 2 + (x - view.x) * view.scale,
  map.clientHeight / 2 - (y - view.y) * view.scale];
const shown = (index) => !facts.classes || !hidden.has(facts.classes[index]);

function fit() {
  let [left, right, bottom, top] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < facts.count; i++) {
    left = Math.min(left, points[2 * i]); right = Math.max(right, points[2 * i]);
    bottom = Math.min(bottom, points[2 * i + 1]); top = Math.max(top, points[2 * i + 1]);
  }
  view.x = (left + right) / 2;
  view.y = (bottom + top) / 2;
  view.scale = 0.92 * Math.min(map.clientWidth / Math.max(right - left, 1e-6),
    map.clientHeight / Math.max(top - bottom, 1e-6));
  drawMap();
}

function zoom(factor, x = map.clientWidth / 2, y = map.clientHeight / 2) {
  const dx = (x - map.clientWidth / 2) / view.scale, dy = (map.clientHeight / 2 - y) / view.scale;
  view.x += dx * (1 - 1 / factor);
  view.y += dy * (1 - 1 / factor);
  view.scale *= factor;
  drawMap();
}

function moveRing(dx, dy) { // in pixels of the screen
  const values = Float32Array.from(z), [first, second] = facts.directions;
  for (let i = 0; i < latents; i++) {
    values[i] += (first[i] * dx - second[i] * dy) / view.scale;
  }
  return setLatents(values);
}

const THUMBS = 160, THUMB = 30; // so few points are shown as pictures, in pixels of the screen
const thumbs = new Map();
function thumb(index) {
  if (!thumbs.has(index)) {
    const canvas = document.createElement("canvas");
    const flipped = facts.invert && !dark.matches;
    paint(canvas, images.subarray(index * size, (index + 1) * size).map((v) => flipped ? 255 - v : v),
      0, 1);
    thumbs.set(index, canvas);
  }
  return thumbs.get(index);
}

let drawing = 0;
function drawMap() {
  if (!drawing && points) drawing = requestAnimationFrame(drawNow);
}

function drawNow() {
  drawing = 0;
  const ratio = devicePixelRatio || 1, style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ring"), line = style.getPropertyValue("--line");
  map.width = map.clientWidth * ratio;
  map.height = map.clientHeight * ratio;
  const context = map.getContext("2d");
  context.scale(ratio, ratio);
  const [x0, y0] = toScreen(0, 0);
  context.strokeStyle = line;
  context.beginPath();
  context.moveTo(x0, 0); context.lineTo(x0, map.clientHeight);
  context.moveTo(0, y0); context.lineTo(map.clientWidth, y0);
  context.stroke();
  const seen = [];
  for (let i = 0; i < facts.count; i++) {
    const [x, y] = toScreen(points[2 * i], points[2 * i + 1]);
    if (shown(i) && x > -20 && y > -20 && x < map.clientWidth + 20 && y < map.clientHeight + 20) {
      seen.push([i, x, y]);
    }
  }
  const radius = Math.min(4.5, Math.max(2, 2.2 * Math.sqrt(facts.count / (seen.length + 1)) ** 0.7));
  for (const [i, x, y] of seen) {
    const tone = facts.classes ? colour(facts.classes[i]) : style.getPropertyValue("--accent");
    if (seen.length <= THUMBS) {
      const across = THUMB * Math.min(1, width / height), down = across * height / width;
      context.drawImage(thumb(i), x - across / 2, y - down / 2, across, down);
      context.strokeStyle = tone;
      context.lineWidth = 1.5;
      context.strokeRect(x - across / 2, y - down / 2, across, down);
    } else {
      context.globalAlpha = 0.75;
      context.fillStyle = tone;
      context.beginPath();
      context.arc(x, y, i === hovered || i === chosen ? radius + 2 : radius, 0, 2 * Math.PI);
      context.fill();
    }
  }
  context.globalAlpha = 1;
  if (walk.start.loc && walk.end.loc) {
    context.strokeStyle = ink;
    context.lineWidth = 1;
    context.setLineDash([4, 4]);
    context.beginPath();
    context.moveTo(...toScreen(...place(walk.start.loc)));
    context.lineTo(...toScreen(...place(walk.end.loc)));
    context.stroke();
    context.setLineDash([]);
  }
  const [x, y] = toScreen(...place(z));
  for (const [shade, thickness] of [[style.getPropertyValue("--card"), 6], [ink, 2.5]]) {
    context.strokeStyle = shade;
    context.lineWidth = thickness;
    context.beginPath();
    context.arc(x, y, 11, 0, 2 * Math.PI);
    context.stroke();
  }
}

function nearest(x, y, reach) {
  let best = -1, least = reach * reach;
  for (let i = 0; i < facts.count; i++) {
    if (!shown(i)) continue;
    const [px, py] = toScreen(points[2 * i], points[2 * i + 1]);
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < least) [best, least] = [i, distance];
  }
  return best;
}

const fingers = new Map();
let dragged = null; // what the pointer holds: "ring", "map" or "pinch"
let travelled = 0;
map.addEventListener("pointerdown", (event) => {
  map.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
  const [x, y] = toScreen(...place(z));
  const onRing = Math.hypot(event.offsetX - x, event.offsetY - y) < 18;
  dragged = fingers.size > 1 ? "pinch" : onRing ? "ring" : "map";
  travelled = 0;
});
map.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) {
    const index = nearest(event.offsetX, event.offsetY, 14);
    if (index !== hovered) {
      hovered = index;
      if (index >= 0 && parts.decoder) showImage(index);
      drawMap();
    }
    return;
  }
  const dx = event.offsetX - before[0], dy = event.offsetY - before[1];
  travelled += Math.hypot(dx, dy);
  if (dragged === "pinch") {
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    if (other) {
      const spread = (at) => Math.max(Math.hypot(at[0] - other[0], at[1] - other[1]), 1);
      zoom(spread([event.offsetX, event.offsetY]) / spread(before), ...other);
    }
  } else if (dragged === "ring" && parts.decoder) {
    moveRing(dx, dy);
  } else if (dragged === "map") {
    view.x -= dx / view.scale;
    view.y += dy / view.scale;
    drawMap();
  }
  fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
});
for (const name of ["pointerup", "pointercancel"]) {
  map.addEventListener(name, (event) => {
    fingers.delete(event.pointerId);
    if (name === "pointerup" && dragged === "map" && travelled < 4 && parts.decoder) {
      const index = nearest(event.offsetX, event.offsetY, 14);
      const [x, y] = toScreen(...place(z));
      if (index >= 0) choose(index);
      else moveRing(event.offsetX - x, event.offsetY - y);
    }
    if (!fingers.size) dragged = null;
  });
}
map.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-Math.max(-100, Math.min(100, event.deltaY)) / 400), event.offsetX, event.offsetY);
}, { passive: false });
map.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 40 : 8;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step],
    ArrowDown: [0, step] };
  if (moves[event.key] && parts.decoder) moveRing(...moves[event.key]);
  else if (event.key === "Enter" && parts.decoder) {
    const index = nearest(...toScreen(...place(z)), Infinity);
    if (index >= 0) choose(index);
  } else if (event.key === "+" || event.key === "=") zoom(1.3);
  else if (event.key === "-") zoom(1 / 1.3);
  else if (event.key === "0") fit();
  else return;
  event.preventDefault();
});
$("closer").onclick = () => zoom(1.3);
$("farther").onclick = () => zoom(1 / 1.3);
$("whole").onclick = fit;
new ResizeObserver(drawMap).observe(map);
dark.addEventListener("change", () => { thumbs.clear(); drawMap(); });

function makeLegend() {
  facts.names.forEach((name, index) => {
    const button = document.createElement("button"), dot = document.createElement("i");
    dot.style.background = colour(index);
    button.append(dot, name);
    button.setAttribute("aria-pressed", "true");
    button.onclick = () => {
      if (!hidden.delete(index)) hidden.add(index);
      button.setAttribute("aria-pressed", String(!hidden.has(index)));
      drawMap();
    };
    $("legend").append(button);
  });
}

// ---------------------------------------------------------------- the class

function markLabel(index) {
  label = index;
  $("class").querySelectorAll("input")[index].checked = true;
}

// Decodes the same latents in another class. The draws and the ELBO of a drawing follow.
async function setLabel(index) {
  markLabel(index);
  await setLatents(z);
  await showDraws();
  if (pad.pixels.some((value) => value)) await showDrawing();
}

function makeClasses() {
  facts.names.forEach((name, index) => {
    const row = document.createElement("label"), choice = document.createElement("input");
    const dot = document.createElement("i");
    dot.style.background = colour(index);
    Object.assign(choice, { type: "radio", name: "class", checked: index === label });
    choice.onchange = () => setLabel(index);
    row.append(choice, dot, name);
    $("class").append(row);
  });
}

// ---------------------------------------------------------------- the latent dimensions

function setSlider(slider) {
  const value = z[slider.dataset.index];
  slider.value = value;
  slider.nextElementSibling.textContent = value.toFixed(2);
}

function makeSlider(dimension, most) {
  const row = document.createElement("label"), name = document.createElement("b");
  const slider = document.createElement("input"), value = document.createElement("span");
  const meter = document.createElement("meter");
  row.className = "slider";
  name.textContent = `z${dimension.index + 1}`;
  Object.assign(slider, { type: "range", min: dimension.low, max: dimension.high, step: "any" });
  slider.dataset.index = dimension.index;
  meter.max = most || 1;
  meter.value = dimension.measure;
  meter.title = `${facts.ordered_by} ${dimension.measure.toFixed(3)}`;
  slider.oninput = () => {
    const values = Float32Array.from(z);
    values[dimension.index] = slider.valueAsNumber;
    setLatents(values);
  };
  row.append(name, slider, value, meter);
  $(dimension.active ? "active" : "inactive").append(row);
  setSlider(slider);
}

function makeSliders() {
  const most = Math.max(...facts.dimensions.map((dimension) => dimension.measure));
  const folded = facts.dimensions.filter((dimension) => !dimension.active);
  for (const dimension of facts.dimensions) if (dimension.active) makeSlider(dimension, most);
  $("order").textContent = `They are ordered by the ${facts.ordered_by} over the images`
    + `${facts.ordered_by === "KL" ? ", in nats" : ""}, which the bars show.`;
  $("folded").hidden = !folded.length;
  $("folded").firstElementChild.textContent = `${folded.length} inactive dimensions`;
  $("folded").addEventListener("toggle", () => folded.forEach((dimension) =>
    makeSlider(dimension, most)), { once: true });
  $("origin").onclick = async () => setLatents(await prior(new Float32Array(latents)));
}

// ---------------------------------------------------------------- walks and draws

const walk = { start: {}, end: {} };
async function takeEnd(which, index) {
  paintImage($(which), index);
  walk[which] = { index, loc: (await encode(pixelsOf(index), 1, classOf(index))).loc };
  drawMap();
}
const walkTo = (fraction) => setLatents(walk.start.loc.map((value, i) =>
  (1 - fraction) * value + fraction * walk.end.loc[i]));

function makeWalk() {
  const slider = $("fraction"), play = $("play");
  slider.oninput = () => walkTo(slider.valueAsNumber / 100);
  $("take-start").onclick = () => takeEnd("start", chosen);
  $("take-end").onclick = () => takeEnd("end", chosen);
  play.onclick = () => {
    const walking = play.getAttribute("aria-pressed") !== "true";
    play.setAttribute("aria-pressed", String(walking));
    play.textContent = walking ? "Stop" : "Walk";
    const began = performance.now();
    const step = (now) => {
      if (play.getAttribute("aria-pressed") !== "true") return;
      const phase = ((now - began) / 4000) % 2; // four seconds there, four seconds back
      slider.value = 100 * (phase < 1 ? phase : 2 - phase);
      slider.oninput();
      requestAnimationFrame(step);
    };
    if (walking) requestAnimationFrame(step);
  };
}

const DRAWS = 12;
let priorDraws = new Float32Array(DRAWS * latents);
async function drawAnew() {
  priorDraws = await prior(normal(DRAWS * latents), DRAWS);
  await showDraws();
}
async function showDraws() {
  const drawn = priorDraws, decoded = await decode(drawn, DRAWS);
  const buttons = Array.from({ length: DRAWS }, (_, i) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    paint(canvas, decoded, i * size);
    button.setAttribute("aria-label", `Take draw ${i + 1}`);
    button.append(canvas);
    button.onclick = () => setLatents(drawn.subarray(i * latents, (i + 1) * latents));
    return button;
  });
  $("draws").replaceChildren(...buttons);
}

// ---------------------------------------------------------------- a drawing by hand

const pad = { pixels: new Float32Array(size), pen: null, cursor: [14, 14] };

// Puts ink of a pen of 2.4 pixels along a line; the edge of the line is soft.
function ink(from, to) {
  const dx = to[0] - from[0], dy = to[1] - from[1], length = dx * dx + dy * dy;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const px = x + 0.5 - from[0], py = y + 0.5 - from[1];
      const t = length ? Math.max(0, Math.min(1, (px * dx + py * dy) / length)) : 0;
      const distance = Math.hypot(px - t * dx, py - t * dy);
      const value = Math.max(0, Math.min(1, 1.7 - distance));
      pad.pixels[y * width + x] = Math.max(pad.pixels[y * width + x], value);
    }
  }
  return showDrawing();
}

// The pixels of the drawing as the likelihood sees them.
const drawn = () => facts.binary ? pad.pixels.map((value) => Number(value > 0.5)) : pad.pixels.slice();

function repeat(values, times) {
  const repeated = new Float32Array(values.length * times);
  for (let i = 0; i < times; i++) repeated.set(values, i * values.length);
  return repeated;
}
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

const scoreDrawing = newest(async (pixels) => {
  const { loc } = await encode(pixels);
  paint($("own"), await decode(loc));
  setLatents(loc);
  const terms = await score(repeat(pixels, SCORE_DRAWS), normal(SCORE_DRAWS * latents), SCORE_DRAWS);
  const inClass = facts.conditional ? `In class ${facts.names[label]}: ` : "";
  $("elbo").textContent = `${inClass}ELBO ${mean(terms.elbo).toFixed(1)} nats = log-likelihood `
    + `${mean(terms.log_likelihood).toFixed(1)} - KL ${mean(terms.kl).toFixed(1)}`;
});
function showDrawing() {
  paint($("pad"), pad.pixels);
  return scoreDrawing(drawn());
}

function makePad() {
  const canvas = $("pad");
  const at = (event) => [event.offsetX / canvas.clientWidth * width,
    event.offsetY / canvas.clientHeight * height];
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pad.pen = at(event);
    ink(pad.pen, pad.pen);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pad.pen) return;
    const to = at(event);
    ink(pad.pen, to);
    pad.pen = to;
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => { pad.pen = null; });
  }
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key] || (event.key === " " && [0, 0]);
    if (!move) return;
    event.preventDefault();
    const to = [Math.max(1, Math.min(width - 1, pad.cursor[0] + move[0])),
      Math.max(1, Math.min(height - 1, pad.cursor[1] + move[1]))];
    // Space puts the pen down or lifts it, and the arrows then draw with it.
    if (event.key === " ") pad.down = !pad.down;
    if (pad.down) ink(pad.cursor, to);
    pad.cursor = to;
    if (!pad.down) paintCursor();
  });
  canvas.addEventListener("blur", () => { pad.down = false; paint(canvas, pad.pixels); });
  $("clear").onclick = () => {
    pad.pixels.fill(0);
    pad.down = false;
    paint(canvas, pad.pixels);
    paint($("own"), new Float32Array(size));
    $("elbo").textContent = "The ELBO of the drawing appears here.";
  };
  const { mean: middle, low } = facts.elbo;
  const inClass = facts.conditional ? ", each in its class," : "";
  $("typical").textContent = `The ELBO of the ${facts.split} images${inClass} is ${middle.toFixed(1)} on average, `
    + `and 5% of them are below ${low.toFixed(1)}.`
    + (facts.binary ? " The drawing is made binary at one half." : "");
  $("clear").onclick();
}
function paintCursor() {
  const pixels = pad.pixels.slice();
  pixels[Math.floor(pad.cursor[1]) * width + Math.floor(pad.cursor[0])] = 0.5;
  paint($("pad"), pixels);
}

// ---------------------------------------------------------------- the start

const count = facts.dimensions.filter((dimension) => dimension.active).length;
$("summary").textContent = `${facts.count.toLocaleString("en")} ${facts.split} images, ${latents} latent `
  + `dimensions, ${count} of them active`;
$("axes").textContent = facts.axis_name === "latent" ? "The axes are the latent dimensions."
  : "The axes are the first two principal components of the posterior means.";
document.documentElement.style.setProperty("--ratio", `${width} / ${height}`);
makeLegend();
if (facts.conditional) makeClasses();
makeSliders();

const ready = start().then(async () => {
  makeWalk();
  if (facts.drawable) makePad();
  // The walk starts with the first image, and ends with the first one of another class.
  let other = facts.classes ? facts.classes.findIndex((name) => name !== facts.classes[0]) : -1;
  if (other < 0) other = facts.count - 1;
  await takeEnd("start", 0);
  await takeEnd("end", other);
  await choose(0);
  await drawAnew();
  $("draw").onclick = drawAnew;
  $("right").disabled = false;
  $("status").textContent = "Everything runs in this page.";
}).catch((error) => {
  $("status").textContent = `The model cannot start in this browser: ${error.message}`;
  throw error;
});

// For the browser's console, and for tests: the functions behind the controls.
window.explorer = { ready, facts, encode, decode, score, prior, setLatents, choose, place,
  state: () => ({ z: [...z], label, view: { ...view }, chosen, hovered,
    ring: toScreen(...place(z)) }),
  drawn, at: (index) => toScreen(points[2 * index], points[2 * index + 1]),
  image: pixelsOf };
