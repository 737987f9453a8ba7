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
    assert(await evaluate("[...document.querySelectorAll('figure')].some((f) => new Set([...f.querySelectorAll('.line')].map((l) => l.getAttribute('stroke-dasharray'))).size === 2)"), "two lines, two dashes");
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
  const started = Date.now();
  await evaluate(`location.hash = '#/run/${run}/tree/${tree}'`);
  await until("DS.explorers.length === 1 && Number(document.querySelector('canvas').dataset.drawn) === DS.explorers[0].count", "the tree");
  const opened_ms = Date.now() - started;
  const frame = await evaluate(`new Promise((resolve) => {
    const e = DS.explorers[0];
    const times = [];
    const next = () => {
      e.zoom(times.length < 15 ? 1.08 : 1 / 1.08);
      requestAnimationFrame(() => { times.push(e.draw_ms); if (times.length < 30) next(); else resolve(times.sort((a, b) => a - b)[15]); });
    };
    next();
  })`);
  const facts = await evaluate("({ nodes: DS.explorers[0].count, draw: DS.explorers[0].draw_ms, frames: DS.explorers[0].frames.length })");
  console.log(`${prefix}tree ${tree}: ${facts.nodes} nodes, ${facts.frames} frames; open to drawn ${opened_ms} ms, median frame while zooming ${frame.toFixed(1)} ms`);
  assert(facts.nodes < 9000 || frame < 1000, "drawing takes too long");
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
