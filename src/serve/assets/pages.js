"use strict";
// The pages: runs, curves, one run, one tree, one problem.

DS.runTabs = (run, now) => {
  const tab = (name, parts, text) => DS.h("li", {}, DS.h("a", { href: DS.link(parts), "aria-current": name === now ? "page" : null }, text));
  return DS.h("nav", { "aria-label": "This run" }, DS.h("ul", { class: "tabs" },
    tab("run", ["run", run], "Overview"), tab("trees", ["run", run, "trees"], "Trees"),
    tab("problems", ["run", run, "problems"], "Problems"), tab("mistakes", ["run", run, "mistakes"], "Mistakes"),
    DS.h("li", {}, DS.a(["curves"], "Curves", { runs: run }))));
};

DS.stateOf = (run) => {
  if (run.status === "failed") return `failed: ${run.error || ""}`;
  if (run.status !== "running" || !run.silent_minutes) return run.status;
  return `running, or killed: nothing written for ${DS.duration(run.silent_minutes * 60000)}`;
};

DS.runsPage = (main, parameters) => {
  const place = DS.h("div", { class: "loading" }, "…");
  main.append(DS.h("h1", {}, "Runs"), place);
  DS.watch("/api/runs", ({ runs, refused }) => {
    const spent = (run, name) => (run.spent ? run.spent[name] : null);
    const chosen = new Set((parameters.get("runs") || "").split(",").filter(Boolean));
    place.querySelectorAll("input:checked").forEach((box) => chosen.add(box.value));
    const form = DS.h("form", {},
      DS.table("Runs, newest first", [
        ["compare", (run) => DS.h("input", { type: "checkbox", name: "run", value: run.key, checked: chosen.has(run.key),
          "aria-label": `Compare ${run.label} ${run.run_id}` })],
        ["run", (run) => DS.a(["run", run.key], `${run.label} / ${run.run_id}`)],
        ["name", (run) => run.name], ["algorithm", (run) => run.algorithm], ["status", DS.stateOf],
        ["steps", (run) => `${spent(run, "steps_done") ?? 0} of ${run.planned_steps ?? "?"}`, true],
        ["reward", (run) => DS.number(run.last_step && run.last_step.mean_reward), true],
        ["solved", (run) => DS.percent(run.last_step && run.last_step.solved_frac), true],
        ["held out, first", (run) => DS.percent(spent(run, "first_pass_at_1")), true],
        ["held out, last", (run) => DS.percent(spent(run, "last_pass_at_1")), true],
        ["generated tokens", (run) => DS.number(spent(run, "generated_tokens")), true],
        ["begun", (run) => DS.time(run.created_at_ms)], ["settings", (run) => DS.h("code", {}, run.config_sha256.slice(0, 8))],
      ], runs),
      runs.length ? DS.h("p", {}, DS.h("button", { type: "submit" }, "Draw the curves of the chosen runs")) : "No run yet.");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const keys = [...new FormData(form).getAll("run")];
      location.hash = DS.link(["curves"], { runs: (keys.length ? keys : runs.slice(0, 4).map((run) => run.key)).join(",") });
    });
    DS.fill(place, form, refused.map((r) => DS.h("p", { class: "warning" }, `${r.path}: ${r.error}`)));
  });
};

DS.AXES = { step: "step", generated_tokens: "generated tokens", seconds: "seconds" };
DS.CURVES = [
  ["mean_reward", "Mean reward"], ["solved_frac", "Problems solved by search"], ["terminal_pass_frac", "Correct among all answers"],
  ["held_out_pass_at_1", "Held out: pass@1"], ["held_out_pass_at_k", "Held out: solved in any sample"],
  ["round_pass_rate", "Pass rate of direct rollouts, by round"], ["entropy_nats", "Entropy, nats per token"],
  ["response_tokens_mean", "Response length, tokens"], ["ratio_mean", "Ratio trainer / engine, mean"],
  ["ratio_outside_frac", "Ratio outside 0.9 to 1.1"], ["loss", "Loss"], ["grad_norm", "Gradient norm"], ["clip_frac", "Clipped tokens"],
  ["generated_tokens_per_s", "Generated tokens per second of search"], ["search_ms", "Time of search"], ["train_ms", "Time of the update"],
  ["peak_memory_bytes", "Peak memory, bytes"], ["engine_cache_peak_bytes", "Peak of the engine's cache, bytes"],
  ["tokens_saved", "Tokens saved by cached solutions"],
];

DS.curvesPage = (main, parameters) => {
  const x = parameters.get("x") in DS.AXES ? parameters.get("x") : "step";
  const keys = (parameters.get("runs") || "").split(",").filter(Boolean);
  const link = (more) => ({ runs: keys.join(","), x, ...more });
  const legend = DS.h("ul", { class: "legend", "aria-label": "Runs" });
  const grid = DS.h("div", { class: "grid loading" }, "…");
  const more = DS.h("p", {});
  main.append(DS.h("h1", {}, "Curves"),
    DS.h("p", { class: "bar" }, "against ", Object.entries(DS.AXES).map(([name, text]) =>
      DS.h("a", { class: "choice", href: DS.link(["curves"], link({ x: name })), "aria-current": name === x ? "true" : null }, text)),
    DS.h("span", { class: "spacer" }), DS.a([], "choose runs", { runs: keys.join(",") })),
    legend, grid, more);
  const answers = new Map(), names = new Map();
  const wanted = new Set((parameters.get("more") || "").split(",").filter(Boolean));
  const draw = () => {
    const opened = new Set([...grid.querySelectorAll("figure")].filter((f) => f.querySelector("details[open]")).map((f) => f.dataset.name));
    const focused = document.activeElement && document.activeElement.closest("figure");
    const focusedName = focused && focused.dataset.name;
    const ready = keys.filter((key) => answers.has(key));
    const known = new Set(ready.flatMap((key) => ["steps", "held_out", "rounds"].flatMap((g) => Object.keys(answers.get(key)[g].series))));
    const listed = [...DS.CURVES.filter(([name]) => known.has(name)),
      ...[...wanted].filter((name) => known.has(name)).map((name) => [name, name])];
    const figures = listed.map(([name, title]) => DS.chart({ title, name, xName: DS.AXES[x], lines: ready.map((key) => {
      const groups = answers.get(key);
      const group = ["steps", "held_out", "rounds"].map((g) => groups[g]).find((g) => g.series[name]);
      return { label: names.get(key) || key, index: keys.indexOf(key), xs: group ? group[x] : [], ys: group ? group.series[name] : [] };
    }) })).filter(Boolean);
    grid.className = "grid";
    grid.replaceChildren(...(figures.length ? figures : [DS.h("p", {}, "Nothing measured yet.")]));
    for (const figure of figures) {
      if (opened.has(figure.dataset.name)) figure.querySelector("details").open = true;
      if (figure.dataset.name === focusedName) figure.querySelector("svg").focus();
    }
    legend.replaceChildren(...keys.map((key, i) => DS.h("li", {}, DS.sample(i), " ", DS.a(["run", key], names.get(key) || key))));
    const others = [...known].filter((name) => !DS.CURVES.some(([c]) => c === name)).sort();
    more.replaceChildren("More figures: ", ...others.flatMap((name) => {
      const next = new Set(wanted);
      if (next.has(name)) next.delete(name); else next.add(name);
      return [DS.h("a", { href: DS.link(["curves"], link({ more: [...next].join(",") })), "aria-current": wanted.has(name) ? "true" : null }, name), " "];
    }));
  };
  DS.watch("/api/runs", ({ runs }) => {
    runs.forEach((run) => names.set(run.key, `${run.label} / ${run.run_id} ${run.algorithm}`));
    if (!keys.length && runs.length) { location.replace(DS.link(["curves"], link({ runs: runs.slice(0, 4).map((r) => r.key).join(",") }))); return; }
    draw();
  });
  for (const key of keys) DS.watch(`/api/runs/${key}/curves`, (answer) => { answers.set(key, answer); draw(); });
};

/** Parts of the time of a run; those in brackets are parts of the one before them. */
DS.TIMES = [
  ["all", "wall_s"], ["search", "search_s"], ["(generating)", "generating_s"], ["update", "train_s"], ["(old logprobs)", "old_logprobs_s"],
  ["(gradients)", "gradient_s"], ["(optimizer)", "optimizer_s"], ["writing weights", "export_s"], ["loading them", "reload_s"],
  ["comparing logprobs", "canary_s"], ["other", "other_s"],
];

DS.timeTable = (time) => {
  const known = DS.TIMES.filter(([, name]) => time && Number.isFinite(time[name]));
  if (!known.length) return null;
  return DS.table("Where the time went, all steps together", known.map(([text, name]) => [text, (cell) => cell(time[name]), true]),
    [(s) => DS.duration(s * 1000), (s) => (time.wall_s ? DS.percent(s / time.wall_s) : "–")]);
};

DS.runPage = (main, run) => {
  const place = DS.h("div", { class: "loading" }, "…");
  main.append(DS.h("h1", {}, "Run"), DS.runTabs(run, "run"), place);
  DS.watch(`/api/runs/${run}`, (answer) => {
    const it = answer.run;
    const fact = (name, value) => [DS.h("dt", {}, name), DS.h("dd", {}, value)];
    DS.fill(place,
      DS.h("dl", { class: "facts" },
        fact("name", `${it.label} / ${it.run_id} ${it.name}`), fact("status", DS.stateOf(it)), fact("algorithm", it.algorithm),
        fact("model", it.model), fact("steps", `${it.spent ? it.spent.steps_done : 0} of ${it.planned_steps ?? "?"}`),
        fact("held out, first and last", `${DS.percent(it.spent && it.spent.first_pass_at_1)}, ${DS.percent(it.spent && it.spent.last_pass_at_1)}`),
        fact("generated tokens", DS.number(it.spent && it.spent.generated_tokens)),
        fact("generated per token on a path", DS.number(answer.tokens && answer.tokens.search_overhead)),
        fact("saved by cached solutions", `${DS.number(Math.round(answer.replays.saved_tokens))} tokens in ${answer.replays.replay_count} trees`),
        fact("seed", String(it.seed)), fact("begun", DS.time(it.created_at_ms)), fact("ended", DS.time(it.ended_at_ms)),
        fact("program", `${it.program_version} ${(it.git_commit || "").slice(0, 10)}`),
        fact("settings", DS.h("code", {}, it.config_sha256.slice(0, 16)))),
      DS.timeTable(answer.time),
      DS.table("Steps, newest first", [
        ["step", (s) => DS.a(["run", run, "trees"], String(s.step_id), { step: s.step_id }), true], ["status", (s) => s.status],
        ["trees", (s) => `${s.tree_count} of ${s.problem_count}`, true], ["solved", (s) => DS.percent(s.solved_frac), true],
        ["reward", (s) => DS.number(s.mean_reward), true], ["loss", (s) => DS.number(s.loss), true],
        ["gradient", (s) => DS.number(s.grad_norm), true], ["nats", (s) => DS.number(s.entropy_nats), true],
        ["ratio", (s) => DS.number(s.ratio_mean, 4), true], ["outside", (s) => DS.percent(s.ratio_outside_frac), true],
        ["tokens/s", (s) => DS.number(s.generated_tokens_per_s, 0), true], ["search", (s) => DS.duration(s.search_ms), true],
        ["update", (s) => DS.duration(s.train_ms), true], ["reload", (s) => DS.duration(s.reload_ms), true],
        ["weights", (s) => (s.produced_weight_version === null ? "–" : `v${s.produced_weight_version}`), true],
        ["skipped", (s) => s.update_skip_reason || ""],
      ], [...answer.steps].reverse()),
      DS.h("p", { class: "hint" }, "Gradient: its norm before it is clipped, the larger the more a step changes the policy. Ratio: probability ",
        "of a sampled token by the trainer over that by the engine, 1 where they agree; outside: the share of tokens for which it is not ",
        "between 0.9 and 1.1. Nats: entropy per token."),
      answer.steps_left_out ? DS.h("p", {}, `${answer.steps_left_out} older steps are not listed.`) : null,
      DS.table("Rounds", [
        ["round", (r) => r.round_id, true], ["status", (r) => r.status], ["problems", (r) => r.candidate_count, true],
        ["pass rate", (r) => DS.percent(r.pass_rate_mean), true], ["easy", (r) => r.easy_count, true], ["hard", (r) => r.hard_count, true],
        ["cached", (r) => r.cached_count, true], ["searched", (r) => r.searched_count, true], ["skipped", (r) => r.skipped_count, true],
        ["solved", (r) => r.solved_count, true], ["filter tokens", (r) => DS.number(r.generated_tokens), true],
      ], answer.rounds),
      DS.table("Weights, newest first", [
        ["version", (w) => `v${w.weight_version}`, true], ["by step", (w) => (w.step_id === null ? "–" : w.step_id), true],
        ["confirmed by the server", (w) => (w.is_confirmed ? "✓ yes" : "✗ no")], ["reload", (w) => DS.duration(w.reload_ms), true],
        ["canary, mean nats", (w) => DS.number(w.canary_mean_abs_nats), true], ["digest", (w) => DS.h("code", {}, w.digest.slice(0, 16))],
        ["folder", (w) => w.path],
      ], [...answer.weights].reverse()),
      DS.h("details", {}, DS.h("summary", {}, "settings"), DS.h("pre", {}, answer.config_toml)));
  });
};

DS.explorers = [];
DS.closeExplorers = () => { DS.explorers.forEach((explorer) => explorer.close()); DS.explorers = []; };

DS.treeHeading = (run, data) => {
  const t = data.tree;
  return DS.h("header", { class: "card" },
    DS.h("h2", {}, `Tree ${t.tree_id}, step ${t.step_id}: ${t.status}, ${t.is_solved ? "✓ solved" : "✗ not solved"}`),
    DS.h("p", { class: "answer prompt" }, data.problem.text),
    DS.h("p", {}, DS.a(["run", run, "problem", String(t.problem_id)], data.problem.name), ". Reference: ",
      DS.h("span", { class: "answer" }, data.problem.answer), `. ${t.node_count} nodes, ${t.expansion_count} expansions, `
      + `${t.trajectory_count} paths, ${t.generated_tokens} tokens (${t.trajectory_tokens} on paths), ${DS.duration(t.wall_ms)}, `
      + `rules ${t.rules}, lambda ${t.uct_lambda}.`),
    t.error ? DS.h("p", { class: "warning answer" }, t.error) : null);
};

DS.treePage = async (main, run, id, parameters) => {
  const other = parameters.get("compare");
  const place = DS.h("div", { class: other ? "pair" : "single" });
  const choice = DS.h("div", { class: "bar" });
  main.append(DS.h("h1", {}, other ? `Trees ${id} and ${other}` : `Tree ${id}`), DS.runTabs(run, "tree"), choice, DS.treeLegend(),
    DS.h("p", { class: "hint" }, "Keys: ← → one expansion back or on, Home End, space replays. On the drawing: arrows go from node to node, ",
      "+ − 0 zoom, p the next path, Enter reads again."), place);
  const page = {};
  DS.treePage.now = page;
  for (const tree of other ? [id, other] : [id]) {
    const base = `/api/runs/${run}/trees/${tree}`;
    try {
      const { value } = await DS.get(base);
      if (DS.treePage.now !== page || !place.isConnected) return;
      if (tree === id && value.siblings.length) {
        choice.replaceChildren(DS.filterForm(["run", run, "tree", id], [["compare", "beside it", [["", "nothing"],
          ...value.siblings.map((s) => [String(s.tree_id), `tree ${s.tree_id}, step ${s.step_id}, ${s.kind}, ${s.is_solved ? "solved" : "not solved"}`])]]], parameters));
      }
      const explorer = new DS.Explorer(value, base, `Tree ${tree}`);
      DS.explorers.push(explorer);
      place.append(DS.h("div", {}, DS.treeHeading(run, value), explorer.panel));
      if (tree === id) DS.live(value);
    } catch (error) {
      DS.trouble(base, error.message);
    }
  }
};

DS.problemPage = (main, run, id) => {
  const place = DS.h("div", { class: "loading" }, "…");
  main.append(DS.h("h1", {}, "Problem"), DS.runTabs(run, "problem"), place);
  DS.watch(`/api/runs/${run}/problems/${id}`, (answer) => {
    const p = answer.problem;
    DS.fill(place,
      DS.h("article", { class: "card" }, DS.h("h2", {}, p.name), DS.h("p", { class: "answer prompt" }, p.text),
        DS.h("p", {}, "Reference: ", DS.h("span", { class: "answer" }, p.answer), `. ${[p.level, p.topic, p.source].filter(Boolean).join(", ")}`)),
      DS.table("Rounds", [
        ["round", (r) => r.round_id, true], ["direct rollouts", (r) => (r.sample_count === null ? "–" : `${r.correct_count} of ${r.sample_count} correct`), true],
        ["trained on", (r) => (r.is_hard === null ? "–" : r.is_hard ? "yes" : "no")], ["because", (r) => r.reason || "–"],
        ["kept solution then", (r) => (r.has_solution === null ? "–" : r.has_solution ? "yes" : "no")],
      ], answer.rounds),
      answer.evaluations.length ? DS.table("Measured as held out", [["after step", (e) => e.step_id, true],
        ["correct", (e) => `${e.correct_count} of ${e.sample_count}`, true]], answer.evaluations) : null,
      DS.table("Trees, newest first", DS.treeColumns(run), answer.trees.trees),
      DS.h("h2", {}, `${answer.solution_total} kept solutions`),
      answer.solutions.map((s) => DS.h("article", { class: "card" },
        DS.h("p", {}, `${s.provenance}, ${s.token_count} tokens, answer `, DS.h("span", { class: "answer" }, s.answer),
          s.weight_version === null ? "" : `, weights v${s.weight_version}`,
          s.tree_id === null ? "" : [", ", DS.a(["run", run, "tree", String(s.tree_id)], `tree ${s.tree_id}`)]),
        DS.h("p", { class: "answer" }, s.text))));
  });
};
