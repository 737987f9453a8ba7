"use strict";
// Lists that are cut into pages and filtered by their address.

/** Links to the parts of a list. */
DS.pager = (total, offset, limit, parts, parameters) => {
  const at = (start) => ({ ...parameters, offset: start });
  return DS.h("p", { class: "pager" },
    total ? `${offset + 1} to ${Math.min(total, offset + limit)} of ${total} ` : "none ",
    offset > 0 ? DS.a(parts, "← before", at(Math.max(0, offset - limit))) : null, " ",
    offset + limit < total ? DS.a(parts, "after →", at(offset + limit)) : null);
};

/** A form whose fields are the parameters of the address. `fields` are `[name, label, options or null]`. */
DS.filterForm = (parts, fields, parameters) => {
  const form = DS.h("form", { class: "bar filters" }, fields.map(([name, label, options]) => {
    const now = parameters.get(name) || "";
    const field = options
      ? DS.h("select", { name }, options.map(([value, text]) => DS.h("option", { value, selected: value === now }, text)))
      : DS.h("input", { name, value: now, size: 8 });
    return DS.h("label", {}, `${label} `, field);
  }), DS.h("button", { type: "submit" }, "Show"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = [...new FormData(form)].filter(([, value]) => value !== "");
    location.hash = DS.link(parts, chosen);
  });
  return form;
};

DS.treeColumns = (run) => [
  ["tree", (t) => DS.a(["run", run, "tree", String(t.tree_id)], String(t.tree_id)), true],
  ["step", (t) => t.step_id, true],
  ["problem", (t) => DS.a(["run", run, "problem", String(t.problem_id)], t.problem_name)],
  ["kind", (t) => t.kind],
  ["ended", (t) => t.status],
  ["solved", (t) => (t.is_solved ? "✓ yes" : "✗ no")],
  ["direct rollouts", (t) => DS.percent(t.direct_pass_rate), true],
  ["gain", (t) => DS.percent(t.gain_frac), true],
  ["paths", (t) => t.trajectory_count, true],
  ["nodes", (t) => t.node_count, true],
  ["expansions", (t) => t.expansion_count, true],
  ["tokens", (t) => t.generated_tokens, true],
  ["took", (t) => DS.duration(t.wall_ms), true],
];

DS.TREE_FILTERS = [
  ["step", "step", null],
  ["problem", "problem number", null],
  ["solved", "solved", [["", "all"], ["true", "solved"], ["false", "not solved"]]],
  ["verdict", "with a path that is", [["", "any"], ["correct", "correct"], ["incorrect", "incorrect"], ["no_answer", "without answer"],
    ["undecided", "undecided"], ["error", "not checked"]]],
  ["kind", "kind", [["", "all"], ["search", "search"], ["rollout", "rollouts"], ["replay", "replayed solution"]]],
  ["order", "first", [["", "newest"], ["gain", "largest gain over direct rollouts"], ["nodes", "largest"]]],
];

/** The trees of a run. */
DS.treesPage = (main, run, parameters) => {
  const parts = ["run", run, "trees"];
  const limit = 100, offset = Number(parameters.get("offset") || 0);
  const asked = new URLSearchParams(parameters);
  asked.set("limit", limit);
  const place = DS.h("div", { class: "loading" }, "…");
  // What is not in the file cannot be filtered by.
  const filters = DS.embedded ? DS.TREE_FILTERS.filter(([name]) => name !== "verdict") : DS.TREE_FILTERS;
  main.append(DS.h("h1", {}, "Trees"), DS.runTabs(run, "trees"), DS.filterForm(parts, filters, parameters), place);
  DS.watch(`/api/runs/${run}/trees?${asked}`, (page) => {
    const rest = Object.fromEntries([...parameters].filter(([name]) => name !== "offset"));
    DS.fill(place, DS.table("Trees", DS.treeColumns(run), page.trees), DS.pager(page.total, offset, limit, parts, rest),
      DS.h("p", { class: "hint" }, "Gain: the share of correct answers in a search, less that of direct rollouts of the same problem "
        + "when its round began."));
  });
};

DS.PROBLEM_FILTERS = [
  ["text", "in name or question", null],
  ["solved", "solved", [["", "or not"], ["only_by_search", "by search, never by a rollout of the filter"]]],
];

/** The problems of a run. */
DS.problemsPage = (main, run, parameters) => {
  const parts = ["run", run, "problems"];
  const limit = 100, offset = Number(parameters.get("offset") || 0);
  const asked = new URLSearchParams(parameters);
  asked.set("limit", limit);
  const place = DS.h("div", { class: "loading" }, "…");
  main.append(DS.h("h1", {}, "Problems"), DS.runTabs(run, "problems"),
    DS.filterForm(parts, DS.PROBLEM_FILTERS, parameters), place);
  DS.watch(`/api/runs/${run}/problems?${asked}`, (page) => {
    const rest = Object.fromEntries([...parameters].filter(([name]) => name !== "offset"));
    DS.fill(place, DS.table("Problems", [
      ["problem", (p) => DS.a(["run", run, "problem", String(p.problem_id)], p.name)],
      ["question", (p) => DS.h("span", { class: "cut" }, p.text)],
      ["answer", (p) => p.answer],
      ["direct rollouts", (p) => (p.rollout_count ? `${p.rollout_correct_count} of ${p.rollout_count}` : "–"), true],
      ["of the last round", (p) => DS.percent(p.direct_pass_rate), true],
      ["solved trees", (p) => `${p.solved_count} of ${p.tree_count}`, true],
      ["last step", (p) => (p.last_step_id === null ? "–" : p.last_step_id), true],
      ["solutions", (p) => p.solution_count, true],
    ], page.problems), DS.pager(page.total, offset, limit, parts, rest),
      DS.h("p", { class: "hint" }, "Direct rollouts are those with which each round looks for hard problems, of all rounds together: a later round's "
        + "policy has learned from the searches of earlier ones."));
  });
};

/** Wrong answers that the policy was sure of. */
DS.mistakesPage = (main, run, parameters) => {
  const parts = ["run", run, "mistakes"];
  const limit = 50, offset = Number(parameters.get("offset") || 0);
  const place = DS.h("div", { class: "loading" }, "…");
  main.append(DS.h("h1", {}, "Most confident mistakes"), DS.runTabs(run, "mistakes"), place);
  DS.watch(`/api/runs/${run}/mistakes?limit=${limit}&offset=${offset}`, ({ total, mistakes }) => {
    // The same words several times in one tree are one mistake; equal ones stand together, being equally probable.
    const places = new Map();
    for (const m of mistakes) {
      const key = JSON.stringify([m.tree_id, m.response, m.entropy_nats]);
      if (places.has(key)) places.get(key).count += 1; else places.set(key, { ...m, count: 1 });
    }
    DS.fill(place, [...places.values()].map((m) => DS.h("article", { class: "card" },
      DS.h("h2", {}, DS.a(["run", run, "tree", String(m.tree_id)], `Tree ${m.tree_id}`), `, step ${m.step_id}, `, m.problem_name,
        `: ${DS.number(m.entropy_nats)} nats per token over ${m.response_tokens} tokens`,
        m.count > 1 ? `, on ${m.count} paths` : null),
      DS.h("p", { class: "answer prompt" }, m.problem),
      DS.h("p", {}, "Reference: ", DS.h("span", { class: "answer" }, m.reference_answer), ". It said:"),
      DS.h("p", { class: "answer" }, m.response))),
    total ? DS.pager(total, offset, limit, parts, {}) : "No wrong answer yet.");
  });
};
