// Draws the map: every persona as a dot. The server sends the places as numbers, and the persona
// at a place as escaped HTML.

const canvas = document.getElementById("map");
const context = canvas.getContext("2d", { willReadFrequently: true }); // drawn by the processor
const shown = document.getElementById("shown");
const by = document.getElementById("by");
const lasso = document.getElementById("lasso");
const base = canvas.dataset.base;
const SIDE = 65535; // the largest coordinate
const REACH = 14; // pixels from the pointer to the nearest persona, at most

let count = 0, xs, ys, groups;
const groupsOf = {}; // of each meaning of the colours, once it is loaded
let outline = null; // the corners of a lasso that is being drawn, in dots
let zoom = 1, left = 0, top_ = 0; // how often enlarged; where the map's corner is, in dots
let selected = -1, waiting = null, opening = false, planned = false;

const FAINT = 0x50888888;
const OTHER = 0xff888888;
let colours = [];

function readColours() {
  const legend = document.querySelector(`.legend[data-kind=${by.value}]`);
  const circles = [...legend.querySelectorAll("circle:not(.other)")];
  colours = Uint32Array.from(circles, (circle) => {
    const [red, green, blue] = getComputedStyle(circle).fill.match(/[\d.]+/g).map(Number);
    return (255 << 24) | (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red);
  });
}

const only = () => document.getElementById(`only-${by.value}`).value;
const chosenGroup = () => (only() === "" ? -1 : Number(only()));

const density = () => window.devicePixelRatio || 1;
const scale = () => (zoom * Math.min(canvas.width, canvas.height)) / SIDE;

function whole() {
  zoom = 0.94;
  left = (canvas.width - SIDE * scale()) / 2;
  top_ = (canvas.height - SIDE * scale()) / 2;
  plan();
}

function plan() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => { planned = false; draw(); });
}

// A hundred thousand dots are written as pixels: this takes a few milliseconds, calls to the canvas
// would take as many each.
function draw() {
  const { width, height } = canvas;
  if (!count || !width || !height) return;
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const factor = scale();
  const size = Math.round(density() * (count > 20000 ? 2 : 4) * Math.min(3, Math.max(1, zoom ** 0.4)));
  const chosen = chosenGroup();
  for (const faint of chosen < 0 ? [false] : [true, false]) {
    for (let i = 0; i < count; i++) {
      if (chosen >= 0 && faint === (groups[i] === chosen)) continue;
      const x = Math.round(xs[i] * factor + left - size / 2);
      const y = Math.round(ys[i] * factor + top_ - size / 2);
      if (x < 0 || y < 0 || x + size > width || y + size > height) continue;
      const colour = faint ? FAINT : colours[groups[i]] ?? OTHER;
      for (let row = y * width + x; row < (y + size) * width; row += width) {
        pixels.fill(colour, row, row + size);
      }
    }
  }
  context.putImageData(image, 0, 0);
  if (outline) drawOutline();
  if (selected < 0) return;
  context.strokeStyle = getComputedStyle(canvas).color;
  context.lineWidth = 2 * density();
  context.beginPath();
  const radius = size / 2 + 4 * density();
  context.arc(xs[selected] * factor + left, ys[selected] * factor + top_, radius, 0, 2 * Math.PI);
  context.stroke();
}

function drawOutline() {
  context.strokeStyle = getComputedStyle(canvas).color;
  context.lineWidth = 1.5 * density();
  context.beginPath();
  for (const [x, y] of outline) context.lineTo(x, y);
  context.closePath();
  context.stroke();
}

function nearest(x, y, reach) {
  const factor = scale();
  const chosen = chosenGroup();
  let best = -1, least = reach * reach;
  for (let i = 0; i < count; i++) {
    if (chosen >= 0 && groups[i] !== chosen) continue;
    const across = xs[i] * factor + left - x, down = ys[i] * factor + top_ - y;
    const distance = across * across + down * down;
    if (distance < least) { least = distance; best = i; }
  }
  return best;
}

function say(text) {
  const line = document.createElement("p");
  line.textContent = text;
  shown.replaceChildren(line);
}

function select(number) {
  if (number === selected || number < 0) return;
  selected = number;
  opening = false;
  plan();
  waiting?.abort();
  const own = waiting = new AbortController();
  // A pointer that moves on asks for nothing.
  setTimeout(() => { if (!own.signal.aborted) load(number, own.signal); }, 60);
}

async function load(number, signal) {
  shown.dataset.number = "";
  try {
    const answer = await fetch(`${base}/map/persona?number=${number}`, { signal });
    if (answer.status === 401) { say("The session has ended: load the page again to log in."); return; }
    if (!answer.ok) { say("This persona is no longer in the index."); return; }
    const html = await answer.text();
    if (signal.aborted) return;
    shown.innerHTML = html; // escaped by the server; the policy of the page runs no script in it
    shown.dataset.number = number;
    if (opening) open(number);
  } catch (error) {
    if (error.name !== "AbortError") say("The studio does not answer; try again.");
  }
}

function open(number) {
  if (number < 0) return;
  if (shown.dataset.number === String(number)) location.assign(shown.querySelector("a").href);
  else opening = true; // as soon as it is loaded
}

function enlarge(times, x = canvas.width / 2, y = canvas.height / 2) {
  const wanted = Math.min(400, Math.max(0.5, zoom * times));
  left = x - ((x - left) * wanted) / zoom;
  top_ = y - ((y - top_) * wanted) / zoom;
  zoom = wanted;
  plan();
}

// Opens the list of what lies in an outline of dots, of the group that is chosen.
function list(corners) {
  // One more than the largest coordinate: an outline does not hold its right and lower edge.
  const unit = (dots, corner) => Math.min(SIDE + 1, Math.max(0, Math.round((dots - corner) / scale())));
  const every = Math.ceil(corners.length / 256);
  const kept = corners.filter((_, place) => place % every === 0);
  const area = kept.map(([x, y]) => `${unit(x, left)} ${unit(y, top_)}`).join(" ");
  const asked = new URLSearchParams({ area, by: by.value, only: only() });
  location.assign(`${base}/map/selected?${asked}`);
}

const at = (event) => [event.offsetX * density(), event.offsetY * density()];
const lassoing = () => lasso.ariaPressed === "true";
let dragged = null; // where the pointer went down, and whether it has moved since

canvas.addEventListener("pointerdown", (event) => {
  const [x, y] = at(event);
  dragged = { x, y, moved: false };
  if (lassoing()) outline = [[x, y]];
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  const [x, y] = at(event);
  if (!dragged) { select(nearest(x, y, REACH * density())); return; }
  if (!dragged.moved && Math.hypot(x - dragged.x, y - dragged.y) < 4 * density()) return;
  if (outline) outline.push([x, y]);
  else { left += x - dragged.x; top_ += y - dragged.y; }
  dragged = { x, y, moved: true };
  plan();
});
canvas.addEventListener("pointerup", (event) => {
  const moved = dragged?.moved;
  const drawn = outline;
  dragged = outline = null;
  if (moved && drawn?.length > 2) { list(drawn); return; }
  if (moved) return;
  const number = nearest(...at(event), REACH * density());
  // A finger cannot point first: its first touch shows the persona, the second one opens it.
  const known = number === selected || event.pointerType === "mouse";
  select(number);
  if (known) open(number);
});
canvas.addEventListener("pointercancel", () => { dragged = outline = null; plan(); });
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  enlarge(Math.exp(-event.deltaY / 400), ...at(event));
}, { passive: false });

const STEPS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Enter") { open(selected); return; }
  if (event.key in STEPS) {
    left += (STEPS[event.key][0] * canvas.width) / 12;
    top_ += (STEPS[event.key][1] * canvas.height) / 12;
    plan();
  } else if (event.key === "+" || event.key === "=") enlarge(1.4);
  else if (event.key === "-") enlarge(1 / 1.4);
  else return;
  event.preventDefault();
  select(nearest(canvas.width / 2, canvas.height / 2, Infinity));
});
document.getElementById("nearer").addEventListener("click", () => enlarge(1.6));
document.getElementById("farther").addEventListener("click", () => enlarge(1 / 1.6));
document.getElementById("whole").addEventListener("click", whole);
lasso.addEventListener("click", () => {
  lasso.ariaPressed = String(!lassoing());
  canvas.classList.toggle("lassoing", lassoing());
});
document.getElementById("list").addEventListener("click", () => {
  const { width, height } = canvas;
  list([[0, 0], [width, 0], [width, height], [0, height]]);
});
for (const one of document.querySelectorAll("[data-kind] select")) {
  one.addEventListener("change", () => { selected = -1; plan(); });
}
by.addEventListener("change", async () => {
  for (const one of document.querySelectorAll("[data-kind]")) {
    one.hidden = one.dataset.kind !== by.value;
  }
  if (!groupsOf[by.value]) {
    const answer = await fetch(`${base}/map/states`).catch(() => null);
    if (!answer?.ok) { say("The states cannot be loaded; load the page again."); return; }
    groupsOf.state = new Uint8Array(await answer.arrayBuffer());
  }
  groups = groupsOf[by.value];
  selected = -1;
  readColours();
  plan();
});

new ResizeObserver(() => {
  canvas.width = Math.round(canvas.clientWidth * density());
  canvas.height = Math.round(canvas.clientHeight * density());
  whole();
}).observe(canvas);

async function start() {
  document.getElementById("drawing").hidden = false;
  try {
    const answer = await fetch(`${base}/map/points`);
    if (!answer.ok) throw new Error("no map");
    const content = await answer.arrayBuffer();
    count = content.byteLength / 6;
    xs = new Uint16Array(content, 0, count);
    ys = new Uint16Array(content, 2 * count, count);
    groupsOf.segment = groups = new Uint8Array(content, 4 * count, count);
    groupsOf.category = new Uint8Array(content, 5 * count, count);
    readColours();
  } catch {
    say("The map cannot be loaded; load the page again.");
    return;
  }
  say(`${count.toLocaleString("en")} personas`);
  whole();
}

start();
