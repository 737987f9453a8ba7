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
DS.Explorer = class extends DS.Drawing {
  constructor(data, base, label) {
    super();
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
    this.isQueued = false;
    this.xs = new Float64Array(this.count);
    this.ys = new Float64Array(this.count);
    this.prepare();
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
    const mean = DS.h("input", { type: "checkbox", onchange: (e) => { this.onMean = e.target.checked; this.colour(); this.queue(); } });
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
    this.onScheme = () => this.queue();
    this.media.addEventListener("change", this.onScheme);
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
    this.media.removeEventListener("change", this.onScheme);
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
