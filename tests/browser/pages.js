"use strict";
// Opens every page of a server (and of a report, if one is named) in a real browser: node pages.js URL [REPORT.html]
//   [--shots FOLDER]. CHROMIUM names the browser. Ends with 1 where anything is not as it should be.

const assert = require("node:assert");
const path = require("node:path");
const { launch, open } = require("./chromium.js");

const words = process.argv.slice(2);
const at = words.indexOf("--shots");
const shots = at >= 0 ? words.splice(at, 2)[1] : null;
const [base, report] = words;

const main = async () => {
  const browser = launch(process.env.CHROMIUM || "chromium");
  try {
    const page = await open(browser, { width: 1180, height: 820 });
    await look(page, base, "");
    if (report) {
      const file = await open(browser, { width: 1180, height: 820 });
      await look(file, `file://${path.resolve(report)}`, "report-");
      assert.deepStrictEqual(file.asked.filter((url) => !url.startsWith("file:") && !url.startsWith("data:")), [], "the report asked for something");
    }
  } finally {
    await browser.close();
  }
};

/** All pages from one address. */
const look = async (page, address, prefix) => {
  const isFile = prefix !== "";
  const { evaluate, until, key, shot, send } = page;
  const save = async (name) => { if (shots) await shot(path.join(shots, `${prefix}${name}.png`)); };
  const go = async (hash) => {
    await evaluate(`location.hash = ${JSON.stringify(hash)}`);
    await until("document.querySelector('#main h1') && !document.querySelector('.loading')", `page ${hash}`);
    assert.strictEqual(await evaluate("document.getElementById('trouble').hidden"), true, `${hash}: ${await evaluate("document.getElementById('trouble').textContent")}`);
  };
  await send("Page.navigate", { url: address });
  await until("typeof DS === 'object' && document.querySelector('table tbody tr')", "the list of runs");
  await save("runs");
  const runs = await evaluate("[...document.querySelectorAll('td a')].map((a) => a.hash.split('/').pop())");
  assert(runs.length >= (isFile ? 1 : 2), `runs: ${runs}`);

  // Two runs, one over the other, against each axis; the keyboard reads the points.
  const chosen = runs.slice(0, 2).join(",");
  for (const axis of ["step", "generated_tokens", "seconds"]) {
    await go(`#/curves?runs=${chosen}&x=${axis}`);
    await until("document.querySelectorAll('figure svg').length >= 3", `curves against ${axis}`);
  }
  await go(`#/curves?runs=${chosen}`);
  await until(`document.querySelectorAll('.legend li').length === ${runs.slice(0, 2).length} && document.querySelectorAll('figure svg').length >= 3`);
  if (runs.length > 1) {
    await until("[...document.querySelectorAll('figure')].some((f) => new Set([...f.querySelectorAll('.line')].map((l) => l.getAttribute('stroke-dasharray'))).size === 2)", "two lines, two dashes");
  }
  await evaluate("document.querySelector('figure svg').focus()");
  await key("ArrowRight");
  await key("End");
  assert.match(await evaluate("document.querySelector('figure .reading').textContent"), /step .*: /);
  await evaluate("document.querySelector('figure details').open = true");
  await until("document.querySelector('figure table')");
  await evaluate("document.querySelector('figure details').open = false; scrollTo(0, 0)");
  await save("curves");

  for (const run of runs.slice(0, 2)) {
    await go(`#/run/${run}`);
    await until("document.querySelectorAll('table').length >= 3");
  }
  await save("run");
  const run = process.env.RUN || runs[0];
  await go(`#/run/${run}/mistakes`);
  await save("mistakes");
  await go(`#/run/${run}/problems?text=`);
  await until("document.querySelector('td a')");
  const problem = await evaluate("document.querySelector('td a').hash");
  await go(problem);
  await until("document.querySelectorAll('.card').length >= 1");
  await save("problem");
  assert.strictEqual(await evaluate("Boolean(document.querySelector('#main img, #main iframe, #main script'))"), false, "markup of a model got through");

  // The largest tree: drawn whole and soon, replayed, read, walked with keys.
  await go(`#/run/${run}/trees?order=nodes`);
  await until("document.querySelector('td a')");
  await save("trees");
  const trees = await evaluate("[...document.querySelectorAll('tbody tr')].map((tr) => ({ id: tr.querySelector('a').hash.split('/').pop(), problem: tr.querySelectorAll('a')[1].hash }))");
  const tree = process.env.TREE || trees[0].id;
  // From the click to the frame that shows it: what a task finds after the frame in which the drawing was complete.
  const painted_ms = await evaluate(`new Promise((resolve) => {
    const started = performance.now();
    const look = () => {
      const [explorer] = DS.explorers;
      if (!explorer || Number(explorer.canvas.dataset.drawn) !== explorer.count) { requestAnimationFrame(look); return; }
      const channel = new MessageChannel();
      channel.port1.onmessage = () => resolve(performance.now() - started);
      requestAnimationFrame(() => channel.port2.postMessage(null));
    };
    location.hash = '#/run/${run}/tree/${tree}';
    requestAnimationFrame(look);
  })`);
  await until("DS.explorers.length === 1 && Number(document.querySelector('canvas').dataset.drawn) === DS.explorers[0].count", "the tree");
  const middle = await evaluate("(() => { const b = document.querySelector('canvas').getBoundingClientRect(); return { x: b.left + b.width / 2, y: b.top + b.height / 2 }; })()");
  // Every frame zooms or moves, and the next one is not begun before it is shown; what reads a pixel back waits for all of them.
  const frames = async (act) => evaluate(`new Promise((resolve) => {
    const e = DS.explorers[0];
    const times = [];
    let last = 0;
    const next = (now) => {
      if (last) times.push(now - last);
      last = now;
      if (times.length >= 60) { times.sort((a, b) => a - b); resolve({ median: times[30], p95: times[56], most: times[59] }); return; }
      (${act})(e, times.length);
      requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
  })`);
  const zooming = await frames("(e, i) => e.zoom(i % 30 < 15 ? 1.08 : 1 / 1.08)");
  const moving = await frames("(e, i) => { e.origin.x += i % 30 < 15 ? 9 : -9; e.queue(); }");
  const drawn_ms = await evaluate(`(() => {
    const e = DS.explorers[0], times = [];
    const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    for (let i = 0; i < 9; i += 1) {
      const started = performance.now();
      e.draw();
      pixel.drawImage(e.canvas, 0, 0);
      pixel.getImageData(0, 0, 1, 1);
      times.push(performance.now() - started);
    }
    return times.sort((a, b) => a - b)[4];
  })()`);
  const facts = await evaluate("({ nodes: DS.explorers[0].count, frames: DS.explorers[0].frames.length })");
  const said = ({ median, p95, most }) => `${median.toFixed(0)} ms (95 % within ${p95.toFixed(0)}, most ${most.toFixed(0)})`;
  console.log(`${prefix}tree ${tree}: ${facts.nodes} nodes, ${facts.frames} expansions; click to frame ${painted_ms.toFixed(0)} ms, one drawing `
    + `with its pixels ${drawn_ms.toFixed(0)} ms, frames while zooming ${said(zooming)}, while moving ${said(moving)}`);
  // On a busy machine; docs/pages.md has the times of a free one.
  assert(painted_ms < 5000 && zooming.median < 500 && moving.median < 500, "drawing takes too long");
  const reading = () => evaluate("document.querySelector('.explorer output').textContent");
  const drawn = () => evaluate("Number(document.querySelector('canvas').dataset.drawn)");
  await evaluate("document.activeElement.blur(); DS.explorers[0].fit(); DS.explorers[0].queue()");
  await key("Home");
  await until("document.querySelector('canvas').dataset.drawn === '1'", "the tree before the first expansion");
  assert.strictEqual(await reading(), "before the first expansion");
  await key("ArrowRight");
  await until("Number(document.querySelector('canvas').dataset.drawn) > 1");
  assert.match(await reading(), /^expansion 1 of \d+: node 0 got \d+ children$/);
  const one = await drawn();
  await key(" ", "Space");
  await until(`Number(document.querySelector('canvas').dataset.drawn) > ${one} || DS.explorers[0].frames.length <= 2`, "the replay");
  await key("End");
  await until("Number(document.querySelector('canvas').dataset.drawn) === DS.explorers[0].count");
  await evaluate("document.querySelector('input[type=range]').focus()");
  await key("Home");
  await until("document.querySelector('canvas').dataset.drawn === '1'", "the slider");
  await key("End");
  await evaluate("document.querySelector('canvas').focus()");
  await key("ArrowDown");
  await until("DS.explorers[0].selected > 0");
  if (await evaluate("DS.explorers[0].data.trajectories.length > 0")) {
    await key("p", "KeyP");
    await until("document.querySelector('.node .answer span.own')", "the text of the end of a path");
    const shades = await evaluate("document.querySelectorAll('.node .answer .lp').length");
    assert(shades > 0, "no token is shaded");
  }
  await save("tree");
  await send("Input.dispatchMouseEvent", { type: "mouseWheel", ...middle, deltaX: 0, deltaY: -120 });
  await until("DS.explorers[0].unit.y > 0 && document.querySelector('canvas').dataset.drawn !== '0'", "the wheel");
  await evaluate("DS.explorers[0].fit(); DS.explorers[0].queue()");
  const point = await evaluate("(() => { const e = DS.explorers[0], b = e.canvas.getBoundingClientRect(), p = e.place(1); return { x: b.left + p.x, y: b.top + p.y }; })()");
  await send("Input.dispatchMouseEvent", { type: "mouseMoved", ...point });
  await until("!document.querySelector('.tip').hidden", "what is shown under the pointer");

  // Beside another tree of the same problem.
  const twin = trees.map((a) => [a, trees.find((b) => b.id !== a.id && b.problem === a.problem)]).find(([, b]) => b);
  if (twin) {
    await evaluate(`location.hash = '#/run/${run}/tree/${twin[0].id}?compare=${twin[1].id}'`);
    await until("DS.explorers.length === 2 && document.querySelectorAll('.pair canvas').length === 2", "two trees");
    await save("compare");
  } else {
    console.log(`${prefix}no problem has two trees in the list: nothing to compare`);
  }
  // Explorers that were closed listen no longer; a percent sign in an address is one; what is kept of answers is bounded.
  await go(`#/run/${run}/trees`);
  assert.strictEqual(await evaluate("DS.explorers.length"), 0);
  const heard = await evaluate(`(() => {
    const real = DS.Explorer.prototype.draw;
    let count = 0;
    DS.Explorer.prototype.draw = function () { count += 1; };
    window.restoreDraw = () => { DS.Explorer.prototype.draw = real; return count; };
  })()`);
  assert.strictEqual(heard, undefined);
  for (const value of ["dark", "light"]) await send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] });
  await evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))");
  assert.strictEqual(await evaluate("restoreDraw()"), 0, "a closed explorer still draws");
  await evaluate("location.hash = '#/run/%E0%A4%A'");
  await until("document.querySelector('#main h1')", "the page of an address that cannot be decoded");
  await evaluate("location.hash = '#/100%'");
  await until("document.querySelector('#main h1').textContent === 'There is no such page'", "the page of no address");
  page.complaints.splice(0, page.complaints.length, ...page.complaints.filter((text) => !/status of 40[04]/.test(text)));
  if (!isFile) {
    const kept = await evaluate(`(() => {
      const most = DS.ANSWERS_MOST;
      DS.ANSWERS_MOST = 1000;
      for (let i = 0; i < 20; i += 1) DS.remember("/x" + i, { tag: null, value: i, size: 300 });
      DS.ANSWERS_MOST = most;
      const sizes = [...DS.answers.values()].reduce((all, { size }) => all + size, 0);
      return { size: DS.answersSize, sizes, keys: [...DS.answers.keys()] };
    })()`);
    assert.deepStrictEqual(kept, { size: 900, sizes: 900, keys: ["/x17", "/x18", "/x19"] });
  }
  // Dark, and narrow.
  await send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: "dark" }] });
  await evaluate(`location.hash = '#/run/${run}/tree/${tree}'`);
  await until("DS.explorers.length === 1 && Number(document.querySelector('canvas').dataset.drawn) > 0");
  await save("tree-dark");
  await send("Emulation.setDeviceMetricsOverride", { width: 400, height: 800, deviceScaleFactor: 1, mobile: false });
  await until("document.documentElement.scrollWidth <= 410", "a narrow page");
  await go("#/");
  assert.deepStrictEqual(page.complaints, [], "the console is not empty");
};

main().then(() => console.log("ok"), (error) => { console.error(error); process.exitCode = 1; });
