"use strict";
// The parts of the page that need no page: layout, replay, filters, scales. Run by tests/serve.rs with node.

const assert = require("node:assert");
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const folder = path.join(__dirname, "..", "..", "src", "serve", "assets");
const context = vm.createContext({ URLSearchParams, performance, console, clearInterval, clearTimeout });
for (const name of ["core.js", "chart.js", "layout.js", "drawing.js", "explorer.js", "lists.js", "pages.js"]) {
  vm.runInContext(fs.readFileSync(path.join(folder, name), "utf8"), context, { filename: name });
}
const DS = vm.runInContext("DS", context);
const plain = (value) => JSON.parse(JSON.stringify(value));

// Every node keeps a unit's distance from the next of its depth, parents stand over the middle of their children, and the
// drawing begins at 0.
const checkLayout = (parent) => {
  const layout = DS.layout(parent);
  const rows = new Map();
  let least = Infinity;
  for (let i = 0; i < parent.length; i += 1) {
    least = Math.min(least, layout.x[i]);
    const row = rows.get(layout.depth[i]) || [];
    row.push(layout.x[i]);
    rows.set(layout.depth[i], row);
    const children = layout.children[i];
    if (children.length) {
      const middle = (layout.x[children[0]] + layout.x[children[children.length - 1]]) / 2;
      assert(Math.abs(layout.x[i] - middle) < 1e-6, `node ${i}`);
      for (let k = 1; k < children.length; k += 1) assert(layout.x[children[k]] > layout.x[children[k - 1]]);
    }
  }
  for (const row of rows.values()) {
    row.sort((a, b) => a - b);
    for (let k = 1; k < row.length; k += 1) assert(row[k] - row[k - 1] >= 1 - 1e-6);
  }
  assert(Math.abs(least) < 1e-6);
  return layout;
};

checkLayout([null]);
assert.deepStrictEqual(plain([...checkLayout([null, 0, 0]).x]), [0.5, 0, 1]);
checkLayout([null, 0, 1, 2, 3]);
// A deep left subtree beside a shallow right one, and the other way round.
checkLayout([null, 0, 0, 1, 1, 3, 3, 5, 5]);
checkLayout([null, 0, 0, 2, 2, 4, 4, 6, 6]);
let seed = 7;
const random = (n) => { seed = (seed * 1103515245 + 12345) % 2147483648; return seed % n; };
for (let round = 0; round < 200; round += 1) {
  const parent = [null];
  while (parent.length < 1 + random(60)) parent.push(random(parent.length));
  checkLayout(parent);
}
const big = [null];
while (big.length < 10000) {
  const chosen = random(Math.min(big.length, 3000));
  for (let k = 0; k < 8; k += 1) big.push(chosen);
}
const started = performance.now();
checkLayout(big);
const layoutMs = performance.now() - started;
assert(layoutMs < 2000, `layout of ${big.length} nodes took ${layoutMs} ms`);
const chain = Array.from({ length: 3000 }, (_, i) => (i ? i - 1 : null));
assert.strictEqual(DS.layout(chain).height, 2999);
assert.deepStrictEqual(plain([...DS.layout([]).x]), []);

// Replay: each expansion once, all nodes in the end.
const frames = plain(DS.frames([null, 0, 0, 1, 1, 0, 3]));
assert.deepStrictEqual(frames.map((f) => [f.parent, f.first, f.last]), [[null, 0, 0], [0, 1, 2], [1, 3, 4], [0, 5, 5], [3, 6, 6]]);
assert.strictEqual(DS.frames(big).at(-1).last, big.length - 1);
assert.deepStrictEqual(plain(DS.frames([])), []);

// Names and neighbours.
const parent = [null, 0, 0, 1, 1];
const layout = DS.layout(parent);
assert.strictEqual(DS.tag(layout, parent, 4), "0.1.2");
assert.strictEqual(DS.tag(layout, parent, 0), "0");
const go = (node, key) => DS.neighbour(layout, parent, node, key);
assert.deepStrictEqual([go(0, "ArrowDown"), go(1, "ArrowRight"), go(2, "ArrowLeft"), go(4, "ArrowUp"), go(0, "ArrowUp"), go(3, "ArrowLeft")],
  [1, 2, 1, 1, 0, 3]);

// The scrubber's keys.
const scrubber = Object.create(DS.Explorer.prototype);
Object.assign(scrubber, { frame: 2, frames: new Array(5), timer: 0, play: { setAttribute() {} } });
const shown = [];
scrubber.show = (frame) => shown.push(frame);
scrubber.toggle = () => shown.push("toggle");
assert.deepStrictEqual([" ", "ArrowLeft", "ArrowRight", "Home", "End", "x"].map((key) => scrubber.key(key)), [true, true, true, true, true, false]);
assert.deepStrictEqual(shown, ["toggle", 1, 3, 0, 4]);

// Values, colours, shapes, UCT.
const nodes = { visits: [2, 2, 0], q_total: [0.2, 0.5, 0], parent: [null, 0, 0], is_terminal: [false, false, true], verdict: [null, null, "correct"] };
assert.strictEqual(DS.qMean(nodes, 2), 0);
assert(Math.abs(DS.uct(nodes, 1, 2) - (0.25 + 2 * Math.sqrt(Math.log(2) / 2))) < 1e-12);
assert.strictEqual(DS.uct(nodes, 0, 2), null);
assert.deepStrictEqual([0, 1, 2].map((i) => DS.shape(nodes, i)), ["root", "circle", "diamond"]);
assert.deepStrictEqual([-9, -1, 0, 1, 9].map(DS.bucket), [0, 0, 10, 20, 20]);
assert.strictEqual(new Set(Array.from({ length: DS.BUCKETS }, (_, b) => DS.colour(b, "light"))).size, DS.BUCKETS);
assert.deepStrictEqual([...DS.backed(5, [{ verdict: "incorrect", path: [1, 4] }, { verdict: "correct", path: [1, 3] }])], [0, 2, 0, 2, 1]);
assert.deepStrictEqual([0, -0.5, -100, null, NaN].map(DS.shade), [0, 1, 7, null, null]);

// Scales and numbers.
assert.deepStrictEqual(plain(DS.ticks(0, 10, 5)), [0, 2, 4, 6, 8, 10]);
assert.deepStrictEqual(plain(DS.ticks(-1, 1, 4)), [-1, -0.5, 0, 0.5, 1]);
assert.deepStrictEqual(plain(DS.ticks(3, 3, 4)), [3]);
assert.deepStrictEqual(plain(DS.spread(5, 2)), [0, 3, 4]);
assert.deepStrictEqual(plain(DS.spread(0, 2)), []);
assert.deepStrictEqual([null, 0, 12, 0.25, 123456, NaN].map((v) => DS.number(v)), ["–", "0", "12", "0.250", "123.5 k", "–"]);
assert.strictEqual(DS.figure("solved_frac", 0.5), "50.0 %");

// A file answers as the server would.
const answers = {
  "/api/runs/0-0/trees": { total: 3, trees: [
    { tree_id: 1, step_id: 1, slot: 0, problem_id: 1, kind: "search", is_solved: true, node_count: 5 },
    { tree_id: 2, step_id: 2, slot: 0, problem_id: 2, kind: "replay", is_solved: false, node_count: 9 },
    { tree_id: 3, step_id: 2, slot: 1, problem_id: 1, kind: "search", is_solved: false, node_count: 7 }] },
  "/api/runs/0-0/trees/1": { nodes: { parent: [null, 0, 1] }, texts: [{ node_id: 0, text: "q" }, { node_id: 2, text: "a" }] },
};
const ids = (query) => plain(DS.fromFile(answers, `/api/runs/0-0/trees?${query}`).trees.map((t) => t.tree_id));
assert.deepStrictEqual([ids(""), ids("order=gain"), ids("order=nodes"), ids("step=2&solved=false"), ids("problem=1&limit=1"), ids("kind=replay")],
  [[3, 2, 1], [1, 2, 3], [2, 3, 1], [3, 2], [3], [2]]);
assert.deepStrictEqual(plain(DS.fromFile(answers, "/api/runs/0-0/trees/1/nodes/2").path.map((p) => p.text)), ["q", null, "a"]);
assert.throws(() => DS.fromFile(answers, "/api/runs/0-0/trees/9"), /orchestrator serve/);

// Nothing in the page parses markup.
for (const name of fs.readdirSync(folder).filter((file) => file.endsWith(".js"))) {
  const text = fs.readFileSync(path.join(folder, name), "utf8");
  assert(!/innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function/.test(text), name);
}
console.log(`ok: layout of ${big.length} nodes in ${layoutMs.toFixed(0)} ms`);
