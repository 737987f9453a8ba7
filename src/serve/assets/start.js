"use strict";
// From address to page.

DS.open = () => {
  const { parts, parameters } = DS.address();
  const main = document.getElementById("main");
  DS.stopAll();
  DS.closeExplorers();
  main.replaceChildren();
  const [first, run, what, id] = parts;
  document.title = ["orchestrator", ...parts].join(" · ");
  document.getElementById("nav").replaceChildren(DS.h("ul", { class: "tabs" },
    DS.h("li", {}, DS.h("a", { href: "#/", "aria-current": parts.length === 0 ? "page" : null }, "Runs")),
    DS.h("li", {}, DS.h("a", { href: DS.link(["curves"]), "aria-current": first === "curves" ? "page" : null }, "Curves"))));
  if (parts.length === 0) DS.runsPage(main, parameters);
  else if (first === "curves") DS.curvesPage(main, parameters);
  else if (first === "run" && !what) DS.runPage(main, run);
  else if (first === "run" && what === "trees") DS.treesPage(main, run, parameters);
  else if (first === "run" && what === "tree" && id) DS.treePage(main, run, id, parameters);
  else if (first === "run" && what === "problems") DS.problemsPage(main, run, parameters);
  else if (first === "run" && what === "problem" && id) DS.problemPage(main, run, id);
  else if (first === "run" && what === "mistakes") DS.mistakesPage(main, run, parameters);
  else main.append(DS.h("h1", {}, "There is no such page"));
};

DS.start = () => {
  DS.readEmbedded();
  window.addEventListener("hashchange", () => { DS.open(); document.getElementById("main").focus(); });
  // What nobody looks at asks for nothing; when it is looked at again, it asks at once.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) DS.watches.forEach((watch) => watch.ask());
  });
  document.addEventListener("keydown", (event) => {
    const tag = event.target.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey || !DS.explorers.length) return;
    if (["INPUT", "SELECT", "TEXTAREA", "BUTTON", "A", "SUMMARY"].includes(tag)) return;
    let isOurs = false;
    for (const explorer of DS.explorers) isOurs = explorer.key(event.key) || isOurs;
    if (isOurs) event.preventDefault();
  });
  DS.open();
};

if (typeof document !== "undefined") {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", DS.start);
  else DS.start();
}
