"use strict";
// A headless Chromium driven over a pipe: no package is needed but node.

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

/** Starts a browser; `close` ends it and removes its folder. */
exports.launch = (program) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "browser-"));
  const child = spawn(program, ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--hide-scrollbars", "--force-device-scale-factor=1",
    `--user-data-dir=${folder}`, "--remote-debugging-pipe", "about:blank"],
  { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"], env: { ...process.env, HOME: folder } });
  const waiting = new Map();
  const listeners = [];
  let number = 0, rest = "";
  child.stdio[4].on("data", (bytes) => {
    const parts = (rest + bytes).split("\0");
    rest = parts.pop();
    for (const message of parts.map((part) => JSON.parse(part))) {
      if (message.id && waiting.has(message.id)) {
        const { resolve, reject, method } = waiting.get(message.id);
        waiting.delete(message.id);
        if (message.error) reject(new Error(`${method}: ${message.error.message}`)); else resolve(message.result);
      } else {
        listeners.forEach((listener) => listener(message));
      }
    }
  });
  child.on("exit", () => waiting.forEach(({ reject }) => reject(new Error("the browser has ended"))));
  const send = (method, params = {}, sessionId) => new Promise((resolve, reject) => {
    number += 1;
    waiting.set(number, { resolve, reject, method });
    child.stdio[3].write(`${JSON.stringify({ id: number, method, params, sessionId })}\0`);
  });
  const close = async () => {
    const gone = new Promise((resolve) => child.on("exit", resolve));
    await send("Browser.close").catch(() => child.kill());
    await gone;
    fs.rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  };
  return { send, close, onEvent: (listener) => listeners.push(listener) };
};

/** A page of the browser. `complaints` are errors of its console and of its network, and broken policies. */
exports.open = async (browser, size) => {
  const { targetId } = await browser.send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await browser.send("Target.attachToTarget", { targetId, flatten: true });
  const send = (method, params) => browser.send(method, params, sessionId);
  const complaints = [], asked = [];
  browser.onEvent((event) => {
    if (event.sessionId !== sessionId) return;
    if (event.method === "Runtime.exceptionThrown") {
      const details = event.params.exceptionDetails;
      complaints.push(details.exception ? details.exception.description : details.text);
    }
    if (event.method === "Runtime.consoleAPICalled" && ["error", "warning", "assert"].includes(event.params.type)) {
      complaints.push(event.params.args.map((a) => a.value || a.description).join(" "));
    }
    if (event.method === "Log.entryAdded" && ["error", "warning"].includes(event.params.entry.level)) complaints.push(event.params.entry.text);
    if (event.method === "Network.requestWillBeSent") asked.push(event.params.request.url);
  });
  for (const domain of ["Runtime", "Log", "Page", "Network"]) await send(`${domain}.enable`);
  await send("Emulation.setDeviceMetricsOverride", { ...size, deviceScaleFactor: 1, mobile: false });
  const evaluate = async (expression) => {
    const { result, exceptionDetails } = await send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception ? exceptionDetails.exception.description : exceptionDetails.text}`);
    return result.value;
  };
  /** Waits until an expression is true. */
  const until = async (expression, what) => {
    const deadline = Date.now() + 20000;
    while (Date.now() < deadline) {
      if (await evaluate(`Boolean(${expression})`).catch(() => false)) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${what || expression} did not come true; the page says: ${await evaluate("document.body.innerText.slice(0, 600)")}; complaints: ${complaints}`);
  };
  const key = async (name, code = name) => {
    for (const type of ["keyDown", "keyUp"]) {
      await send("Input.dispatchKeyEvent", { type, key: name, code, text: type === "keyDown" && name.length === 1 ? name : undefined });
    }
  };
  const shot = async (file) => {
    const { data } = await send("Page.captureScreenshot", { format: "png" });
    fs.writeFileSync(file, Buffer.from(data, "base64"));
  };
  return { send, evaluate, until, key, shot, complaints, asked };
};
