"use strict";
// What is known of a tree before it is drawn: places, replay, colours. No page needed: tests run it as it is.

/**
 * A tidy drawing (after Reingold and Tilford): parents above the middle of their children, subtrees as near to each other
 * as they fit, order kept. A parent has a smaller number than its children, so one pass up and one down do; the work is
 * at most the number of nodes times the depth. `x` in units of one node from 0, `depth` from 0.
 */
DS.layout = (parent) => {
  const n = parent.length;
  const children = Array.from({ length: n }, () => []);
  const depth = new Int32Array(n);
  for (let i = 1; i < n; i += 1) {
    children[parent[i]].push(i);
    depth[i] = depth[parent[i]] + 1;
  }
  // Of each finished subtree its left and right outline by depth, from its root; of each node its place beside its parent.
  const lefts = new Array(n), rights = new Array(n);
  const offset = new Float64Array(n);
  for (let i = n - 1; i >= 0; i -= 1) {
    const left = [], right = [];
    for (const child of children[i]) {
      const childLeft = lefts[child], childRight = rights[child];
      let shift = 0;
      for (let d = 0; d < Math.min(right.length, childLeft.length); d += 1) {
        // Cousins stand a little further apart than siblings.
        shift = Math.max(shift, right[d] - childLeft[d] + (d === 0 ? 1 : 1.25));
      }
      offset[child] = shift;
      for (let d = 0; d < childRight.length; d += 1) {
        right[d] = childRight[d] + shift;
        if (d >= left.length) left.push(childLeft[d] + shift);
      }
      lefts[child] = rights[child] = null;
    }
    const all = children[i];
    const middle = all.length ? (offset[all[0]] + offset[all[all.length - 1]]) / 2 : 0;
    for (const child of all) offset[child] -= middle;
    lefts[i] = [0, ...left.map((x) => x - middle)];
    rights[i] = [0, ...right.map((x) => x - middle)];
  }
  const least = n ? Math.min(...lefts[0]) : 0;
  const x = new Float64Array(n);
  let width = 0, height = 0;
  for (let i = 0; i < n; i += 1) {
    x[i] = i === 0 ? -least : x[parent[i]] + offset[i];
    width = Math.max(width, x[i]);
    height = Math.max(height, depth[i]);
  }
  return { x, depth, children, width, height };
};

/**
 * The expansions in the order in which their answers came: nodes are numbered as they are made, so that those with the
 * same parent and following numbers came together. After frame k the nodes up to `last` are there; frame 0 is the prompt.
 */
DS.frames = (parent) => {
  const frames = [{ parent: null, first: 0, last: 0 }];
  for (let i = 1; i < parent.length; i += 1) {
    const frame = frames[frames.length - 1];
    if (frame.parent === parent[i]) frame.last = i;
    else frames.push({ parent: parent[i], first: i, last: i });
  }
  return parent.length ? frames : [];
};

/** Names of nodes as the store gives them: the k-th child of T is T.k. */
DS.tag = (layout, parent, node) => {
  const places = [];
  for (let at = node; at > 0; at = parent[at]) places.unshift(layout.children[parent[at]].indexOf(at) + 1);
  return [0, ...places].join(".");
};

/** Which node comes next in a direction: to the parent, the first child, the sibling on a side. */
DS.neighbour = (layout, parent, node, key) => {
  if (key === "ArrowUp") return node > 0 ? parent[node] : node;
  if (key === "ArrowDown") return layout.children[node].length ? layout.children[node][0] : node;
  if (node === 0) return node;
  const all = layout.children[parent[node]];
  const at = all.indexOf(node) + (key === "ArrowLeft" ? -1 : 1);
  return all[Math.max(0, Math.min(all.length - 1, at))];
};

DS.qMean = (nodes, i) => (nodes.visits[i] > 0 ? nodes.q_total[i] / nodes.visits[i] : 0);

/** UCT at the end of the search; null where it is not defined. DeepSearch (arXiv 2509.25454), section 3.2. */
DS.uct = (nodes, i, lambda) => {
  const parent = nodes.parent[i];
  if (parent === null || nodes.is_terminal[i] || !nodes.visits[i] || !nodes.visits[parent]) return null;
  return DS.qMean(nodes, i) + lambda * Math.sqrt(Math.log(nodes.visits[parent]) / nodes.visits[i]);
};

// Orange over grey to blue: told apart with any common kind of colour blindness, and by lightness from the middle out.
DS.PALETTES = {
  light: [[179, 88, 6], [224, 130, 20], [253, 184, 99], [214, 214, 214], [146, 197, 222], [67, 147, 195], [5, 84, 150]],
  dark: [[255, 178, 84], [224, 130, 20], [166, 92, 18], [92, 92, 96], [38, 108, 160], [67, 147, 195], [150, 210, 245]],
};
DS.BUCKETS = 21;

/** The place of a value between -1 and 1 among the colours. */
DS.bucket = (value) => Math.round(((Math.max(-1, Math.min(1, value)) + 1) / 2) * (DS.BUCKETS - 1));

DS.colour = (bucket, theme) => {
  const palette = DS.PALETTES[theme];
  const at = (bucket / (DS.BUCKETS - 1)) * (palette.length - 1);
  const low = Math.min(palette.length - 2, Math.floor(at));
  const mix = palette[low].map((c, k) => Math.round(c + (palette[low + 1][k] - c) * (at - low)));
  return `rgb(${mix.join(",")})`;
};

DS.SHAPES = ["root", "circle", "diamond", "cross", "square", "ring"];

/** What a node looks like without its colour: one of the shapes. */
DS.shape = (nodes, i) => {
  if (i === 0) return "root";
  if (!nodes.is_terminal[i]) return "circle";
  return { correct: "diamond", incorrect: "cross", no_answer: "square" }[nodes.verdict[i]] || "ring";
};

/** Of each node: 0 on no trajectory, 1 on one that is not correct, 2 on a correct one. */
DS.backed = (count, trajectories) => {
  const backed = new Uint8Array(count);
  for (const trajectory of trajectories) {
    const mark = trajectory.verdict === "correct" ? 2 : 1;
    for (const node of trajectory.path) backed[node] = Math.max(backed[node], mark);
  }
  return backed;
};

/** How sure the policy was of a token, from 0 (certain) to 7. */
DS.shade = (logprob) => {
  if (logprob === null || !Number.isFinite(logprob)) return null;
  return Math.max(0, Math.min(7, Math.floor(-logprob * 2.4)));
};
