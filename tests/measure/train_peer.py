#!/usr/bin/env python3
"""The peer of `orchestrator bench train`: the same trajectories in PyTorch and transformers, as separate sequences.

    orchestrator bench train --model DIR --run DIR --export-batch batch.json > ours.txt
    tests/measure/train_peer.py --model DIR --batch batch.json [--mode sequence|padded|packed] [--ours ours.txt]

`--batch` is what `--export-batch` wrote: token ids, advantages, objective. Modes:

sequence  one sequence after the other, so nothing is padded: the form without waste on a processor
padded    batches of up to --batch-tokens tokens with padding, sequences sorted by length
packed    sequences behind each other without padding, by flash_attention_2 and restarting positions (CUDA only)

Masters and moments are float32; with bfloat16 the forward pass runs under autocast. One optimizer step (torch.optim.AdamW,
fused) on the whole batch per step; the first step warms up and is not measured. The last line of the output is JSON with the
names of `orchestrator bench train`. With --ours its first loss and gradient norm are compared: both programs compute the
same, or it exits with 1.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def resident_bytes(field):
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


def gpu_bytes():
    """GPU memory of this process as `orchestrator bench train` sees its own."""

    def ask(query):
        try:
            command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        except (OSError, subprocess.CalledProcessError):
            return []

    for line in ask("--query-compute-apps=pid,used_memory"):
        pid, used = line.split(",")
        if pid.strip() == str(os.getpid()) and used.strip().isdigit():
            return int(used) << 20
    used = ask("--query-gpu=memory.used")
    return int(used[0]) << 20 if used and used[0].strip().isdigit() else None


def sequences_of(batch):
    """Every trajectory as {tokens, start of the response, advantage, engine logprob and cap per response token}."""
    objective, found = batch["objective"], []
    if objective["old_logprobs"] != "recompute":
        sys.exit("the batch was written for `train.old_logprobs = \"engine\"`, which is not implemented here")
    for group in batch["groups"]:
        for trajectory in group["trajectories"]:
            if trajectory["advantages"] is None:
                continue
            tokens, advantages, engine, caps, cached = list(group["prompt"]), [], [], [], []
            for index, advantage in zip(trajectory["path"], trajectory["advantages"]):
                node = group["nodes"][index]
                count = len(node["tokens"])
                tokens += node["tokens"]
                advantages += [advantage] * count
                engine += [float("nan") if x is None else x for x in node["logprobs"]]
                cached += [node["is_cached"]] * count
                caps += [objective["cached_importance_cap" if node["is_cached"] else "importance_cap"]] * count
            found.append({
                "tokens": torch.tensor(tokens),
                "start": len(group["prompt"]),
                "advantages": torch.tensor(advantages),
                "engine": torch.tensor(engine),
                "caps": torch.tensor(caps),
                "cached": torch.tensor(cached),
            })
    return found


def micro_batches(sequences, arguments):
    """Lists of sequences that go through the model together."""
    if arguments.mode == "sequence":
        return [[sequence] for sequence in sequences]
    ordered, batches = sorted(sequences, key=lambda sequence: -len(sequence["tokens"])), []
    for sequence in ordered:
        longest = len(batches[-1][0]["tokens"]) if batches else 0
        rows = longest * (len(batches[-1]) + 1) if batches and arguments.mode == "padded" else 0
        if arguments.mode == "packed" and batches:
            rows = sum(len(one["tokens"]) for one in batches[-1]) + len(sequence["tokens"])
        if batches and rows <= arguments.batch_tokens:
            batches[-1].append(sequence)
        else:
            batches.append([sequence])
    return batches


def hidden_states(body, group, mode, device):
    """The last hidden states and, per sequence, its rows in them, flattened: [rows, H], [(first row, tokens)]."""
    lengths = [len(one["tokens"]) for one in group]
    if mode == "packed":
        tokens = torch.cat([one["tokens"] for one in group])[None].to(device)
        positions = torch.cat([torch.arange(n) for n in lengths])[None].to(device)
        hidden = body(input_ids=tokens, position_ids=positions, use_cache=False).last_hidden_state[0]
        firsts = [sum(lengths[:i]) for i in range(len(lengths))]
        return hidden, list(zip(firsts, lengths))
    width = max(lengths)
    tokens = torch.zeros(len(group), width, dtype=torch.long)
    mask = torch.zeros(len(group), width, dtype=torch.long)
    for row, one in enumerate(group):
        tokens[row, : lengths[row]] = one["tokens"]
        mask[row, : lengths[row]] = 1
    # Without padding SDPA may use its causal form, which is faster than a mask.
    mask = None if min(lengths) == width else mask.to(device)
    hidden = body(input_ids=tokens.to(device), attention_mask=mask, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1), [(row * width, n) for row, n in enumerate(lengths)]


def token_losses(logprobs, engine, caps, cached, advantages, objective):
    """PPO clip with two bounds, dual clip and truncated importance weight; the old policy is the current one."""
    old = logprobs.detach()
    ratio = torch.exp(logprobs - old)
    known = torch.where(engine.isnan(), torch.where(cached, torch.zeros_like(old), old), engine)
    weight = torch.where(caps > 0, torch.minimum(torch.exp(old - known), caps), torch.ones_like(old))
    clipped = torch.clamp(ratio, 1 - objective["clip_low"], 1 + objective["clip_high"])
    bound = torch.maximum(-advantages * ratio, -advantages * clipped)
    dual = torch.minimum(-advantages * objective["dual_clip"], bound)
    return weight * torch.where(advantages < 0, dual, bound)


def step(model, optimizer, batches, objective, arguments, device, autocast):
    """One optimizer step; loss, gradient norm, seconds of gradient and optimizer, processor seconds."""
    begin, processor, total = time.perf_counter(), time.process_time(), 0.0
    optimizer.zero_grad(set_to_none=False)
    for group in batches:
        with autocast:
            hidden, places = hidden_states(model.model, group, arguments.mode, device)
            rows = torch.cat([torch.arange(f + one["start"] - 1, f + n - 1) for (f, n), one in zip(places, group)])
            scored = hidden[rows.to(device)]
        targets = torch.cat([one["tokens"][one["start"] :] for one in group]).to(device)
        parts = [torch.cat([one[key] for one in group]).to(device) for key in ("engine", "caps", "cached", "advantages")]

        def head(scored, targets, *parts):
            with autocast:
                logits = model.lm_head(scored)
            logprobs = torch.log_softmax(logits.float() / objective["temperature"], -1)
            chosen = logprobs.gather(1, targets[:, None])[:, 0]
            return token_losses(chosen, *parts, objective).sum() / objective["denominator"]

        if arguments.chunk_tokens == 0:
            loss = head(scored, targets, *parts)
            loss.backward()
            total += loss.item()
            continue
        # The graph is cut at the hidden states, so that the logits of one chunk exist at a time.
        cut = scored.detach().requires_grad_(True)
        for first in range(0, len(targets), arguments.chunk_tokens):
            chunk = slice(first, first + arguments.chunk_tokens)
            loss = head(cut[chunk], targets[chunk], *(part[chunk] for part in parts))
            loss.backward()
            total += loss.item()
        scored.backward(cut.grad)
    if device.type == "cuda":
        torch.cuda.synchronize()
    middle = time.perf_counter()
    limit = objective["max_grad_norm"] or float("inf")
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit))
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return total, norm, middle - begin, time.perf_counter() - middle, time.process_time() - processor


def last_json(path):
    with open(path) as lines:
        return json.loads([line for line in lines if line.strip()][-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder in the Hugging Face layout")
    parser.add_argument("--batch", required=True, help="file that `orchestrator bench train --export-batch` wrote")
    parser.add_argument("--mode", choices=["sequence", "padded", "packed"], default="sequence")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on CUDA, float32 elsewhere")
    parser.add_argument("--threads", type=int, default=0, help="compute threads; 0 is torch's choice")
    parser.add_argument("--steps", type=int, default=3, help="measured steps, after one that is not")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="most tokens of a padded or packed batch")
    parser.add_argument("--checkpoint", action="store_true", help="gradient checkpointing")
    parser.add_argument("--chunk-tokens", type=int, default=0, help="rows of logits at once; 0 is all of a batch")
    parser.add_argument("--ours", help="output of `orchestrator bench train` on the same batch, to compare with")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest relative difference in float32")
    arguments = parser.parse_args()
    if arguments.mode == "packed" and arguments.device == "cpu":
        parser.error("packed sequences need flash_attention_2, which needs CUDA: on a processor `sequence` pads nothing")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    dtype = arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    with open(arguments.batch) as file:
        batch = json.load(file)
    objective, sequences = batch["objective"], sequences_of(batch)
    del batch
    batches = micro_batches(sequences, arguments)
    attention = "flash_attention_2" if arguments.mode == "packed" else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation=attention)
    # Or else the row of the padding token gets no gradient, although sequences may hold the token.
    model.get_input_embeddings().padding_idx = None
    model.to(device).train()
    if arguments.checkpoint:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=objective["learning_rate"], betas=(objective["beta1"], objective["beta2"]),
        eps=objective["epsilon"], weight_decay=objective["weight_decay"], fused=True,
    )
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")
    loaded = resident_bytes("VmRSS")

    runs = []
    for number in range(arguments.steps + 1):
        runs.append(step(model, optimizer, batches, objective, arguments, device, autocast))
        name = f"step {number}/{arguments.steps}" if number else "warm-up step"
        print(f"{name}: {sum(runs[-1][2:4]):.2f} s", file=sys.stderr)
    (loss, norm, *_), measured = runs[0], sorted(runs[1:], key=lambda run: run[2] + run[3])
    _, _, gradient_s, optimizer_s, _ = measured[(len(measured) - 1) // 2]
    median = gradient_s + optimizer_s
    processor_s = sorted(run[4] for run in measured)

    config, named = model.config, dict(model.named_parameters())
    lengths = [len(one["tokens"]) for one in sequences]
    tokens, pairs = sum(lengths), sum(n * (n + 1) // 2 for n in lengths)
    projection = 0 if "lm_head.weight" in named else named["model.embed_tokens.weight"].numel()
    products = projection + sum(
        one.numel() for name, one in named.items() if one.dim() == 2 and name != "model.embed_tokens.weight")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    flops = 6 * products * tokens + 12 * config.num_hidden_layers * config.num_attention_heads * head_dim * pairs
    computed = tokens
    if arguments.mode == "padded":
        computed = sum(len(group) * max(len(one["tokens"]) for one in group) for group in batches)
    result = {
        "bench": "train_peer",
        "mode": arguments.mode,
        "model": arguments.model,
        "parameter_count": sum(one.numel() for one in named.values()),
        "matmul_parameter_count": products,
        "device": device.type,
        "dtype": dtype,
        "thread_count": torch.get_num_threads(),
        "checkpoint_activations": arguments.checkpoint,
        "sharing": False,
        "trajectory_count": len(sequences),
        "longest_trajectory_tokens": max(lengths),
        "trained_tokens": tokens,
        "unique_tokens": tokens,
        "computed_tokens": computed,
        "visible_pairs": pairs,
        "step_s": [run[2] + run[3] for run in runs[1:]],
        "median_step_s": median,
        "step_processor_s": processor_s,
        "median_step_processor_s": processor_s[(len(processor_s) - 1) // 2],
        "gradient_s": gradient_s,
        "optimizer_s": optimizer_s,
        "trained_tokens_per_s": tokens / median,
        "model_flops": flops,
        "model_flops_per_s": flops / median,
        "loaded_resident_bytes": loaded,
        "peak_resident_bytes": resident_bytes("VmHWM"),
        "peak_gpu_bytes": gpu_bytes() if device.type == "cuda" else None,
        "first_loss": loss,
        "first_grad_norm": norm,
        "torch": torch.__version__,
    }
    code = 0
    if arguments.ours:
        ours = last_json(arguments.ours)
        print(f"{'':24}{'ours':>14}{'peer':>14}{'difference':>14}")
        for name in ("first_loss", "first_grad_norm", "trained_tokens", "trajectory_count"):
            mine, theirs = result[name], ours[name]
            # A loss of almost nothing is a small difference of large sums.
            difference = abs(mine - theirs) / max(abs(theirs), 1e-4)
            result[f"{name}_difference_frac"] = difference
            print(f"{name:24}{theirs:14.7g}{mine:14.7g}{difference:14.2e}")
            if difference > arguments.tolerance and (dtype == ours["dtype"] == "float32"):
                print(f"`{name}` differs by more than {arguments.tolerance:g}: the two do not compute the same")
                code = 1
    print(json.dumps(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
