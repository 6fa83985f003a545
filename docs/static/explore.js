// The interactive part of docs/explore.md. docs/extensions/explore.py computes the paths.
"use strict";

(() => {
  const root = document.getElementById("explore");
  const {steps, spread, decades, rates, functions, optimizers} = gdjaxPaths;
  const bytes = Uint8Array.from(atob(gdjaxPaths.paths), c => c.charCodeAt(0));
  const codes = new Uint16Array(bytes.buffer);
  const DIVERGED = 65535, LAST = 20, WIDTH = 4, HEIGHT = 3;

  // As in docs/extensions/explore.py; here they only shade the picture.
  const stretched = (x, y) => (x * x + 50 * y * y) / 2;
  const values = {
    valley: (x, y) => (1 - x) ** 2 + 100 * (y - x * x) ** 2,
    saddle: (x, y) => (x * x + (y * y - 1) ** 2 / 2) / 2,
    stretched,
    turned: (x, y) => stretched((x + y) / Math.SQRT2, (y - x) / Math.SQRT2),
    noisy: (x, y) => (x * x + 4 * y * y) / 2,
  };

  const clipped = code => code === 0 || code === 65534;

  /** Return {points (null if far outside of the picture), losses, diverged: the step or -1, end: mean of the last losses}. */
  function run(f, o, r) {
    const start = ((f * optimizers.length + o) * rates.length + r) * (steps + 1) * 3;
    const [cx, cy] = functions[f].centre, points = [], losses = [];
    let diverged = -1;
    for (let i = 0; i <= steps; i++) {
      const [u, v, h] = codes.subarray(start + 3 * i, start + 3 * i + 3);
      if (h === DIVERGED) { diverged = i; break; }
      if (clipped(u) || clipped(v)) points.push(null);
      else points.push([cx + (u / 65534 - 0.5) * WIDTH * spread, cy + (v / 65534 - 0.5) * HEIGHT * spread]);
      losses.push(10 ** (decades[0] + h / 65534 * (decades[1] - decades[0])));
    }
    const end = diverged < 0 ? losses.slice(-LAST).reduce((a, b) => a + b) / LAST : Infinity;
    return {points, losses, diverged, end};
  }

  const kept = {};
  const runs = (f, o) => kept[[f, o]] ??= rates.map((_, r) => run(f, o, r));
  const best = (f, o) => runs(f, o).reduce((b, run, r, all) => run.end < all[b].end ? r : b, 0);

  const find = name => root.querySelector(`[data-part="${name}"]`);
  const parts = Object.fromEntries(["function", "rate", "rate-value", "best", "step", "step-value",
    "play", "back", "forward", "map", "losses", "ends", "rows"].map(name => [name, find(name)]));
  const state = {f: 0, r: 6, step: steps, best: false, shown: optimizers.map(o => o.shown)};

  const exponent = x => x.toExponential(1).replace("e+0", "").replace("e-", "e−").replace("e+", "e");
  const short = x => x >= 0.001 && x < 1000 ? String(+x.toPrecision(2)) : exponent(x);
  const rate = (f, r) => functions[f].leastRate * rates[r];
  const usable = o => !(functions[state.f].noisy && optimizers[o].lineSearch);
  const chosen = o => state.best ? best(state.f, o) : state.r;
  const visible = () => optimizers.map((_, o) => o).filter(o => state.shown[o] && usable(o));

  function svg(name, attributes, parent, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return parent.appendChild(made);
  }

  /** Draw axes, both logarithmic or not; return the group to draw into and its two scales. */
  function axes(place, {x, y, xTicks, yTicks, xTitle, yTitle}) {
    const width = place.clientWidth, height = place.clientHeight;
    const [left, right, top, bottom] = [52, 12, 22, 40];
    place.replaceChildren();
    place.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const sx = v => left + (v - x[0]) / (x[1] - x[0]) * (width - left - right);
    const sy = v => height - bottom - (v - y[0]) / (y[1] - y[0]) * (height - top - bottom);
    for (const [v, text] of yTicks) {
      svg("line", {class: "grid", x1: left, x2: width - right, y1: sy(v), y2: sy(v)}, place);
      svg("text", {x: left - 6, y: sy(v) + 4, "text-anchor": "end"}, place, text);
    }
    for (const [v, text] of xTicks) {
      svg("line", {class: "grid", x1: sx(v), x2: sx(v), y1: top, y2: height - bottom}, place);
      svg("text", {x: sx(v), y: height - bottom + 16, "text-anchor": "middle"}, place, text);
    }
    svg("text", {x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle"}, place, xTitle);
    svg("text", {x: 4, y: 13}, place, yTitle);
    const clip = `${place.dataset.part}-clip`;
    const shape = {x: left, y: top, width: width - left - right, height: height - top - bottom};
    svg("rect", shape, svg("clipPath", {id: clip}, place));
    return [svg("g", {"clip-path": `url(#${clip})`}, place), sx, sy];
  }

  const line = (points, o, parent) => svg("polyline", {
    class: `curve optimizer-${o}`, points: points.map(p => p.map(v => v.toFixed(1)).join()).join(" "),
  }, parent);
  const cross = (x, y, o, parent) => svg("path", {
    class: `cross optimizer-${o}`, d: `M${x - 5} ${y - 5}l10 10m0 -10l-10 10`,
  }, parent);
  /** Split a list at its nulls. */
  function pieces(points) {
    const found = [[]];
    for (const p of points) p ? found.at(-1).push(p) : found.push([]);
    return found.filter(piece => piece.length);
  }

  const powers = (low, high, by) => Array.from(
    {length: Math.floor((high - low) / by) + 1}, (_, i) => [low + i * by, `1e${low + i * by}`.replace("-", "−")]);

  /** Shade the function in bands, each half a decade of its values. */
  function shade() {
    const canvas = parts.map.querySelector("canvas"), f = functions[state.f];
    const ratio = Math.min(devicePixelRatio || 1, 2), value = values[f.name];
    canvas.width = Math.round(parts.map.clientWidth * ratio);
    canvas.height = Math.round(canvas.width * HEIGHT / WIDTH);
    const image = new ImageData(canvas.width, canvas.height);
    for (let j = 0, at = 0; j < canvas.height; j++) {
      for (let i = 0; i < canvas.width; i++, at += 4) {
        const x = f.centre[0] + ((i + 0.5) / canvas.width - 0.5) * WIDTH;
        const y = f.centre[1] - ((j + 0.5) / canvas.height - 0.5) * HEIGHT;
        const band = Math.floor(2 * Math.log10(value(x, y) + 1e-12)) + 6;
        image.data.set([60, 110, 190, Math.max(0, 11 * band)], at);
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function drawMap() {
    const place = parts.map.querySelector("svg"), f = functions[state.f];
    const width = parts.map.clientWidth, height = width * HEIGHT / WIDTH;
    const sx = x => ((x - f.centre[0]) / WIDTH + 0.5) * width;
    const sy = y => (0.5 - (y - f.centre[1]) / HEIGHT) * height;
    place.replaceChildren();
    place.setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const [x, y] of f.minima) {
      svg("path", {class: "minimum", d: `M${sx(x) - 6} ${sy(y)}h12m-6 -6v12`}, place);
    }
    for (const o of visible()) {
      const {points, diverged} = runs(state.f, o)[chosen(o)];
      const path = points.slice(0, state.step + 1).map(p => p && [sx(p[0]), sy(p[1])]);
      pieces(path).forEach(piece => line(piece, o, place));
      const [x, y] = path.findLast(p => p);
      if (diverged >= 0 && state.step >= diverged) {
        cross(Math.min(Math.max(x, 8), width - 8), Math.min(Math.max(y, 8), height - 8), o, place);
      } else svg("circle", {class: `end optimizer-${o}`, cx: x, cy: y, r: 4.5}, place);
    }
    svg("circle", {class: "start", cx: sx(f.start[0]), cy: sy(f.start[1]), r: 5}, place);
  }

  function drawCharts() {
    const top = Math.ceil(Math.log10(runs(state.f, 0)[0].losses[0])) + 1, bottom = functions[state.f].noisy ? -4 : -8;
    const yTicks = powers(bottom, top, 2), y = [bottom, top];
    const log = v => Math.log10(Math.max(v, 1e-12));
    const middle = Math.round(steps / 2);
    let [group, sx, sy] = axes(parts.losses, {
      x: [0, steps], y, yTicks, xTicks: [0, middle, steps].map(v => [v, v]),
      xTitle: "step", yTitle: "loss",
    });
    for (const o of visible()) {
      const {losses} = runs(state.f, o)[chosen(o)];
      line(losses.map((v, i) => [sx(i), sy(log(v))]), o, group);
    }
    svg("line", {class: "now", x1: sx(state.step), x2: sx(state.step), y1: 0, y2: 999}, group);
    const lowest = Math.log10(functions[state.f].leastRate), x = [lowest - 0.1, lowest + 4.1];
    [group, sx, sy] = axes(parts.ends, {
      x, y, yTicks, xTicks: powers(Math.round(lowest), Math.round(lowest) + 4, 1),
      xTitle: "learning rate", yTitle: `loss, mean of the last ${LAST} steps`,
    });
    const place = r => sx(Math.log10(rate(state.f, r)));
    for (const o of visible()) {
      const ends = runs(state.f, o);
      const points = ends.map(({diverged, end}, r) => diverged < 0 ? [place(r), sy(log(end))] : null);
      pieces(points).forEach(piece => line(piece, o, group));
      if (optimizers[o].lineSearch) continue;
      const r = chosen(o);
      if (points[r]) svg("circle", {class: `end optimizer-${o}`, cx: points[r][0], cy: points[r][1], r: 4.5}, group);
      else cross(place(r), sy(top) + 8, o, group);
    }
    if (!state.best) svg("line", {class: "now", x1: place(state.r), x2: place(state.r), y1: 0, y2: 999}, group);
  }

  function fillTable() {
    for (const [o, row] of [...parts.rows.rows].entries()) {
      const {losses, diverged} = runs(state.f, o)[chosen(o)], {lineSearch} = optimizers[o];
      const [, rateCell, lossCell] = row.cells;
      rateCell.textContent = lineSearch ? "line search" : short(rate(state.f, chosen(o)));
      lossCell.textContent = !usable(o) ? "needs exact gradients"
        : diverged >= 0 && state.step >= diverged ? `diverged at step ${diverged}`
        : losses[state.step] < 1e-9 ? "< 1e−9" : short(losses[state.step]);
      row.classList.toggle("diverged", lossCell.textContent.startsWith("diverged"));
    }
  }

  function draw() {
    const {f, r, step} = state;
    parts["rate-value"].textContent = state.best ? "each its best" : short(rate(f, r));
    parts["step-value"].textContent = `${step} of ${steps}`;
    parts.rate.setAttribute("aria-valuetext", short(rate(f, r)));
    parts.rate.disabled = state.best;
    [parts.rate.value, parts.step.value] = [r, step];
    drawMap();
    drawCharts();
    fillTable();
  }

  let timer = 0;
  function pause() {
    clearInterval(timer);
    timer = 0;
    parts.play.textContent = "Play";
  }
  function play() {
    if (timer) return pause();
    if (state.step === steps) state.step = 0;
    parts.play.textContent = "Pause";
    timer = setInterval(() => {
      state.step++;
      if (state.step >= steps) pause();
      draw();
    }, 50);
  }
  function go(step) {
    pause();
    state.step = Math.min(Math.max(step, 0), steps);
    draw();
  }

  functions.forEach((f, i) => parts.function.add(new Option(f.title, i)));
  parts.rate.max = rates.length - 1;
  parts.step.max = steps;
  optimizers.forEach(({name}, o) => {
    const row = parts.rows.insertRow(), label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), {type: "checkbox", checked: state.shown[o]});
    box.addEventListener("change", () => { state.shown[o] = box.checked; draw(); });
    label.append(box, Object.assign(document.createElement("i"), {className: `swatch optimizer-${o}`}), name);
    row.insertCell().append(label);
    row.insertCell();
    row.insertCell();
  });
  parts.function.addEventListener("change", () => {
    state.f = +parts.function.value;
    pause();
    shade();
    draw();
  });
  parts.rate.addEventListener("input", () => { state.r = +parts.rate.value; draw(); });
  parts.best.addEventListener("change", () => { state.best = parts.best.checked; draw(); });
  parts.step.addEventListener("input", () => go(+parts.step.value));
  parts.play.addEventListener("click", play);
  parts.back.addEventListener("click", () => go(state.step - 1));
  parts.forward.addEventListener("click", () => go(state.step + 1));
  new ResizeObserver(() => { shade(); draw(); }).observe(root);
  root.hidden = false;
  root.paths = {values, runs, functions, optimizers}; // for tests
})();
