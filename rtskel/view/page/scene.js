// Draws people on a canvas: each in a cell of a grid, all seen from the same side.
//
// Bones are strokes, drawn from the farthest to the nearest, each with a rim in the background's colour, so that what
// is in front covers what is behind. That takes 1 ms for eight people without a GPU, where WebGL takes over 100.

const DISTANCE = 4.2; // m from the camera to the person
const CELL = [1.25, 1.42]; // m
const CENTRE = -0.22; // m above the neck
const TABLE = -0.7; // m above the neck, of the disc under a person
const SHADES = 8;

export class Scene {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", {alpha: false});
    this.points = []; // where joints were drawn, for picking
    this.reset();
    this.theme();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.theme());
  }

  reset() { Object.assign(this, {yaw: 0.38, pitch: 0.14, zoom: 1, x: 0, y: 0}); }

  theme() {
    const style = getComputedStyle(document.documentElement);
    const colour = name => parse(style.getPropertyValue(`--${name}`).trim());
    this.page = colour("page");
    this.colours = {};
    for (const name of ["body", "left", "right", "raw", "filled", "ink", "soft", "line", "accent"]) {
      const full = colour(name);
      const shades = (far, light) => Array.from({length: SHADES}, (_, i) => css(mix(full, this.page, light + far * (1 - i / (SHADES - 1)))));
      this.colours[name] = {full: css(full), near: shades(0.38, 0), light: shades(0.2, 0.55)};
    }
    this.background = css(this.page);
  }

  resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2), {clientWidth, clientHeight} = this.canvas;
    const width = Math.round(clientWidth * ratio), height = Math.round(clientHeight * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, {width, height});
    this.ratio = ratio;
  }

  // Draws cells of {name, note, place, chosen, layers: [{frame, skeleton, kind, marks, sigma}]}, `apart`: layers side by side.
  draw(cells, apart) {
    this.resize();
    const {context: c, canvas: {width, height}} = this;
    c.fillStyle = this.background;
    c.fillRect(0, 0, width, height);
    this.points = [];
    if (!cells.length) return;
    const columns = apart ? Math.max(1, ...cells.map(cell => cell.layers.length)) : 1;
    const [wide, high] = [CELL[0] * columns, CELL[1]];
    const free = height - 34 * this.ratio; // below it is the legend
    const grid = fit(cells.length, width / wide, free / high);
    const pixels = Math.min(width / (grid.columns * wide), free / (grid.rows * high)) * this.zoom;
    cells.forEach((cell, index) => {
      const row = Math.floor(index / grid.columns);
      const inRow = Math.min(grid.columns, cells.length - row * grid.columns);
      const across = (index % grid.columns) - (inRow - 1) / 2;
      const x = width / 2 + (across * wide) * pixels + this.x * this.ratio;
      const y = free / 2 + ((row - (grid.rows - 1) / 2) * high) * pixels + this.y * this.ratio;
      this.cell(cell, apart, x, y, pixels);
    });
  }

  cell(cell, apart, x, y, pixels) {
    if (Math.abs(x - this.canvas.width / 2) > this.canvas.width / 2 + 2 * pixels) return;
    const c = this.context;
    const shift = index => apart ? (index - (cell.layers.length - 1) / 2) * CELL[0] * 0.95 * pixels : 0;
    const places = apart ? cell.layers.map((_, index) => x + shift(index)) : [x];
    const below = Math.max(...places.map(place => this.table(place, y, pixels)));
    cell.layers.forEach((layer, index) => this.figure(cell, layer, x + shift(index), y, pixels));
    const size = Math.max(11, Math.min(15, pixels * 0.075 / this.ratio)) * this.ratio;
    c.textAlign = "center";
    c.textBaseline = "top";
    c.font = `600 ${size}px system-ui, "DejaVu Sans", sans-serif`;
    c.fillStyle = this.colours.ink.full;
    c.fillText(cell.name, x, below + 0.02 * pixels);
    if (cell.note) {
      c.font = `${size * 0.85}px system-ui, "DejaVu Sans", sans-serif`;
      c.fillStyle = this.colours.soft.full;
      c.fillText(cell.note, x, below + 0.02 * pixels + 1.35 * size);
    }
    if (apart) {
      c.font = `${size * 0.85}px system-ui, "DejaVu Sans", sans-serif`;
      c.fillStyle = this.colours.soft.full;
      cell.layers.forEach((layer, index) => c.fillText(layer.kind, x + shift(index), below + 0.02 * pixels));
    }
  }

  // A point in metres around the neck, x right, y up, z toward the camera: x, y on the canvas, pixels in a metre, depth.
  project([x, y, z], cx, cy, pixels) {
    const cos = Math.cos(this.yaw), sin = Math.sin(this.yaw), up = Math.cos(this.pitch), tilt = Math.sin(this.pitch);
    const across = x * cos + z * sin, toward = z * cos - x * sin, height = y - CENTRE;
    const depth = toward * up + height * tilt, rise = height * up - toward * tilt;
    const scale = pixels * DISTANCE / Math.max(0.5, DISTANCE - depth);
    return [cx + across * scale, cy - rise * scale, scale, depth];
  }

  // A disc under a person with a mark toward the recording's camera; returns where it ends on the canvas.
  table(x, y, pixels) {
    const c = this.context, radius = 0.42;
    let below = 0;
    c.lineWidth = 1.2 * this.ratio;
    c.strokeStyle = this.colours.line.full;
    for (const part of [1, 0.55]) {
      c.beginPath();
      for (let k = 0; k <= 48; k++) {
        const angle = k * Math.PI / 24;
        const [px, py] = this.project([part * radius * Math.sin(angle), TABLE, part * radius * Math.cos(angle)], x, y, pixels);
        c.lineTo(px, py);
        below = Math.max(below, py);
      }
      c.stroke();
    }
    c.beginPath();
    for (const [px, pz] of [[-0.035, radius], [0, radius + 0.06], [0.035, radius]]) {
      const [sx, sy] = this.project([px, TABLE, pz], x, y, pixels);
      c.lineTo(sx, sy);
      below = Math.max(below, sy);
    }
    c.stroke();
    return below;
  }

  figure(cell, {frame, skeleton, kind, marks, sigma, solid}, x, y, pixels) {
    const c = this.context, {scale, origin} = cell.place, {xyz, confidence} = frame, joints = confidence.length;
    const refined = kind === "refined", shown = joint => refined || confidence[joint] > 0;
    const points = [];
    for (let j = 0; j < joints; j++) {
      points.push(this.project([(xyz[3 * j] - origin[0]) * scale, (origin[1] - xyz[3 * j + 1]) * scale, (xyz[3 * j + 2] - origin[2]) * scale], x, y, pixels));
    }
    const near = depth => Math.max(0, Math.min(SHADES - 1, Math.round((depth + 0.35) / 0.8 * (SHADES - 1))));
    const colour = joint => solid ? this.colours[skeleton.sides[joint]] : this.colours.raw;
    if (sigma) {
      c.globalAlpha = 0.16;
      c.fillStyle = this.colours.accent.full;
      for (let j = 0; j < joints; j++) {
        const radius = 3 * frame.sigma[j] * scale * points[j][2];
        if (radius < 1.5 * this.ratio) continue;
        c.beginPath();
        c.arc(points[j][0], points[j][1], radius, 0, 2 * Math.PI);
        c.fill();
      }
      c.globalAlpha = 1;
    }
    const bones = [];
    for (let j = 0; j < joints; j++) {
      const parent = skeleton.parents[j];
      if (parent >= 0 && shown(j) && shown(parent)) bones.push([(points[j][3] + points[parent][3]) / 2, j, parent]);
    }
    bones.sort((a, b) => a[0] - b[0]);
    c.lineCap = "round";
    c.globalAlpha = solid ? 1 : 0.75;
    for (const [depth, j, parent] of bones) {
      const a = points[j], b = points[parent], full = skeleton.widths[j] * a[2];
      const width = solid ? Math.max(full, 1.6 * this.ratio) : Math.max(0.9 * this.ratio, Math.min(1.8 * this.ratio, 0.4 * full));
      if (skeleton.names[j] === "nose") { this.head(a, b, colour(j)[refined && !confidence[j] ? "light" : "near"][near(depth)], solid); continue; }
      c.beginPath();
      c.moveTo(b[0], b[1]);
      c.lineTo(a[0], a[1]);
      if (solid) {
        c.strokeStyle = this.background;
        c.lineWidth = width + 2.4 * this.ratio;
        c.stroke();
      }
      c.strokeStyle = colour(j)[refined && !confidence[j] ? "light" : "near"][near(depth)];
      c.lineWidth = width;
      c.stroke();
    }
    c.globalAlpha = 1;
    if (marks && refined) {
      c.strokeStyle = this.colours.filled.full;
      c.fillStyle = this.background;
      c.lineWidth = 1.5 * this.ratio;
      for (let j = 0; j < joints; j++) {
        if (confidence[j]) continue;
        c.beginPath();
        c.arc(points[j][0], points[j][1], Math.max(1.9 * this.ratio, 0.4 * skeleton.widths[j] * points[j][2]), 0, 2 * Math.PI);
        c.fill();
        c.stroke();
      }
    }
    for (const joint of solid ? cell.chosen.filter(shown) : []) {
      const [px, py] = points[joint];
      c.beginPath();
      c.arc(px, py, 8 * this.ratio, 0, 2 * Math.PI);
      c.strokeStyle = this.colours.ink.full;
      c.lineWidth = 1.5 * this.ratio;
      c.stroke();
    }
    for (let j = 0; j < joints; j++) if (shown(j)) this.points.push([points[j][0], points[j][1], cell.name, j]);
  }

  head(nose, neck, colour, solid) {
    const c = this.context, radius = 0.1 * nose[2];
    c.beginPath();
    c.moveTo(neck[0], neck[1]);
    c.lineTo(nose[0], nose[1]);
    c.strokeStyle = colour;
    c.lineWidth = solid ? 0.036 * nose[2] : 1.7 * this.ratio;
    c.stroke();
    c.beginPath();
    c.ellipse(nose[0], nose[1], 0.82 * radius, radius, 0, 0, 2 * Math.PI);
    if (solid) {
      c.fillStyle = this.background;
      c.fill();
    }
    c.lineWidth = solid ? 0.02 * nose[2] : 1.7 * this.ratio;
    c.stroke();
    if (!solid) return;
    c.beginPath();
    c.arc(nose[0], nose[1], 0.014 * nose[2], 0, 2 * Math.PI);
    c.fillStyle = colour;
    c.fill();
  }

  // The person and joint drawn nearest to a place in CSS pixels.
  pick(x, y) {
    let best, least = (14 * this.ratio) ** 2;
    for (const [px, py, name, joint] of this.points) {
      const far = (px - x * this.ratio) ** 2 + (py - y * this.ratio) ** 2;
      if (far < least) [best, least] = [{name, joint}, far];
    }
    return best;
  }
}

// What drawing needs to know of a skeleton.
export function drawn({names, parents}) {
  const sides = names.map(name => name.startsWith("left_") ? "left" : name.startsWith("right_") ? "right" : "body");
  const widths = names.map(name => {
    const part = name.replace(/^(left|right)_/, "");
    return {nose: 0.03, neck: 0.05, shoulder: 0.05, elbow: 0.046, wrist: 0.038, hand_root: 0.03}[part] ?? (part.endsWith("_1") ? 0.016 : 0.013);
  });
  sides.forEach((side, j) => { if (/shoulder$/.test(names[j])) sides[j] = "body"; });
  return {names, parents, sides, widths};
}

function fit(count, wide, high) {
  let best = {columns: 1, rows: count, size: 0};
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns), size = Math.min(wide / columns, high / rows);
    if (size > best.size) best = {columns, rows, size};
  }
  return best;
}

function parse(hex) {
  const digits = hex.length === 4 ? [...hex.slice(1)].map(d => d + d) : hex.slice(1).match(/../g);
  return digits.map(d => parseInt(d, 16));
}
const mix = (a, b, share) => a.map((value, k) => value + share * (b[k] - value));
const css = colour => `rgb(${colour.map(Math.round).join(" ")})`;
