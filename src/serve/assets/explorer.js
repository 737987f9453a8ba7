"use strict";
// The tree explorer: the whole tree on a canvas, its search replayed, the text of a node.

/** Tokens of one node, shaded by logprob; without tokens the text as a whole by the mean of its logprobs. */
DS.shaded = (part, limit) => {
  if (part.text === null) return DS.h("span", { class: "gone" }, " [the text of this node was not kept] ");
  const logprobs = part.logprobs || [];
  const one = (text, logprob) => {
    const shade = DS.shade(logprob);
    const title = logprob === null || logprob === undefined ? "no logprob"
      : `${DS.number(logprob)} nats, probability ${DS.percent(Math.exp(logprob))}`;
    return DS.h("span", { class: shade === null ? null : `lp lp${shade}`, title }, text);
  };
  if (part.pieces) {
    const shown = limit ? part.pieces.slice(0, limit) : part.pieces;
    const spans = shown.map((piece, i) => (piece ? one(piece, logprobs[i]) : null));
    return [spans, shown.length < part.pieces.length ? "…" : null];
  }
  const known = logprobs.filter((value) => Number.isFinite(value));
  const mean = known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
  const text = limit && part.text.length > limit * 4 ? `${part.text.slice(0, limit * 4)}…` : part.text;
  return one(text, mean);
};

/** A tree in a panel. `base` is the address of the tree in the API. */
DS.Explorer = class {
  constructor(data, base, label) {
    this.data = data;
    this.base = base;
    this.nodes = data.nodes;
    this.parent = data.nodes.parent;
    this.count = this.parent.length;
    this.layout = DS.layout(this.parent);
    this.frames = DS.frames(this.parent);
    this.backed = DS.backed(this.count, data.trajectories);
    this.leaves = new Map(data.trajectories.map((t, i) => [t.path[t.path.length - 1], i]));
    this.frame = this.frames.length - 1;
    this.selected = 0;
    this.hovered = -1;
    this.trajectory = -1;
    this.onMean = false;
    this.timer = 0;
    this.draw_ms = 0;
    this.isQueued = false;
    this.build(label);
  }

  build(label) {
    const tree = this.data.tree;
    this.canvas = DS.h("canvas", {
      tabindex: "0", role: "application", "aria-roledescription": "tree",
      "aria-label": `Tree ${tree.tree_id}: ${this.count} nodes, ${tree.is_solved ? "solved" : "not solved"}. `
        + "Arrow keys go from node to node, plus and minus zoom, 0 shows the whole tree, p shows the backed-up paths one by one.",
    });
    this.tip = DS.h("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.slider = DS.h("input", {
      type: "range", min: 0, max: Math.max(0, this.frames.length - 1), value: this.frame, step: 1,
      "aria-label": "Expansions shown", class: "scrubber",
    });
    this.play = DS.h("button", { type: "button", onclick: () => this.toggle(), "aria-pressed": "false" }, "Replay");
    this.said = DS.h("output", { class: "reading" }, "");
    this.status = DS.h("p", { class: "reading", role: "status" }, "");
    this.facts = DS.h("dl", { class: "facts" });
    this.text = DS.h("div", { class: "answer", tabindex: "0", role: "region", "aria-label": "Text from the prompt to the node" });
    const button = (text, name, act) => DS.h("button", { type: "button", "aria-label": name, title: name, onclick: act }, text);
    const mean = DS.h("input", { type: "checkbox", onchange: (e) => { this.onMean = e.target.checked; this.queue(); } });
    this.panel = DS.h("section", { class: "explorer", "aria-label": label },
      DS.h("div", { class: "bar" }, this.play, this.slider, this.said),
      DS.h("div", { class: "stage" }, this.canvas, this.tip),
      DS.h("div", { class: "bar" },
        button("+", "Zoom in", () => this.zoom(1.4)), button("−", "Zoom out", () => this.zoom(1 / 1.4)),
        button("Whole tree", "Show the whole tree", () => { this.fit(); this.queue(); }),
        button("Next path", "Show the next backed-up path", () => this.nextTrajectory()),
        DS.h("label", {}, mean, " colour by mean q (q per visit, what selection uses)")),
      this.trajectoryList(),
      DS.h("div", { class: "node" }, this.status, this.facts, this.text));
    this.slider.addEventListener("input", () => { this.stop(); this.show(Number(this.slider.value)); });
    this.slider.addEventListener("keydown", (event) => {
      if (event.key === " ") { event.preventDefault(); this.toggle(); }
    });
    this.listen();
    this.observer = new ResizeObserver(() => { this.resize(); });
    this.observer.observe(this.canvas);
    this.media = matchMedia("(prefers-color-scheme: dark)");
    this.media.addEventListener("change", () => this.queue());
    this.select(0, false);
    this.show(this.frame);
  }

  trajectoryList() {
    const rows = this.data.trajectories.map((t, i) => ({ ...t, i }));
    if (!rows.length) return null;
    return DS.h("details", { class: "paths" }, DS.h("summary", {}, `${rows.length} backed-up paths`),
      DS.table("Backed-up paths, in the order in which they were", [
        ["path", (t) => DS.h("button", { type: "button", onclick: () => this.showTrajectory(t.i) }, `#${t.i}`)],
        ["verdict", (t) => t.verdict], ["reward", (t) => DS.number(t.reward), true],
        ["nats per token", (t) => DS.number(t.entropy_nats), true], ["tokens", (t) => t.response_tokens, true],
        ["from", (t) => t.provenance], ["unfit", (t) => t.defect || ""],
      ], rows));
  }

  // What is seen.

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
    const base = Math.max(0.8, Math.min(9, this.unit.x * 0.36, this.unit.y * 0.3));
    const visits = Math.log2(1 + this.nodes.visits[i]) / Math.log2(2 + this.nodes.visits[0]);
    return base * (0.55 + 0.75 * visits);
  }

  value(i) {
    return this.onMean ? DS.qMean(this.nodes, i) : Math.tanh(this.nodes.q_total[i]);
  }

  queue() {
    if (this.isQueued) return;
    this.isQueued = true;
    requestAnimationFrame(() => { this.isQueued = false; this.draw(); });
  }

  draw() {
    if (!this.width) return;
    const started = performance.now();
    const context = this.canvas.getContext("2d");
    const ratio = window.devicePixelRatio || 1;
    const theme = this.media.matches ? "dark" : "light";
    const ink = theme === "dark" ? "#e8e8e8" : "#1c1c1c";
    const faint = theme === "dark" ? "rgba(200,200,200,0.30)" : "rgba(60,60,60,0.28)";
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    const last = this.frames.length ? this.frames[this.frame].last : -1;
    const isNear = (p) => p.x > -40 && p.x < this.width + 40 && p.y > -40 && p.y < this.height + 40;
    const places = new Array(last + 1);
    for (let i = 0; i <= last; i += 1) places[i] = this.place(i);

    // Edges: all of them thin, then those of backed-up paths, dashed where the answer was not correct.
    const chosen = this.trajectory >= 0 ? new Set(this.data.trajectories[this.trajectory].path) : null;
    const edges = (wanted, colour, width, dash) => {
      context.beginPath();
      for (let i = 1; i <= last; i += 1) {
        const from = places[this.parent[i]], to = places[i];
        if (!wanted(i) || (!isNear(from) && !isNear(to))) continue;
        context.moveTo(from.x, from.y);
        context.lineTo(to.x, to.y);
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
    const groups = new Map();
    for (let i = 0; i <= last; i += 1) {
      if (!isNear(places[i])) continue;
      const key = DS.bucket(this.value(i)) * 8 + ["root", "circle", "diamond", "cross", "square", "ring"].indexOf(DS.shape(this.nodes, i));
      const group = groups.get(key);
      if (group) group.push(i); else groups.set(key, [i]);
    }
    for (const [key, members] of groups) this.drawNodes(context, places, members, Math.floor(key / 8), key % 8, theme, ink);

    const current = this.frames.length ? this.frames[this.frame].parent : null;
    if (current !== null && this.frame < this.frames.length - 1) this.ring(context, places[current], this.radius(current) + 6, ink, [3, 3]);
    if (this.selected <= last) this.ring(context, places[this.selected], this.radius(this.selected) + 4, ink, []);
    this.draw_ms = performance.now() - started;
    this.canvas.dataset.drawMs = this.draw_ms.toFixed(1);
    this.canvas.dataset.drawn = String(last + 1);
  }

  drawNodes(context, places, members, bucket, shape, theme, ink) {
    const isSmall = this.radius(0) < 2.2;
    context.beginPath();
    for (const i of members) {
      const { x, y } = places[i];
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

  // Replay.

  show(frame) {
    this.frame = Math.max(0, Math.min(this.frames.length - 1, frame));
    this.slider.value = this.frame;
    const { parent, first, last } = this.frames[this.frame] || { parent: null, first: 0, last: 0 };
    if (parent === null) {
      this.said.textContent = "before the first expansion";
    } else {
      this.said.textContent = `expansion ${this.frame} of ${this.frames.length - 1}: node ${this.tag(parent)} `
        + `got ${last - first + 1} children`;
    }
    this.slider.setAttribute("aria-valuetext", this.said.textContent);
    this.queue();
  }

  toggle() {
    if (this.timer) { this.stop(); return; }
    if (this.frame >= this.frames.length - 1) this.show(0);
    this.play.setAttribute("aria-pressed", "true");
    this.play.textContent = "Pause";
    // A large tree takes no longer than half a minute.
    const stride = Math.max(1, Math.ceil(this.frames.length / 150));
    this.timer = setInterval(() => {
      this.show(this.frame + stride);
      if (this.frame >= this.frames.length - 1) this.stop();
    }, 200);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
    this.play.setAttribute("aria-pressed", "false");
    this.play.textContent = "Replay";
  }

  /** Keys of the whole page: true if the key was ours. */
  key(key) {
    const moves = { ArrowLeft: this.frame - 1, ArrowRight: this.frame + 1, Home: 0, End: this.frames.length - 1 };
    if (key === " ") this.toggle();
    else if (key in moves) { this.stop(); this.show(moves[key]); } else return false;
    return true;
  }

  close() {
    this.stop();
    this.observer.disconnect();
    clearTimeout(this.hoverTimer);
  }

  // Choosing nodes.

  listen() {
    let drag = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, y: event.clientY, origin: { ...this.origin }, isClick: true };
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!drag) { this.hover(event); return; }
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      if (Math.abs(dx) + Math.abs(dy) > 4) drag.isClick = false;
      if (!drag.isClick) { this.origin = { x: drag.origin.x + dx, y: drag.origin.y + dy }; this.queue(); }
    });
    this.canvas.addEventListener("pointerup", (event) => {
      if (drag && drag.isClick) {
        const node = this.nearest(event);
        if (node >= 0) this.select(node, true);
      }
      drag = null;
    });
    this.canvas.addEventListener("pointercancel", () => { drag = null; });
    this.canvas.addEventListener("pointerleave", () => this.unhover());
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = this.canvas.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY * 0.0016), { x: event.clientX - box.left, y: event.clientY - box.top });
    }, { passive: false });
    this.canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const acts = {
        "+": () => this.zoom(1.4), "=": () => this.zoom(1.4), "-": () => this.zoom(1 / 1.4),
        0: () => { this.fit(); this.queue(); }, p: () => this.nextTrajectory(),
        Enter: () => this.select(this.selected, true), " ": () => this.toggle(),
        Home: () => this.show(0), End: () => this.show(this.frames.length - 1),
      };
      if (event.key.startsWith("Arrow")) this.select(DS.neighbour(this.layout, this.parent, this.selected, event.key), true);
      else if (acts[event.key]) acts[event.key]();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  nearest(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const last = this.frames.length ? this.frames[this.frame].last : -1;
    let best = -1, least = 14 * 14;
    for (let i = 0; i <= last; i += 1) {
      const dx = this.origin.x + this.layout.x[i] * this.unit.x - x, dy = this.origin.y + this.layout.depth[i] * this.unit.y - y;
      const far = dx * dx + dy * dy;
      if (far < least) { least = far; best = i; }
    }
    return best;
  }

  hover(event) {
    const node = this.nearest(event);
    if (node === this.hovered) return;
    this.unhover();
    this.hovered = node;
    if (node < 0) return;
    const at = this.place(node);
    this.tip.hidden = false;
    this.tip.style.left = `${Math.min(at.x + 14, this.width - 260)}px`;
    this.tip.style.top = `${at.y + 14}px`;
    this.tip.replaceChildren(DS.h("strong", {}, this.summary(node)));
    if (!this.nodes.is_kept[node]) return;
    // Not for every node that the pointer passes.
    this.hoverTimer = setTimeout(async () => {
      const path = await this.texts(node).catch(() => null);
      if (path && this.hovered === node) this.tip.append(DS.h("p", { class: "answer" }, DS.shaded(path[path.length - 1], 80)));
    }, 90);
  }

  unhover() {
    clearTimeout(this.hoverTimer);
    this.hovered = -1;
    this.tip.hidden = true;
  }

  tag(i) { return DS.tag(this.layout, this.parent, i); }

  summary(i) {
    const verdict = this.nodes.verdict[i] ? `, ${this.nodes.verdict[i]}` : "";
    return `node ${this.tag(i)}: q ${DS.number(this.nodes.q_total[i])}, ${this.nodes.visits[i]} visits${verdict}`;
  }

  async texts(node) {
    const { value } = await DS.get(`${this.base}/nodes/${node}`);
    return value.path;
  }

  nextTrajectory() {
    if (this.data.trajectories.length) this.showTrajectory((this.trajectory + 1) % this.data.trajectories.length);
  }

  showTrajectory(index) {
    this.trajectory = index;
    const path = this.data.trajectories[index].path;
    this.select(path[path.length - 1], true);
  }

  async select(node, reads) {
    if (this.trajectory >= 0 && !this.data.trajectories[this.trajectory].path.includes(node)) this.trajectory = -1;
    this.selected = node;
    const last = this.frames.length ? this.frames[this.frame].last : 0;
    if (node > last) this.show(this.frames.findIndex((frame) => frame.last >= node));
    const at = this.width ? this.place(node) : null;
    if (at && (at.x < 0 || at.x > this.width || at.y < 0 || at.y > this.height)) {
      this.origin.x += this.width / 2 - at.x;
      this.origin.y += this.height / 2 - at.y;
    }
    const n = this.nodes, paths = this.data.trajectories.flatMap((t, i) => (t.path.includes(node) ? [`#${i}`] : []));
    this.status.textContent = this.summary(node) + (this.leaves.has(node) ? `, end of path #${this.leaves.get(node)}` : "");
    const facts = [
      ["q total, trained on", DS.number(n.q_total[node])], ["q per visit", DS.number(DS.qMean(n, node))],
      ["visits", n.visits[node]], ["UCT at the end", DS.number(DS.uct(n, node, this.data.tree.uct_lambda))],
      ["entropy, nats per token", DS.number(n.entropy_nats[node])], ["tokens", n.token_count[node]],
      ["depth", this.layout.depth[node]], ["children", this.layout.children[node].length],
      ["verdict", n.verdict[node] || "–"], ["ended by", n.finish_reason[node] || "–"],
      ["chosen", n.selected_order[node] === null ? "never"
        : `as number ${n.selected_order[node]} by ${n.selected_kind[node]}, score ${DS.number(n.selected_score[node])}`],
      ["sampled by weights", n.weight_version[node] === null ? "–" : `v${n.weight_version[node]}`],
      ["on paths", paths.join(" ") || "none"],
    ];
    this.facts.replaceChildren(...facts.flatMap(([name, value]) => [DS.h("dt", {}, name), DS.h("dd", {}, value)]));
    this.queue();
    this.text.replaceChildren();
    if (!reads) { this.text.append("Choose a node to read its text."); return; }
    try {
      const path = await this.texts(node);
      if (this.selected !== node) return;
      this.text.replaceChildren(...path.map((part) =>
        DS.h("span", { class: part.node_id === 0 ? "prompt" : part.node_id === node ? "own" : "before" }, DS.shaded(part))));
    } catch (error) {
      if (this.selected === node) this.text.replaceChildren(`The text cannot be had: ${error.message}`);
    }
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
