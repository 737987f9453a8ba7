#!/usr/bin/env python3
"""Compares the forms of the advantage, and the algorithms, on the small model (`make small-model` first).

    tests/measure/advantage_forms.py run --seeds 1 2 3 [--variants signed grpo] [--jobs 2]
    tests/measure/advantage_forms.py table

`run` trains every variant with every seed, each in a folder of its own, and leaves alone what is done. `table` reads the
databases and prints the tables of docs/measurements/2026-11-23-advantage-forms.md.
"""

import argparse
import concurrent.futures
import pathlib
import shutil
import sqlite3
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Only the form differs: all problems, no kept solutions.
PLAIN = ["curriculum.filter=false", "replay.enabled=false"]
VARIANTS = {
    "signed": [*PLAIN, "train.advantage=signed"],
    "agreeing": [*PLAIN, "train.advantage=agreeing"],
    "mean_only": [*PLAIN, "train.advantage=mean_only"],
    "mean_std": [*PLAIN, "train.advantage=mean_std"],
    "value": [*PLAIN, "train.advantage=value"],
    "signed, outcome": [*PLAIN, "train.advantage=signed", "train.token_credit=outcome"],
    "deepsearch, whole": ["train.advantage=signed"],
    "deepsearch, whole, value": ["train.advantage=value"],
    "deepsearch, whole, agreeing": ["train.advantage=agreeing"],
    "grpo": ["run.algorithm=grpo"],
    "dapo": ["run.algorithm=dapo"],
}


def folder(out, variant, seed):
    return out / f"{variant.replace(', ', '-').replace(' ', '-')}.{seed}"


def train(arguments, variant, seed):
    """One run; its summary, or what went wrong."""
    place = folder(arguments.out, variant, seed)
    if (place / "done").exists():
        return f"{place.name}: done before"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    sets = [
        f"run.name={place.name}",
        f"run.dir={place}",
        f"run.model={arguments.model}",
        f"run.seed={seed}",
        f"run.steps={arguments.steps}",
        f"data.problems={arguments.data}/problems.jsonl",
        f"eval.problems={arguments.data}/heldout.jsonl",
        "eval.every=5",
        "run.checkpoint_every=0",
        "train.threads=1",
        "inference.cache_mib=128",
        *VARIANTS[variant],
        *arguments.set,
    ]
    command = [arguments.binary, "run", "--config", ROOT / "configs/small.toml"]
    with open(place / "log", "w") as log:
        code = subprocess.run([*command, *(f"--set={one}" for one in sets)], stdout=log, stderr=log).returncode
    if code != 0:
        return f"{place.name}: failed with {code}, see {place}/log"
    (place / "done").touch()
    return f"{place.name}: done"


def read(place):
    """What one run's database says: its curve [(step, tokens, pass@1)] and means over its steps."""
    with sqlite3.connect(f"file:{place}/orchestrator.sqlite?mode=ro", uri=True) as base:
        curve = base.execute(
            "select step_id, generated_tokens, pass_at_1, wall_s, pass_at_k from learning_curve where run_id = 1 order by step_id"
        ).fetchall()
        entropy = base.execute("select entropy_nats from step_summary order by step_id desc limit 5").fetchall()
        # Of the groups searched: those of one verdict only, and those that the trainer skipped.
        all_right, all_wrong, count = base.execute(
            """
            select avg(correct = n), avg(correct = 0), count(*) from (
                select sum(verdict = 'correct') as correct, count(*) as n from trajectory group by tree_id
            )
            """
        ).fetchone()
        (skipped,) = base.execute("select sum(skipped_group_count) from step").fetchone()
        lengths = base.execute(
            "select avg(response_tokens) from trajectory_text where step_id > (select max(step_id) - 5 from step)"
        ).fetchone()
    entropies = [value for (value,) in entropy if value is not None]
    return {
        "curve": curve,
        "all_right": all_right,
        "all_wrong": all_wrong,
        "skipped": (skipped or 0) / count,
        "entropy": sum(entropies) / len(entropies) if entropies else float("nan"),
        "length": lengths[0],
    }


def at_step(curve, step):
    return next((100 * row[2] for row in curve if row[0] == step), None)


def at_tokens(curve, tokens):
    """pass@1 after that many generated tokens, between two measurements on the line between them."""
    for (_, t0, p0, *_), (_, t1, p1, *_) in zip(curve, curve[1:]):
        if t0 <= tokens <= t1:
            return 100 * (p0 + (p1 - p0) * (tokens - t0) / max(t1 - t0, 1))
    return None


def spread(values, digits=1):
    """Mean and range; nothing where a run did not get that far."""
    if not values or any(value is None for value in values):
        return "-"
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def line(cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def table(arguments):
    runs = {}
    for variant in VARIANTS:
        places = [p for p in sorted(arguments.out.glob(folder(arguments.out, variant, "*").name)) if (p / "done").exists()]
        if places:
            runs[variant] = [read(place) for place in places]
    if not runs:
        sys.exit(f"no finished run in {arguments.out}")
    steps, tokens = arguments.at_steps, arguments.at_tokens
    print("pass@1 in percent on held-out problems, mean (lowest to highest) over seeds, after so many steps\n")
    line(["variant", "seeds", *steps, "best of means"])
    line(["---"] * (len(steps) + 3))
    for variant, some in runs.items():
        cells = [spread([at_step(run["curve"], step) for run in some]) for step in steps]
        shared = set.intersection(*({row[0] for row in run["curve"]} for run in some))
        best = max(sum(at_step(run["curve"], step) for run in some) / len(some) for step in shared)
        line([variant, len(some), *cells, f"{best:.1f}"])
    print("\nthe same after so many generated tokens (filter included)\n")
    line(["variant", *(f"{count:,}" for count in tokens)])
    line(["---"] * (len(tokens) + 1))
    for variant, some in runs.items():
        line([variant, *(spread([at_tokens(run["curve"], count) for run in some]) for count in tokens)])
    print("\ngroups and answers; entropy and length over the last five steps\n")
    names = ["all right %", "all wrong %", "skipped %", "entropy, nats", "tokens per answer", "pass@4 %", "tokens", "wall s"]
    line(["variant", *names])
    line(["---"] * (len(names) + 1))
    for variant, some in runs.items():
        mean = lambda key: sum(run[key] for run in some) / len(some)
        last = lambda column: sum(run["curve"][-1][column] for run in some) / len(some)
        shares = (f"{100 * mean(key):.0f}" for key in ("all_right", "all_wrong", "skipped"))
        line([variant, *shares, f"{mean('entropy'):.3f}", f"{mean('length'):.1f}", f"{100 * last(4):.1f}", f"{last(1):,.0f}", f"{last(3):.0f}"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train what is not done yet")
    run.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    run.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    run.add_argument("--steps", type=int, default=40)
    run.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    run.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/orchestrator")
    run.add_argument("--model", type=pathlib.Path, default=ROOT / "models/small")
    run.add_argument("--data", type=pathlib.Path, default=ROOT / "runs/small")
    run.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    show = commands.add_parser("table", help="print the tables")
    show.add_argument("--at-steps", type=int, nargs="+", default=[0, 10, 20, 30, 40])
    show.add_argument("--at-tokens", type=int, nargs="+", default=[100_000, 200_000, 300_000])
    for command in (run, show):
        command.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/forms", help="folder of the runs")
    arguments = parser.parse_args()
    if arguments.command == "table":
        table(arguments)
        return
    failed = False
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        # Seed by seed, so that every variant has as many when it is interrupted.
        waiting = [pool.submit(train, arguments, variant, seed) for seed in arguments.seeds for variant in arguments.variants]
        for one in concurrent.futures.as_completed(waiting):
            print(one.result(), flush=True)
            failed |= "failed" in one.result()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
