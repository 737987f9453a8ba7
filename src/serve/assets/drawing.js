"use strict";
// A tree on a canvas: where its nodes are, which part is seen, and how it is drawn.

/** The part of the explorer that draws. It needs `data`, `nodes`, `parent`, `layout`, `frames`, `backed` and a `canvas`. */
DS.Drawing = class {
  resize() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width || !box.height) return;
    const ratio = window.devicePixelRatio || 1;
    const isFirst = !this.width;
    this.width = box.width;
    this.height = box.height;
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    if (isFirst) this.fit();
    this.draw();
  }

  fit() {
    const pad = 26;
    const across = (this.width - 2 * pad) / Math.max(1, this.layout.width);
    const down = (this.height - 2 * pad) / Math.max(1, this.layout.height);
    this.unit = { x: Math.min(across, 46), y: Math.min(down, 90) };
    this.origin = {
      x: (this.width - this.unit.x * this.layout.width) / 2,
      y: Math.max(pad, (this.height - this.unit.y * this.layout.height) / 2),
    };
  }

  zoom(factor, at) {
    const centre = at || { x: this.width / 2, y: this.height / 2 };
    const next = { x: Math.min(400, this.unit.x * factor), y: Math.min(300, this.unit.y * factor) };
    for (const axis of ["x", "y"]) {
      this.origin[axis] = centre[axis] - ((centre[axis] - this.origin[axis]) / this.unit[axis]) * next[axis];
    }
    this.unit = next;
    this.queue();
  }

  place(i) {
    return { x: this.origin.x + this.layout.x[i] * this.unit.x, y: this.origin.y + this.layout.depth[i] * this.unit.y };
  }

  radius(i) {
    return Math.max(0.8, Math.min(9, this.unit.x * 0.36, this.unit.y * 0.3)) * this.sizes[i];
  }

  value(i) {
    return this.onMean ? DS.qMean(this.nodes, i) : Math.tanh(this.nodes.q_total[i]);
  }

  /** What does not change from frame to frame: how large each node is, and which have the same colour and shape. */
  prepare() {
    const most = Math.log2(2 + this.nodes.visits[0]);
    this.sizes = Float32Array.from(this.nodes.visits, (visits) => 0.55 + (0.75 * Math.log2(1 + visits)) / most);
    this.colour();
  }

  colour() {
    this.groups = new Map();
    for (let i = 0; i < this.count; i += 1) {
      const key = DS.bucket(this.value(i)) * 8 + DS.SHAPES.indexOf(DS.shape(this.nodes, i));
      const group = this.groups.get(key);
      if (group) group.push(i); else this.groups.set(key, [i]);
    }
  }

  queue() {
    if (this.isQueued) return;
    this.isQueued = true;
    requestAnimationFrame(() => { this.isQueued = false; this.draw(); });
  }

  draw() {
    if (!this.width) return;
    const context = this.canvas.getContext("2d");
    const ratio = window.devicePixelRatio || 1;
    const theme = this.media.matches ? "dark" : "light";
    const ink = theme === "dark" ? "#e8e8e8" : "#1c1c1c";
    const faint = theme === "dark" ? "rgba(200,200,200,0.30)" : "rgba(60,60,60,0.28)";
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    const last = this.frames.length ? this.frames[this.frame].last : -1;
    const { x: stepX, y: stepY } = this.unit, { x: originX, y: originY } = this.origin;
    const xs = this.xs, ys = this.ys;
    for (let i = 0; i <= last; i += 1) {
      xs[i] = originX + this.layout.x[i] * stepX;
      ys[i] = originY + this.layout.depth[i] * stepY;
    }
    const left = -40, right = this.width + 40, top = -40, bottom = this.height + 40;

    // Edges: all of them thin, then those of backed-up paths, dashed where the answer was not correct.
    const chosen = this.trajectory >= 0 ? new Set(this.data.trajectories[this.trajectory].path) : null;
    const edges = (wanted, colour, width, dash) => {
      context.beginPath();
      for (let i = 1; i <= last; i += 1) {
        if (!wanted(i)) continue;
        const p = this.parent[i], x = xs[i], y = ys[i], px = xs[p], py = ys[p];
        if ((x < left && px < left) || (x > right && px > right) || y < top || py > bottom) continue;
        context.moveTo(px, py);
        context.lineTo(x, y);
      }
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.setLineDash(dash);
      context.stroke();
      context.setLineDash([]);
    };
    edges((i) => this.backed[i] === 0, faint, 1, []);
    edges((i) => this.backed[i] === 1, theme === "dark" ? "#d8892b" : "#a85a08", 1.6, [5, 3]);
    edges((i) => this.backed[i] === 2, theme === "dark" ? "#7cc0ea" : "#05508a", 2.2, []);
    if (chosen) edges((i) => chosen.has(i), ink, 3.4, []);

    // Nodes: one path for each colour and shape.
    for (const [key, members] of this.groups) {
      const seen = [];
      for (const i of members) {
        if (i > last) break;
        if (xs[i] > left && xs[i] < right && ys[i] > top && ys[i] < bottom) seen.push(i);
      }
      if (seen.length) this.drawNodes(context, seen, Math.floor(key / 8), key % 8, theme, ink);
    }

    const current = this.frames.length ? this.frames[this.frame].parent : null;
    if (current !== null && this.frame < this.frames.length - 1) this.ring(context, this.place(current), this.radius(current) + 6, ink, [3, 3]);
    if (this.selected <= last) this.ring(context, this.place(this.selected), this.radius(this.selected) + 4, ink, []);
    this.canvas.dataset.drawn = String(last + 1);
  }

  drawNodes(context, members, bucket, shape, theme, ink) {
    const isSmall = this.radius(0) < 2.2;
    context.beginPath();
    for (const i of members) {
      const x = this.xs[i], y = this.ys[i];
      const r = this.radius(i);
      if (shape === 2) {
        context.moveTo(x, y - r * 1.5); context.lineTo(x + r * 1.5, y); context.lineTo(x, y + r * 1.5); context.lineTo(x - r * 1.5, y);
        context.closePath();
      } else if (shape === 3 && !isSmall) {
        context.moveTo(x - r, y - r); context.lineTo(x + r, y + r); context.moveTo(x + r, y - r); context.lineTo(x - r, y + r);
      } else if (shape === 0 || shape === 4 || isSmall) {
        context.rect(x - r, y - r, 2 * r, 2 * r);
      } else {
        context.moveTo(x + r, y); context.arc(x, y, r, 0, 2 * Math.PI);
      }
    }
    const colour = DS.colour(bucket, theme);
    if (shape === 3 && !isSmall) {
      context.lineCap = "round";
      context.strokeStyle = ink; context.lineWidth = Math.max(2.4, this.radius(0) * 0.75); context.stroke();
      context.strokeStyle = colour; context.lineWidth = Math.max(1.4, this.radius(0) * 0.45); context.stroke();
      return;
    }
    if (shape !== 5) { context.fillStyle = colour; context.fill(); }
    if (!isSmall || shape === 2) { context.strokeStyle = ink; context.lineWidth = shape === 2 ? 1.6 : 0.8; context.stroke(); }
  }

  ring(context, at, r, colour, dash) {
    context.beginPath();
    context.arc(at.x, at.y, r, 0, 2 * Math.PI);
    context.setLineDash(dash);
    context.strokeStyle = colour;
    context.lineWidth = 2;
    context.stroke();
    context.setLineDash([]);
  }
};

/** What colours, shapes and lines of a tree mean. */
DS.treeLegend = () => {
  const icon = (children) => DS.svg("svg", { class: "sample", width: 22, height: 16, "aria-hidden": "true" }, children);
  const entry = (picture, text) => DS.h("li", {}, picture, ` ${text}`);
  const theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const scale = DS.svg("svg", { class: "sample", width: 126, height: 16, "aria-hidden": "true" },
    Array.from({ length: DS.BUCKETS }, (_, b) => DS.svg("rect", { x: b * 6, y: 2, width: 6, height: 12, fill: DS.colour(b, theme) })));
  return DS.h("ul", { class: "legend", "aria-label": "Legend" },
    entry(scale, "q from −1 to 1 (of q total its tanh), as it was at the end"),
    entry(icon(DS.svg("path", { class: "mark", d: "M11,1L18,8L11,15L4,8z" })), "correct answer"),
    entry(icon(DS.svg("path", { class: "mark", d: "M5,2L17,14M17,2L5,14" })), "incorrect answer"),
    entry(icon(DS.svg("rect", { class: "mark", x: 6, y: 3, width: 10, height: 10 })), "no answer (or the prompt, on top)"),
    entry(icon(DS.svg("circle", { class: "mark", cx: 11, cy: 8, r: 5 })), "not an end; larger: more visits"),
    entry(icon(DS.svg("path", { class: "path2", d: "M0,8H22" })), "path to a backed-up correct answer"),
    entry(icon(DS.svg("path", { class: "path1", d: "M0,8H22" })), "path to another backed-up answer"));
};
