"use strict";
// Watches a run in a real browser while somebody else kills and resumes it: node live.js URL. Says `open` when it looks.
// One line of JSON on its input says what the database holds in the end; the pages have to show the same without having
// been loaded again, with no row twice at any moment. Ends with 1 where anything is not as it should be.

const assert = require("node:assert");
const readline = require("node:readline");
const { launch, open } = require("./chromium.js");

const base = process.argv[2];

/** What a page shows is looked at after every change of it. */
const WATCH = `(() => {
  window.seen = { twice: [], steps: [], drawn: 0 };
  const look = () => {
    seen.drawn += 1;
    for (const table of document.querySelectorAll("#main table")) {
      const caption = table.caption.textContent;
      // The first column of the list of runs is a box to tick.
      const place = caption.startsWith("Runs") ? 1 : 0;
      const keys = [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
      for (const key of keys) if (keys.indexOf(key) !== keys.lastIndexOf(key)) seen.twice.push(caption + ": " + key);
      if (!caption.startsWith("Steps")) continue;
      const done = [...table.tBodies[0].rows].filter((row) => row.cells[1].textContent === "done").length;
      if (done !== seen.steps[seen.steps.length - 1]) seen.steps.push(done);
    }
  };
  new MutationObserver(look).observe(document.getElementById("main"), { childList: true, subtree: true });
})()`;

const rows = (caption) => `[...[...document.querySelectorAll("#main table")].find((t) => t.caption.textContent.startsWith("${caption}")).tBodies[0].rows]
  .map((row) => [...row.cells].map((cell) => cell.textContent))`;

const main = async () => {
  const lines = readline.createInterface({ input: process.stdin });
  const expected = new Promise((resolve) => lines.once("line", (line) => resolve(JSON.parse(line))));
  const browser = launch(process.env.CHROMIUM || "chromium");
  try {
    const tab = async (hash) => {
      const page = await open(browser, { width: 1180, height: 820 });
      // Each is looked at, as with several windows side by side.
      await page.send("Emulation.setFocusEmulationEnabled", { enabled: true });
      await page.send("Page.navigate", { url: base + hash });
      await page.until("typeof DS === 'object' && document.querySelector('#main h1') && !document.querySelector('.loading')", hash);
      await page.evaluate(WATCH);
      return page;
    };
    const list = await tab("#/");
    assert.match(await list.evaluate("document.querySelector('#main').textContent"), /No run yet/);
    console.log("open");
    await list.until("document.querySelector('td a')", "the run in the list");
    const run = await list.evaluate("document.querySelector('td a').hash.split('/').pop()");
    const [overview, trees, curves, problems] = await Promise.all(
      [`#/run/${run}`, `#/run/${run}/trees`, `#/curves?runs=${run}`, `#/run/${run}/problems`].map(tab));
    const pages = { list, overview, trees, curves, problems };
    const wanted = await expected;

    const cells = JSON.stringify(wanted.steps);
    const asShown = await overview.evaluate(`${cells}.map((s) => [String(s.step_id), s.status, s.tree_count + " of " + s.problem_count,
      DS.percent(s.solved_frac), DS.number(s.mean_reward), DS.number(s.loss), DS.number(s.grad_norm)]).reverse()`);
    await overview.until(`JSON.stringify(${rows("Steps")}.map((row) => row.slice(0, ${asShown[0].length}))) === ${JSON.stringify(JSON.stringify(asShown))}`,
      `the steps ${JSON.stringify(asShown)}`);
    await overview.until("[...document.querySelectorAll('dd')].some((dd) => dd.textContent === 'done')", "that the run is done");
    assert.deepStrictEqual((await overview.evaluate(rows("Weights"))).map((row) => row[0]), wanted.weights.map((w) => `v${w}`).reverse());
    await trees.until(`JSON.stringify(${rows("Trees")}.map((row) => Number(row[0]))) === ${JSON.stringify(JSON.stringify(wanted.trees))}`, "the trees");
    const slots = (await trees.evaluate(rows("Trees"))).map((row) => `${row[1]}/${row[2]}`);
    assert.strictEqual(new Set(slots).size, slots.length, "a problem of a step was searched twice");
    await list.until(`${rows("Runs")}.length === 1 && ${rows("Runs")}[0][4] === "done" && ${rows("Runs")}[0][5] === "${wanted.steps.length} of ${wanted.steps.length}"`,
      "the run in the list");
    await problems.until(`${rows("Problems")}.map((row) => Number(row[5].split(" of ")[1])).reduce((a, b) => a + b, 0) === ${wanted.trees.length}`, "the problems");
    const points = wanted.steps.length;
    await curves.until(`document.querySelectorAll("figure[data-name=mean_reward] .marker").length === ${points}`, `${points} points of a curve`);

    for (const [name, page] of Object.entries(pages)) {
      const { twice, drawn } = await page.evaluate("seen");
      assert.deepStrictEqual(twice, [], `${name}: shown twice`);
      assert.deepStrictEqual(page.complaints, [], `${name}: the console is not empty`);
      assert.strictEqual(await page.evaluate("document.getElementById('trouble').hidden"), true, name);
      const documents = page.asked.filter((url) => new URL(url).pathname === "/").length;
      assert.strictEqual(documents, 1, `${name}: the page was loaded again`);
      console.log(`${name}: drawn ${drawn} times, asked ${page.asked.length} times`);
    }
    const { steps } = await overview.evaluate("seen");
    console.log(`steps that were done, as the page showed them: ${steps}`);
    assert(steps.length >= 2, `new steps did not appear one by one: ${steps}`);
    assert(steps.every((count, i) => i === 0 || count > steps[i - 1]), `a step that was done went away: ${steps}`);
  } finally {
    lines.close();
    await browser.close();
  }
};

main().then(() => console.log("ok"), (error) => { console.error(error); process.exitCode = 1; });
