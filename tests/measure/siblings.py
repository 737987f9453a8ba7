#!/usr/bin/env python3
"""What siblings cost: searches the same problems with every strategy, without training (`make small-model` first).

    tests/measure/siblings.py                        all strategies, seeds 1 2 3, then the tables; 10 minutes on two cores
    tests/measure/siblings.py --table-only           the tables of what is there

Nothing is trained: the learning rate is 0, and the weights after the last step are compared with the first. Every strategy
gets the same problems, in the same order, with the same seeds. Two suites: `trajectories`, where a tree ends with its eight
trajectories, and `budget`, where it may spend so many tokens and has no other end. The last line is JSON.
"""

import argparse
import concurrent.futures
import json
import pathlib
import random
import shutil
import sqlite3
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

LAZY = ["search.siblings=lazy"]
ONE = [*LAZY, "search.refill_width=1"]
ROLLOUTS = "direct rollouts"
WIDTHS = "search.entropy_width={{min_width={}, low_nats={}, high_nats={}}}"


def strategies(low, high):
    """Name: settings beside those of the configuration."""
    narrow = [WIDTHS.format(1, low, high)]
    return {
        "released": ["search.rules=released"],
        "eager": [],
        "lazy": LAZY,
        "lazy, one at a time": ONE,
        "lazy, two first": [*LAZY, "search.first_width=2"],
        "adaptive": narrow,
        "adaptive, lazy": [*narrow, *LAZY],
        "adaptive, lazy, one at a time": [*narrow, *ONE],
        "stop garbled": ["search.stop_garbled=true"],
        "width 2": ["search.width=2"],
        "released, lazy": ["search.rules=released", *LAZY],
        "released, lazy, one at a time": ["search.rules=released", *ONE],
        # No tree at all: whole answers, as many as a tree has trajectories.
        ROLLOUTS: ["run.algorithm=grpo"],
    }


def folder(out, suite, name, seed):
    return out / suite / f"{name.replace(', ', '.').replace(' ', '-')}.{seed}"


def search(arguments, suite, name, seed):
    """One run; its summary, or what went wrong."""
    place = folder(arguments.out, suite, name, seed)
    if (place / "done").exists():
        return f"{suite}/{place.name}: done before"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    problems = place / "problems.jsonl"
    lines = arguments.problems.read_text().splitlines(keepends=True)
    if len(lines) < arguments.count:
        return f"{suite}/{place.name}: failed, {arguments.problems} has {len(lines)} problems"
    problems.write_text("".join(lines[: arguments.count]))
    per_step = min(arguments.count, 64)
    sets = [
        f"run.name={place.name}",
        f"run.dir={place}",
        f"run.model={arguments.model}",
        f"run.seed={seed}",
        f"run.steps={arguments.count // per_step}",
        f"run.problems_per_step={per_step}",
        "run.checkpoint_every=0",
        f"data.problems={problems}",
        'eval.problems=""',
        "curriculum.rounds=1",
        "curriculum.filter=false",
        "replay.enabled=false",
        "train.learning_rate=0",
        "train.weight_decay=0",
        f"train.minibatch_problems={per_step}",
        "train.threads=1",
        *arguments.set,
        *strategies(*arguments.nats)[name],
    ]
    if suite == "budget":
        sets += [f"search.max_generated_tokens={arguments.budget}", "search.trajectories=100000"]
    command = [arguments.binary, "run", "--config", arguments.config]
    with open(place / "log", "w") as log:
        code = subprocess.run([*command, *(f"--set={one}" for one in sets)], stdout=log, stderr=log).returncode
    if code != 0:
        return f"{suite}/{place.name}: failed with {code}, see {place}/log"
    (place / "done").touch()
    return f"{suite}/{place.name}: done"


def read(place):
    """Per problem what its tree cost and brought, and the seconds of search."""
    with sqlite3.connect(f"file:{place}/orchestrator.sqlite?mode=ro", uri=True) as base:
        base.row_factory = sqlite3.Row
        (digests,) = base.execute("select count(distinct digest) from weight_version where run_id = 1").fetchone()
        if digests != 1:
            sys.exit(f"{place}: the weights changed")
        trees = base.execute(
            """
            select p.name as problem, t.generated_tokens as generated, t.trajectory_tokens as trained,
                   t.is_solved as solved, t.expansion_count as expansions, t.status = 'failed' as failed,
                   (select count(*) from trajectory j where j.tree_id = t.tree_id) as trajectories,
                   (select count(*) from trajectory j where j.tree_id = t.tree_id and j.verdict = 'correct') as correct,
                   (select sum(j.reward) from trajectory j where j.tree_id = t.tree_id) as reward,
                   (select sum(j.entropy_nats) from trajectory j where j.tree_id = t.tree_id) as entropy,
                   (select count(*) from node n where n.tree_id = t.tree_id and n.verdict is not null) as answers,
                   (select count(*) from trajectory_node m where m.tree_id = t.tree_id) as depth
            from tree t join problem p on p.problem_id = t.problem_id
            where t.run_id = 1
            """
        ).fetchall()
        (seconds,) = base.execute("select sum(search_ms) / 1000.0 from step where run_id = 1").fetchone()
        (defects,) = base.execute("select count(*) from trajectory where defect is not null").fetchone()
    rows = [{key: row[key] or 0 for key in row.keys()} for row in trees]
    return {"rows": rows, "seconds": seconds or 0.0, "defects": defects}


def by_problem(runs):
    """The rows of all seeds, by problem: what is drawn again for the intervals is problems."""
    problems = {}
    for run in runs:
        for row in run["rows"]:
            problems.setdefault(row["problem"], []).append(row)
    return problems


def ratio(problems, names, top, bottom):
    over = lambda key: sum(row[key] for name in names for row in problems[name])
    return over(top) / max(over(bottom), 1)


def intervals(problems, base, names, draws=500):
    """95 % intervals of tokens per solved problem, and of its quotient with the strategy `base` on the same problems."""
    chance, own, quotients = random.Random(1), [], []
    for _ in range(draws):
        drawn = chance.choices(names, k=len(names))
        value = ratio(problems, drawn, "generated", "solved")
        own.append(value)
        quotients.append(ratio(base, drawn, "generated", "solved") / value)
    at = lambda values, share: sorted(values)[round(share * (draws - 1))]
    return [(at(values, 0.025), at(values, 0.975)) for values in (own, quotients)]


def line(cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def table(arguments, suite):
    found = {}
    for name in strategies(*arguments.nats):
        places = [folder(arguments.out, suite, name, seed) for seed in arguments.seeds]
        if all((place / "done").exists() for place in places):
            found[name] = [read(place) for place in places]
    if "released" not in found:
        return {}
    base = by_problem(found["released"])
    names = sorted(base)
    print(f"\n{suite}: {len(names)} problems, {len(arguments.seeds)} seeds; 95 % intervals over problems\n")
    heads = ["strategy", "tokens per solved problem", "times fewer than released", "solve rate %", "tokens per tree"]
    heads += ["per trajectory", "per trained token", "correct trajectories %", "answers", "expansions", "depth"]
    heads += ["entropy, nats", "reward", "search s"]
    line(heads)
    line(["---"] + ["---:"] * (len(heads) - 1))
    result = {}
    for name, runs in found.items():
        problems = by_problem(runs)
        if sorted(problems) != names:
            sys.exit(f"{suite}, {name}: other problems than those of `released`")
        own, quotient = intervals(problems, base, names)
        trees = sum(len(rows) for rows in problems.values())
        total = lambda key: sum(row[key] for rows in problems.values() for row in rows)
        cost = ratio(problems, names, "generated", "solved")
        gain = ratio(base, names, "generated", "solved") / cost
        harvested = max(total("trajectories"), 1)
        facts = {
            "tokens_per_solved": cost,
            "tokens_per_solved_interval": own,
            "times_fewer": gain,
            "times_fewer_interval": quotient,
            "solve_rate": total("solved") / trees,
            "tokens_per_tree": total("generated") / trees,
            "tokens_per_trajectory": total("generated") / harvested,
            "tokens_per_trained_token": total("generated") / max(total("trained"), 1),
            "correct_trajectories": total("correct") / harvested,
            "answers_per_tree": total("answers") / trees,
            "expansions_per_tree": total("expansions") / trees,
            "depth": total("depth") / harvested,
            "entropy_nats": total("entropy") / harvested,
            "reward": total("reward") / harvested,
            "search_s": sum(run["seconds"] for run in runs) / len(runs),
            "failed_trees": total("failed"),
            "defective_trajectories": sum(run["defects"] for run in runs),
        }
        result[name] = facts
        cells = [name, f"{cost:.0f} ({own[0]:.0f} to {own[1]:.0f})", f"{gain:.2f} ({quotient[0]:.2f} to {quotient[1]:.2f})"]
        cells += [f"{100 * facts['solve_rate']:.1f}", f"{facts['tokens_per_tree']:.0f}"]
        cells += [f"{facts['tokens_per_trajectory']:.1f}", f"{facts['tokens_per_trained_token']:.2f}"]
        cells += [f"{100 * facts['correct_trajectories']:.1f}", f"{facts['answers_per_tree']:.1f}"]
        cells += [f"{facts['expansions_per_tree']:.1f}", f"{facts['depth']:.2f}", f"{facts['entropy_nats']:.3f}"]
        cells += [f"{facts['reward']:.2f}", f"{facts['search_s']:.1f}"]
        line(cells)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--suites", nargs="+", choices=["trajectories", "budget"], default=["trajectories", "budget"])
    parser.add_argument("--strategies", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--count", type=int, default=256, help="problems, a multiple of 64 or below")
    parser.add_argument("--budget", type=int, default=512, help="tokens of a tree in the suite `budget`")
    parser.add_argument("--nats", type=float, nargs=2, default=[0.05, 0.3], metavar=("LOW", "HIGH"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/orchestrator")
    parser.add_argument("--config", type=pathlib.Path, default=ROOT / "configs/small.toml")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/small")
    parser.add_argument("--problems", type=pathlib.Path, default=ROOT / "runs/small/problems.jsonl")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/siblings", help="folder of the runs")
    parser.add_argument("--table-only", action="store_true")
    arguments = parser.parse_args()
    failed = False
    names = arguments.strategies or list(strategies(*arguments.nats))
    if not arguments.table_only:
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            # Seed by seed, so that every strategy has as many when it is interrupted.
            plan = [(suite, name, seed) for suite in arguments.suites for seed in arguments.seeds for name in names]
            # Rollouts have no budget of tokens.
            plan = [one for one in plan if one[:2] != ("budget", ROLLOUTS)]
            waiting = [pool.submit(search, arguments, *one) for one in plan]
            for one in concurrent.futures.as_completed(waiting):
                print(one.result(), file=sys.stderr, flush=True)
                failed |= "failed" in one.result()
    print(json.dumps({suite: table(arguments, suite) for suite in arguments.suites}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
