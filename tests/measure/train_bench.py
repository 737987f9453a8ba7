#!/usr/bin/env python3
"""Our trainer beside PyTorch and transformers, on the same trajectories, in turns, each in a process of its own.

    tests/measure/train_bench.py --model models/smollm2-135m-instruct --run runs/quickstart --threads 2
    tests/measure/train_bench.py --scaling

In each round: ours with sharing, the peer, ours without sharing, and the peer's padded batches with --padded. Figures are
medians over the rounds. On a processor that others use as well, --by processor takes the rates from processor time in place
of wall time; with one thread that is what the work costs. The peer also checks that it computes the same loss and gradient as ours; if it does not, this fails.
Before each measured step there is one that warms up. The last line of the output is JSON.

`--scaling` measures ours alone: one tree of constant depth and up to 256 trajectories, 1k to 65k unique tokens, on a small
random model.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEER = ROOT / "tests/measure/train_peer.py"
SPEED_AIM, SHARING_AIM, MEMORY_AIM = 1.3, 0.85, 0.6


def measured(command, arguments, output=None):
    """The JSON that `command` ends with; its output goes to `output`, too."""
    environment = dict(os.environ, OMP_WAIT_POLICY="passive", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    if arguments.threads:
        environment["OMP_NUM_THREADS"] = str(arguments.threads)
    done = subprocess.run([str(word) for word in command], env=environment, stdout=subprocess.PIPE, text=True)
    if output:
        output.write_text(done.stdout)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}failed with {done.returncode}: {' '.join(map(str, command))}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(arguments, model, *more):
    command = [arguments.binary, "bench", "train", "--model", model, "--steps", arguments.steps, *more]
    if arguments.device:
        command += ["--device", arguments.device]
    if arguments.threads:
        command += ["--threads", arguments.threads]
    for setting in arguments.set:
        command += ["--set", setting]
    return command


def peak(figures):
    return figures["peak_gpu_bytes"] or figures["peak_resident_bytes"]


def step_time(arguments):
    return "median_step_processor_s" if arguments.by == "processor" else "median_step_s"


def compare(arguments, folder):
    batch, first = folder / "batch.json", folder / "ours.txt"
    source = ["--run", *arguments.run] if arguments.run else ["--groups", arguments.groups] if arguments.groups else []
    if arguments.tree:
        source = ["--tree", arguments.tree]
    if arguments.trees:
        source += ["--trees", arguments.trees]
    settings = ["--set", f"train.checkpoint_activations={'true' if arguments.checkpoint else 'false'}"]
    peer = [sys.executable, PEER, "--model", arguments.model, "--batch", batch, "--steps", arguments.steps,
            "--device", arguments.device or "cpu", "--threads", arguments.threads, "--batch-tokens", arguments.batch_tokens,
            "--chunk-tokens", arguments.chunk_tokens, *(["--checkpoint"] if arguments.checkpoint else [])]
    found = {}
    for number in range(arguments.rounds):
        export = ["--export-batch", batch] if number == 0 else []
        trees = source if number == 0 else ["--groups", batch]
        shared = ours(arguments, arguments.model, *trees, *settings, *export)
        found.setdefault("ours, sharing", []).append(measured(shared, arguments, first if number == 0 else None))
        check = ["--ours", first] if number == 0 else []
        mode = arguments.mode
        found.setdefault(f"peer, {mode}", []).append(measured([*peer, "--mode", mode, *check], arguments, folder / "peer.txt"))
        if number == 0:
            print("\n".join((folder / "peer.txt").read_text().strip().splitlines()[:-1]), "\n")
        separate = ours(arguments, arguments.model, "--groups", batch, "--no-sharing", *settings)
        found.setdefault("ours, no sharing", []).append(measured(separate, arguments))
        if arguments.padded:
            found.setdefault("peer, padded", []).append(measured([*peer, "--mode", "padded"], arguments))

    def median(name, key):
        return statistics.median(key(one) for one in found[name])

    print(f"{'':20}{'step s':>9}{'processor s':>13}{'gradient s':>12}{'optimizer s':>13}{'trained tok/s':>15}{'TFLOP/s':>9}{'loaded GiB':>12}{'peak GiB':>10}")
    for name, runs in found.items():
        row = [median(name, lambda one, key=key: one[key] or 0.0) for key in (
            "median_step_s", "median_step_processor_s", "gradient_s", "optimizer_s", "trained_tokens_per_s", "model_flops_per_s", "loaded_resident_bytes")]
        memory = median(name, peak)
        print(f"{name:20}{row[0]:9.2f}{row[1]:13.2f}{row[2]:12.2f}{row[3]:13.2f}{row[4]:15.1f}{row[5] / 1e12:9.4f}{row[6] / 2**30:12.2f}{memory / 2**30:10.2f}")
    shared, separate, other = found["ours, sharing"][0], "ours, no sharing", f"peer, {arguments.mode}"
    reuse = shared["trained_tokens"] / shared["unique_tokens"]

    def speed(name):
        return median(name, lambda one: one["trained_tokens"] / one[step_time(arguments)])

    ratios = [
        ("speed without sharing / peer", speed(separate) / speed(other), SPEED_AIM, "at least"),
        ("speed with sharing / peer", speed("ours, sharing") / speed(other), SPEED_AIM * SHARING_AIM * reuse, "at least"),
        ("speed with / without sharing", speed("ours, sharing") / speed(separate), SHARING_AIM * reuse, "at least"),
        ("peak memory with sharing / peer", median("ours, sharing", peak) / median(other, peak), MEMORY_AIM, "at most"),
        ("peak memory without sharing / peer", median(separate, peak) / median(other, peak), MEMORY_AIM, "at most"),
    ]
    print(f"\n{shared['trajectory_count']} trajectories, {shared['trained_tokens']} trained tokens, {reuse:.2f} per unique one; "
          f"{shared['device_name']}, {shared['dtype']}, {shared['thread_count']} threads, by {arguments.by} time\n")
    for name, value, aim, word in ratios:
        verdict = "met" if (value >= aim if word == "at least" else value <= aim) else "missed"
        print(f"{name:36}{value:8.2f}   aim: {word} {aim:.2f}: {verdict}")
    return {"bench": "train_compare", "trained_per_unique": reuse, "ratios": {n: {"value": v, "aim": a} for n, v, a, _ in ratios},
            "runs": found}


def scaling(arguments, folder):
    model = arguments.model
    if not model:
        model = folder / "model"
        init = [arguments.binary, "model", "init", "--out", model, "--family", "qwen3", "--hidden-size", "128", "--layers", "4"]
        subprocess.run([str(word) for word in init], check=True, stderr=subprocess.DEVNULL)
    rows = []
    print(f"{'trajectories':>12}{'unique':>9}{'computed':>10}{'trained':>9}{'step s':>9}{'µs/unique':>11}{'relative':>10}{'peak GiB':>10}")
    for trajectories in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        tree = f"depth=8,width=2,tokens=128,prompt=32,trajectories={trajectories}"
        one = measured(ours(arguments, model, "--tree", tree), arguments)
        rows.append(one)
        cost = [1e6 * row[step_time(arguments)] / row["unique_tokens"] for row in rows]
        print(f"{trajectories:12}{one['unique_tokens']:9}{one['computed_tokens']:10}{one['trained_tokens']:9}{one[step_time(arguments)]:9.3f}"
              f"{cost[-1]:11.2f}{cost[-1] / cost[0]:10.2f}{peak(one) / 2**30:10.2f}", flush=True)
    return {"bench": "train_scaling", "runs": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target/release/orchestrator", type=pathlib.Path)
    parser.add_argument("--model", help="folder in the Hugging Face layout")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", nargs="+", default=[], help="folders of runs whose trees are trained on")
    source.add_argument("--groups", help="file that `bench train --export-batch` wrote")
    source.add_argument("--tree", help="shape of made-up trees, as for `bench train`")
    source.add_argument("--scaling", action="store_true", help="cost per unique token from 1k to 65k, ours alone")
    parser.add_argument("--trees", type=int, default=0, help="use so many trees; 0: one made-up, or all that are stored")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--by", choices=["wall", "processor"], default="wall", help="which time rates are of")
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each process, after one that is not")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mode", choices=["sequence", "padded", "packed"], default="sequence", help="of the peer")
    parser.add_argument("--padded", action="store_true", help="measure the peer's padded batches, too")
    parser.add_argument("--checkpoint", action="store_true", help="activation checkpointing on both sides")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="most tokens of the peer's batches")
    parser.add_argument("--chunk-tokens", type=int, default=0, help="rows of logits that the peer computes at once; 0: all")
    parser.add_argument("--set", action="append", default=[], help="a setting of ours, such as train.micro_batch_tokens=4096")
    arguments = parser.parse_args()
    if not arguments.scaling and not arguments.model:
        parser.error("--model is needed")
    with tempfile.TemporaryDirectory() as folder:
        result = (scaling if arguments.scaling else compare)(arguments, pathlib.Path(folder))
    print(json.dumps(result, default=str))


if __name__ == "__main__":
    main()
