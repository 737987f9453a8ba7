"""The trainer's arithmetic in PyTorch and transformers, on separate sequences: what the Rust side is compared with.

Called with the path of a list of jobs (JSON); the last line of its output is the list of their answers. Jobs:

reference   logits and logprobs of sequences, loss and gradients of the full objective by autograd, and the
            parameters after AdamW steps. Tensors go to `out` (safetensors).
compare     loads an export with transformers, compares every parameter bit by bit with the original, and runs the
            tokenizer.
generate    greedy continuations of prompts, one by one, with the logprob of each token and its lead over the second.
"""

import json
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def token_losses(ratio, advantage, job):
    """PPO clip with two bounds and dual clip, as published (verl's compute_policy_loss)."""
    unclipped = -advantage * ratio
    clipped = -advantage * torch.clamp(ratio, 1 - job["clip_low"], 1 + job["clip_high"])
    bound = torch.maximum(unclipped, clipped)
    dual = torch.minimum(-advantage * job["dual_clip"], bound)
    return torch.where(advantage < 0, dual, bound)


def reference(job):
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    model.train()
    tensors, loss_total, active, count = {}, 0.0, 0, 0
    for index, sequence in enumerate(job["sequences"]):
        tokens = torch.tensor(sequence["tokens"])
        logits = model(tokens[None]).logits[0].float()
        if job["keep_logits"]:
            tensors[f"logits.{index}"] = logits.detach().contiguous()
        logprobs = torch.log_softmax(logits / job["temperature"], -1)
        start = sequence["prompt_tokens"]
        sampled = logprobs[start - 1 : -1].gather(1, tokens[start:, None])[:, 0]
        tensors[f"logprobs.{index}"] = sampled.detach().contiguous()
        old = torch.tensor(sequence["old"])
        engine = torch.tensor([float("nan") if x is None else x for x in sequence["engine"]])
        advantage = torch.tensor(sequence["advantages"])
        weight = torch.exp(old - engine).clamp(max=job["importance_cap"])
        weight = torch.where(torch.isnan(engine), torch.ones_like(weight), weight)
        ratio = torch.exp(sampled - old)
        loss = (weight * token_losses(ratio, advantage, job)).sum() / job["denominator"]
        loss.backward()
        loss_total += loss.item()
        high = (advantage > 0) & (ratio > 1 + job["clip_high"])
        low = (advantage < 0) & (ratio < 1 - job["clip_low"])
        active += int((high | low).sum())
        count += len(ratio)
    named = dict(model.named_parameters())
    gradients = {name: parameter.grad.detach().clone() for name, parameter in named.items()}
    for name, gradient in gradients.items():
        tensors[f"gradient.{name}"] = gradient
    if "adam" in job:
        adam = job["adam"]
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=adam["lr"], betas=tuple(adam["betas"]), eps=adam["eps"],
            weight_decay=adam["weight_decay"],
        )
        for step in range(1, adam["steps"] + 1):
            for name, parameter in named.items():
                parameter.grad = gradients[name].clone()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), adam["max_grad_norm"])
            optimizer.step()
            for name, parameter in named.items():
                tensors[f"updated{step}.{name}"] = parameter.detach().clone()
    save_file(tensors, job["out"])
    result = {"loss": loss_total, "clip_frac": active / count}
    if "adam" in job:
        result["grad_norm"] = float(norm)
    return result


def compare(job):
    model = AutoModelForCausalLM.from_pretrained(job["export"], dtype="auto")
    original = AutoModelForCausalLM.from_pretrained(job["original"], dtype="auto")
    different = [
        name
        for (name, a), (_, b) in zip(model.state_dict().items(), original.state_dict().items(), strict=True)
        if a.dtype != b.dtype or not torch.equal(a, b)
    ]
    source = load_file(f"{job['original']}/model.safetensors")
    export = load_file(f"{job['export']}/model.safetensors")
    missing = sorted(set(source) ^ set(export))
    tokenizer = AutoTokenizer.from_pretrained(job["export"])
    text = "What is 2 + 3?\nÄ 五 \t."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    generated = model.generate(
        torch.tensor([ids]), min_new_tokens=8, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )
    return {
        "different": different,
        "missing": missing,
        "round_trip": tokenizer.decode(ids) == text,
        "largest_id": max(ids),
        "chat": chat,
        "eos": tokenizer.eos_token_id,
        "generated": generated[0, len(ids) :].tolist(),
    }


def generate(job):
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32, attn_implementation="eager")
    model.eval()
    # Nothing ends a text: all tokens are compared.
    model.generation_config.eos_token_id = None
    answers = []
    for prompt in job["prompts"]:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=job["new_tokens"], do_sample=False,
            return_dict_in_generate=True, output_logits=True,
        )
        logprobs = torch.log_softmax(torch.cat(output.logits).float(), -1)
        best = logprobs.topk(2, -1)
        answers.append({
            "tokens": output.sequences[0, len(prompt) :].tolist(),
            "logprobs": best.values[:, 0].tolist(),
            "seconds": best.indices[:, 1].tolist(),
            "leads": (best.values[:, 0] - best.values[:, 1]).tolist(),
        })
    return answers


def main():
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    torch.set_num_threads(1)
    kinds = {"reference": reference, "compare": compare, "generate": generate}
    print(json.dumps([kinds[job["kind"]](job) for job in jobs]))


main()
