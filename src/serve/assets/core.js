"use strict";
// What all pages need: elements from text, answers of the API, numbers for people, addresses.
// Text from a model or a problem reaches the page through text nodes only; nothing here parses HTML.

const DS = { version: 1 };

/** An element with attributes and children; a string becomes a text node. `on...` attributes are listeners. */
DS.make = (namespace, tag, attributes, children) => {
  const element = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
};
DS.h = (tag, attributes, ...children) => DS.make(null, tag, attributes, children);
DS.svg = (tag, attributes, ...children) => DS.make("http://www.w3.org/2000/svg", tag, attributes, children);

// Numbers and times for people.

DS.number = (value, digits = 3) => {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e12) return value.toExponential(2);
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  if (Number.isInteger(value)) return String(value);
  if (size < 1e-3) return value.toExponential(1);
  return value.toFixed(size >= 100 ? 1 : digits);
};
DS.percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);
DS.duration = (ms) => {
  if (ms === null || ms === undefined) return "–";
  const s = ms / 1000;
  if (s < 1) return `${Math.round(ms)} ms`;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
};
DS.time = (ms) => (ms ? `${new Date(ms).toISOString().slice(0, 19).replace("T", " ")} UTC` : "–");
/** A figure by its name: shares as percent, milliseconds as time, the rest as a number. */
DS.figure = (name, value) => {
  if (value === null || value === undefined) return "–";
  if (/(_frac|pass_rate|pass_at_\w+)$/.test(name)) return DS.percent(value);
  if (/_ms$/.test(name)) return DS.duration(value);
  return DS.number(value);
};

// Answers of the API; a page that is a file has them inside.

DS.embedded = null;
/** Answers by address with their tags, the one used last at the end. A large tree has a megabyte: what counts is their size. */
DS.answers = new Map();
DS.answersSize = 0;
DS.ANSWERS_MOST = 32e6;

DS.remember = (path, answer) => {
  const known = DS.answers.get(path);
  if (known) { DS.answersSize -= known.size; DS.answers.delete(path); }
  DS.answers.set(path, answer);
  DS.answersSize += answer.size;
  for (const [oldest, { size }] of DS.answers) {
    if (DS.answersSize <= DS.ANSWERS_MOST || oldest === path) break;
    DS.answers.delete(oldest);
    DS.answersSize -= size;
  }
};

DS.readEmbedded = () => {
  const element = document.getElementById("data");
  DS.embedded = element ? JSON.parse(element.textContent) : null;
};

/** `{value, isNew}`; throws an Error that a person can read. */
DS.get = async (path) => {
  if (DS.embedded) return { value: DS.fromFile(DS.embedded.answers, path), isNew: !DS.answers.has(path) };
  const known = DS.answers.get(path);
  const headers = known && known.tag ? { "If-None-Match": known.tag } : {};
  const response = await fetch(path, { headers, cache: "no-store" });
  if (response.status === 304 && known) {
    DS.remember(path, known);
    return { value: known.value, isNew: false };
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.error || `the server answers ${response.status}`);
  }
  const text = await response.text();
  const value = JSON.parse(text);
  DS.remember(path, { tag: response.headers.get("ETag"), value, size: text.length });
  return { value, isNew: true };
};

/** What the API would answer, from the answers in a file. Lists are filtered here as the server would. */
DS.fromFile = (answers, path) => {
  const [address, query] = path.split("?");
  const parameters = new URLSearchParams(query || "");
  const node = /^(.*\/trees\/\d+)\/nodes\/(\d+)$/.exec(address);
  if (node && answers[node[1]]) return { path: DS.pathTexts(answers[node[1]], Number(node[2])) };
  const found = answers[address];
  if (!found) throw new Error("this is not in the file: ask for it where the run is (orchestrator serve)");
  const start = Number(parameters.get("offset") || 0);
  const end = start + Number(parameters.get("limit") || 100);
  if (/\/trees$/.test(address)) {
    const trees = DS.filterTrees(found.trees, parameters);
    return { total: trees.length, trees: trees.slice(start, end) };
  }
  if (/\/problems$/.test(address)) {
    const text = (parameters.get("text") || "").toLowerCase();
    const isOnlyBySearch = (p) => p.search_solved_count > 0 && p.rollout_count > 0 && p.rollout_correct_count === 0;
    const isWanted = parameters.get("solved") === "only_by_search" ? isOnlyBySearch : () => true;
    const problems = found.problems.filter((p) => isWanted(p) && `${p.name} ${p.text}`.toLowerCase().includes(text));
    return { total: problems.length, problems: problems.slice(start, end) };
  }
  if (/\/mistakes$/.test(address)) return { total: found.mistakes.length, mistakes: found.mistakes.slice(start, end) };
  return found;
};

DS.filterTrees = (trees, parameters) => {
  const is = (name, value) => !parameters.get(name) || parameters.get(name) === String(value);
  const kept = trees.filter((tree) =>
    is("step", tree.step_id) && is("problem", tree.problem_id) && is("kind", tree.kind) && is("solved", tree.is_solved));
  const order = parameters.get("order");
  if (order === "nodes") kept.sort((a, b) => b.node_count - a.node_count);
  else if (order !== "gain") kept.sort((a, b) => b.step_id - a.step_id || b.slot - a.slot);
  return kept;
};

DS.pathTexts = (tree, node) => {
  const texts = new Map(tree.texts.map((text) => [text.node_id, text]));
  const path = [];
  for (let at = node; at !== null && at !== undefined; at = tree.nodes.parent[at]) {
    path.unshift(texts.get(at) || { node_id: at, text: null, pieces: null, logprobs: null });
  }
  return path;
};

// A page asks again every two seconds as long as it is seen; an answer that has not changed costs a line.

DS.period_ms = 2000;
DS.watches = new Set();

/** Calls `draw(value)` now and after every change, until the page is left. */
DS.watch = (path, draw) => {
  const watch = { stopped: false, timer: 0, isFirst: true };
  const ask = async () => {
    if (watch.stopped || document.hidden) return;
    clearTimeout(watch.timer);
    try {
      const { value, isNew } = await DS.get(path);
      if (watch.stopped) return;
      DS.trouble(path, "");
      if (isNew || watch.isFirst) {
        watch.isFirst = false;
        draw(value);
      }
      DS.live(value);
    } catch (error) {
      if (watch.stopped) return;
      DS.trouble(path, error.message || String(error));
    }
    if (!watch.stopped && !DS.embedded) watch.timer = setTimeout(ask, DS.period_ms);
  };
  watch.ask = ask;
  DS.watches.add(watch);
  ask();
  return () => DS.stop(watch);
};
DS.stop = (watch) => {
  watch.stopped = true;
  clearTimeout(watch.timer);
  DS.watches.delete(watch);
};
DS.stopAll = () => { [...DS.watches].forEach(DS.stop); DS.troubles.clear(); DS.trouble("", ""); };

DS.troubles = new Map();

/** Says what is wrong with an address, until it is asked again with success. */
DS.trouble = (path, text) => {
  if (text) DS.troubles.set(path, text); else DS.troubles.delete(path);
  const place = document.getElementById("trouble");
  const said = [...new Set(DS.troubles.values())].join("; ");
  if (place.textContent !== said) place.textContent = said;
  place.hidden = !said;
};

/** What tells a link, field or region from the others on its page. */
DS.nameOf = (element) => [element.tagName, ...["href", "name", "value", "aria-label"].map((name) => element.getAttribute(name) || ""),
  element.tagName === "SUMMARY" ? element.textContent : ""].join("|");

/** New content in place of the old: the reader stays where they were, with what they had opened, scrolled and reached. */
DS.fill = (place, ...children) => {
  const all = (selector) => [...place.querySelectorAll(selector)];
  const scrolled = new Map(all(".scroll").map((region) => [DS.nameOf(region), region.scrollLeft]));
  const opened = new Set(all("details[open] > summary").map(DS.nameOf));
  const focused = place.contains(document.activeElement) ? DS.nameOf(document.activeElement) : null;
  place.className = "";
  place.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  for (const region of all(".scroll")) region.scrollLeft = scrolled.get(DS.nameOf(region)) || 0;
  for (const summary of all("details > summary")) if (opened.has(DS.nameOf(summary))) summary.parentElement.open = true;
  const again = focused && all("a, button, input, summary, [tabindex]").find((element) => DS.nameOf(element) === focused);
  if (again) again.focus({ preventScroll: true });
};
DS.live = () => {
  const place = document.getElementById("live");
  const note = DS.embedded && DS.embedded.note;
  place.textContent = note
    ? `A copy in one file: ${note.trees} of ${note.trees_total} trees, those first in which search helped most`
    : `Live, ${new Date().toLocaleTimeString()}`;
};

// Addresses: #/run/0-1/tree/5?compare=9

/** A part of an address; a percent sign that escapes nothing is one. */
DS.decoded = (part) => {
  try { return decodeURIComponent(part); } catch { return part; }
};
DS.address = () => {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(DS.decoded), parameters: new URLSearchParams(query || "") };
};
DS.link = (parts, parameters) => {
  const query = new URLSearchParams(parameters || {}).toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${query ? `?${query}` : ""}`;
};
DS.a = (parts, text, parameters) => DS.h("a", { href: DS.link(parts, parameters) }, text);

/** A table: `columns` are `[heading, row => cell, isNumber]`. */
DS.table = (caption, columns, rows, attributes) =>
  DS.h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    DS.h("table", attributes,
      DS.h("caption", {}, caption),
      DS.h("thead", {}, DS.h("tr", {}, columns.map(([name, , isNumber]) =>
        DS.h("th", { scope: "col", class: isNumber ? "number" : null }, name)))),
      DS.h("tbody", {}, rows.map((row) =>
        DS.h("tr", {}, columns.map(([, cell, isNumber]) => DS.h("td", { class: isNumber ? "number" : null }, cell(row))))))));
