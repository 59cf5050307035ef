"use strict";
// The page works without this script; it adds sorting, values under the pointer, animation, theme.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const root = document.documentElement;

// --- theme ---------------------------------------------------------------------------------------
const dark = matchMedia("(prefers-color-scheme: dark)");
const redraws = new Set();
function setTheme(name) {
  root.dataset.theme = name;
  for (const redraw of redraws) redraw();
}
setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
document.getElementById("theme").addEventListener("click", () =>
  setTheme(root.dataset.theme === "dark" ? "light" : "dark"));

// --- sortable tables -----------------------------------------------------------------------------
for (const table of all("table.sortable")) {
  all("th", table).forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of all("th", table)) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...body.rows];
      rows.sort((a, b) => compare(key(a), key(b), ascending));
      body.append(...rows);
    });
  });
}
function compare(a, b, ascending) {
  if (a === "" || b === "") return (a === "") - (b === "");  // missing values last, either way
  const numbers = !Number.isNaN(Number(a)) && !Number.isNaN(Number(b));
  const order = numbers ? Number(a) - Number(b) : a.localeCompare(b);
  return ascending ? order : -order;
}

// --- values under the pointer --------------------------------------------------------------------
const tip = document.getElementById("tip");
for (const svg of all("svg.chart")) {
  const chart = JSON.parse(svg.dataset.chart);
  if (!chart.lines.some((line) => line.label) && !svg.querySelector(".dot[data-name]")) continue;
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const [left, , width] = chart.plot;
    const place = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const t = (place - left) / width;
    if (t < 0 || t > 1) return void (tip.style.display = "none");
    const x = chart.x[0] + t * (chart.x[1] - chart.x[0]);
    const values = chart.lines.filter((line) => line.label)
      .map((line) => [line.label, interpolate(line.x, line.y, x)])
      .filter(([, value]) => value !== null)
      .map(([label, value]) => `${value.toPrecision(3)}  ${label}`);
    const dot = event.target.closest(".dot[data-name]");
    tip.textContent = dot?.dataset.name ?? [`at ${Number(x.toPrecision(3))}`, ...values].join("\n");
    tip.style.display = "block";
    const room = innerWidth - event.clientX > tip.offsetWidth + 30;
    tip.style.left = `${room ? event.clientX + 14 : event.clientX - tip.offsetWidth - 14}px`;
    tip.style.top = `${event.clientY + 12}px`;
  });
  svg.addEventListener("pointerleave", () => (tip.style.display = "none"));
}
function interpolate(xs, ys, x) {
  const k = xs.findIndex((value) => value >= x);
  if (k < 0 || (k === 0 && xs[0] > x)) return null;
  if (k === 0) return ys[0];
  const t = (x - xs[k - 1]) / (xs[k] - xs[k - 1]);
  return ys[k - 1] + t * (ys[k] - ys[k - 1]);
}

// --- gallery: a design, or a row of a table, lights up its curve ----------------------------------
for (const tile of all(".gallery [data-design]")) {
  const curve = tile.closest(".gallery").querySelector(`polyline[data-name="${tile.dataset.design}"]`);
  if (!curve) continue;
  const light = (on) => () => {
    curve.classList.toggle("lit", on);
    if (on) curve.parentNode.append(curve);
  };
  for (const [name, on] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]])
    tile.addEventListener(name, light(on));
}

// --- candidates of a target ----------------------------------------------------------------------
for (const target of all("article.target")) {
  const chips = all(".chips button", target);
  const panes = all(".candidate", target);
  chips.forEach((chip, k) => chip.addEventListener("click", () => {
    chips.forEach((other, j) => other.setAttribute("aria-selected", j === k));
    panes.forEach((pane, j) => (pane.hidden = j !== k));
  }));
}

// --- deformation ---------------------------------------------------------------------------------
const bodies = JSON.parse(document.getElementById("bodies").textContent);
const VIEW = { left: -0.25, width: 1.5, bottom: -0.04, height: 1.1 };
const colours = Object.fromEntries(
  Object.entries(bodies.stops).map(([name, stops]) => [name, colourTable(stops)]));

function colourTable(stops) {  // 255 opaque colours as little-endian RGBA words
  const table = new Uint32Array(255);
  for (let k = 0; k < 255; k++) {
    const place = (k / 254) * (stops.length - 1);
    const i = Math.min(Math.floor(place), stops.length - 2);
    const mix = (c) => Math.round(stops[i][c] + (place - i) * (stops[i + 1][c] - stops[i][c]));
    table[k] = (mix(2) << 16) | (mix(1) << 8) | mix(0);
  }
  return table;
}

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(inflated).arrayBuffer();
  const { frames, vertices, triangles, edges } = packed;
  let offset = 0;
  const take = (Kind, rows, columns) => {
    const values = new Kind(buffer.slice(offset, offset + rows * columns * Kind.BYTES_PER_ELEMENT));
    offset += values.byteLength;
    for (let r = 0; r < rows; r++)  // undo the differences along the rows
      for (let c = 1, k = r * columns + 1; c < columns; c++, k++) values[k] += values[k - 1];
    return values;
  };
  const position = take(Int16Array, 2 * frames, vertices);
  const triangle = take(Uint16Array, 1, 3 * triangles);
  const edge = take(Uint16Array, 1, 2 * edges);
  const value = take(Int8Array, frames, vertices);
  const colour = colours[packed.colour ?? "stress"];
  return { frames, vertices, position, triangle, edge, value, colour };
}

function stateAt(body, strain) {
  const strains = bodies.frame_strain;
  let k = 0;
  while (k < strains.length - 2 && strains[k + 1] < strain) k++;
  const t = Math.max(0, (strain - strains[k]) / (strains[k + 1] - strains[k]));
  const n = body.vertices;
  const x = new Float32Array(n), y = new Float32Array(n), value = new Float32Array(n);
  for (let v = 0; v < n; v++) {
    const a = 2 * k * n + v, b = a + 2 * n;
    x[v] = (body.position[a] * (1 - t) + body.position[b] * t) * bodies.length_unit;
    y[v] = (body.position[a + n] * (1 - t) + body.position[b + n] * t) * bodies.length_unit;
    value[v] = body.value[k * n + v] * (1 - t) + body.value[(k + 1) * n + v] * t;
  }
  return { x, y, value };
}

function draw(canvas, body, strain) {
  const width = (canvas.width = Math.round(canvas.clientWidth * Math.max(1.5, devicePixelRatio)));
  if (!width) return;
  const scale = width / VIEW.width;
  const height = (canvas.height = Math.round(scale * VIEW.height));
  const context = canvas.getContext("2d");
  const style = getComputedStyle(root);
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const { x, y, value } = stateAt(body, strain);
  const px = x.map((value) => (value - VIEW.left) * scale);
  const py = y.map((value) => height - (value - VIEW.bottom) * scale);
  for (const shift of [-1, 1, 0]) fillTriangles(pixels, width, height, body, px, py, value, shift * scale);
  context.putImageData(image, 0, 0);
  context.strokeStyle = style.getPropertyValue("--ink");
  for (const shift of [-1, 1, 0]) {
    context.globalAlpha = shift ? 0.25 : 0.85;
    context.lineWidth = width / 700;
    context.beginPath();
    for (let e = 0; e < body.edge.length; e += 2) {
      const a = body.edge[e], b = body.edge[e + 1];
      context.moveTo(px[a] + shift * scale, py[a]);
      context.lineTo(px[b] + shift * scale, py[b]);
    }
    context.stroke();
  }
  context.globalAlpha = 1;
  context.fillStyle = style.getPropertyValue("--soft");
  const bar = 0.012 * scale;
  const top = height - (1 - strain - VIEW.bottom) * scale, floor = height + VIEW.bottom * scale;
  context.fillRect(0, top - bar, width, bar);
  context.fillRect(0, floor, width, bar);
  canvas.dataset.drawn = strain;
}

function fillTriangles(pixels, width, height, body, px, py, value, shift) {
  const alpha = (shift ? 70 : 255) << 24;
  const triangle = body.triangle;
  for (let k = 0; k < triangle.length; k += 3) {
    const a = triangle[k], b = triangle[k + 1], c = triangle[k + 2];
    const ax = px[a] + shift, bx = px[b] + shift, cx = px[c] + shift;
    const left = Math.max(0, Math.ceil(Math.min(ax, bx, cx) - 0.5));
    const right = Math.min(width - 1, Math.floor(Math.max(ax, bx, cx) - 0.5));
    if (left > right) continue;
    const ay = py[a], by = py[b], cy = py[c];
    const area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay);
    if (area === 0) continue;
    const first = Math.max(0, Math.ceil(Math.min(ay, by, cy) - 0.5));
    const last = Math.min(height - 1, Math.floor(Math.max(ay, by, cy) - 0.5));
    for (let j = first; j <= last; j++) {
      for (let i = left; i <= right; i++) {
        const qx = i + 0.5 - ax, qy = j + 0.5 - ay;
        const v = (qx * (cy - ay) - (cx - ax) * qy) / area;
        const w = ((bx - ax) * qy - qx * (by - ay)) / area;
        if (v < -1e-4 || w < -1e-4 || v + w > 1.0001) continue;
        const level = value[a] + v * (value[b] - value[a]) + w * (value[c] - value[a]);
        pixels[j * width + i] = body.colour[Math.round(level) + 127] | alpha;
      }
    }
  }
}

const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const SECONDS_UP = 4, SECONDS_HELD = 1;

for (const pane of all(".candidate")) if (pane.querySelector("canvas")) setUp(pane);

function setUp(pane) {
  const canvases = all("canvas", pane);
  const slider = pane.querySelector("input"), play = pane.querySelector(".play");
  const output = pane.querySelector("output"), cursor = pane.querySelector(".cursor");
  const errors = JSON.parse(pane.dataset.errors ?? "[]");
  const chart = JSON.parse(pane.querySelector("svg.chart").dataset.chart);
  const strains = bodies.frame_strain;
  let loaded = null, playing = false, visible = false, touched = still, begun = 0;

  function show() {
    const strain = Number(slider.value);
    let frame = 0;
    strains.forEach((value, k) => {
      if (Math.abs(value - strain) < Math.abs(strains[frame] - strain)) frame = k;
    });
    const error = errors[frame] == null ? "" : ` · field error ${(100 * errors[frame]).toFixed(0)} %`;
    output.textContent = `ε ${(100 * strain).toFixed(1)} %${error}`;
    const x = chart.plot[0] + (strain - chart.x[0]) / (chart.x[1] - chart.x[0]) * chart.plot[2];
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    if (loaded && visible) loaded.forEach((body, k) => draw(canvases[k], body, strain));
  }
  function step(now) {
    if (!playing || !visible) return;
    const t = ((now - begun) / 1000) % (SECONDS_UP + SECONDS_HELD) / SECONDS_UP;
    const [low, high] = [strains[0], strains[strains.length - 1]];
    slider.value = low + (high - low) * Math.min(t, 1);
    show();
    requestAnimationFrame(step);
  }
  function run(on) {
    playing = on;
    play.textContent = on ? "❚❚" : "▶";
    play.setAttribute("aria-label", on ? "pause" : "play");
    if (!on) return;
    const done = (Number(slider.value) - strains[0]) / (strains[strains.length - 1] - strains[0]);
    begun = performance.now() - (done < 1 ? done * SECONDS_UP * 1000 : 0);
    requestAnimationFrame(step);
  }
  slider.addEventListener("input", () => { touched = true; run(false); show(); });
  play.addEventListener("click", () => { touched = true; run(!playing); });
  redraws.add(show);
  new ResizeObserver(show).observe(canvases[0]);
  new IntersectionObserver(async ([entry]) => {
    visible = entry.isIntersecting;
    if (visible && !loaded)
      loaded = await Promise.all(canvases.map((canvas) => unpack(bodies.packed[canvas.dataset.body])));
    show();
    if (visible && (playing || !touched)) run(true);
  }, { rootMargin: "100px" }).observe(pane);
  show();
}
