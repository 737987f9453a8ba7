#!/usr/bin/env python3
"""Follows trees by hand: values and advantages once more, from the rows of a database alone.

    follow_tree.py DATABASE [--tree ID] [--form value|signed|agreeing|mean_only|mean_std]

Written from the equations of the paper and not from the program's code. For every search tree of the newest run: the
trajectories are backed up again in their order (equations 3 to 5, gamma plain or, under the released rules, shifted), and each
node's q_total is compared with what is stored. Then the advantages of one form (that of the run, if none is named) are worked
out, and counted: which share of the tokens of correct trajectories is pushed down, which share of those on no correct
trajectory is pushed up. With --tree, that tree is printed node by node. Exit code 1 where a value differs.
"""

import argparse
import collections
import math
import sqlite3
import sys
import tomllib


def gamma(config, depth, leaf_depth):
    shifted = config["gamma"] == "shifted"
    share = (depth + 1) / (leaf_depth + 1) if shifted else depth / leaf_depth
    return max(share, config["gamma_min"])


def backed_up(rule, q, gain):
    if q * gain >= 0:
        return q + gain
    if rule == "simple":
        return max(q + gain, 0.0)
    if rule == "sum":
        return q + gain
    return gain if gain > 0 else q


def values(search, parents, depths, trajectories):
    """q_total of every node after all backups, root included."""
    q = collections.defaultdict(float)
    for leaf, reward in trajectories:
        node = leaf
        while node is not None:
            gain = gamma(search, depths[node], depths[leaf]) * reward
            q[node] = backed_up(search["q_update"], q[node], gain) if reward else q[node]
            node = parents[node]
    return q


def advantages(train, form, q, paths, rewards):
    """One list per trajectory, from the prompt's first child to the leaf; no trajectory is overlong here."""

    def credit(path, reward):
        if train["token_credit"] == "outcome":
            return [reward for _ in path]
        inner = [math.tanh(q[node] / train["q_temperature"]) * train["q_max"] for node in path[:-1]]
        return inner + [reward]

    credits = [credit(path, reward) for path, reward in zip(paths, rewards)]
    if form == "value":
        return credits
    mean = sum(rewards) / len(rewards)
    if form == "mean_only":
        return [[c - mean for c in row] for row in credits]
    if form == "mean_std":
        std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / len(rewards))
        return [[(c - mean) / (std + 1e-6) for c in row] for row in credits]
    correct = sum(reward > 0 for reward in rewards)
    p = correct / len(rewards) if correct else 1 / (len(rewards) + 2)
    weigh = lambda c: c * 2 * (1 - p) if c > 0 else c * 2 * p
    if form == "signed":
        return [[weigh(c) for c in row] for row in credits]
    return [[weigh(c) if c * r > 0 else 0.0 for c in row] for row, r in zip(credits, rewards)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database")
    parser.add_argument("--tree", type=int)
    parser.add_argument("--form", choices=["value", "signed", "agreeing", "mean_only", "mean_std"])
    args = parser.parse_args()
    db = sqlite3.connect(f"file:{args.database}?mode=ro", uri=True)
    run, text = db.execute("select run_id, config_toml from run order by run_id desc limit 1").fetchone()
    config = tomllib.loads(text)
    search, train = config["search"], config["train"]
    form = args.form or train["advantage"]
    if train["overlong_buffer_tokens"]:
        sys.exit("the penalty on length is not followed: train.overlong_buffer_tokens has to be 0")
    worst, nodes_seen, trees_seen = 0.0, 0, 0
    tokens = collections.Counter()
    pushed = collections.Counter()
    ids = db.execute(
        "select tree_id from tree where run_id = ? and kind = 'search' and status <> 'failed' order by tree_id", (run,)
    ).fetchall()
    for (tree,) in ids:
        if args.tree not in (None, tree):
            continue
        rows = db.execute(
            "select node_id, parent_node_id, depth, q_total, token_count, tag, verdict from node where tree_id = ?", (tree,)
        ).fetchall()
        parents = {row[0]: row[1] for row in rows}
        depths = {row[0]: row[2] for row in rows}
        counts = {row[0]: row[4] for row in rows}
        taken = db.execute(
            "select leaf_node_id, reward, provenance from trajectory where tree_id = ? order by ordinal", (tree,)
        ).fetchall()
        if not taken:
            continue
        q = values(search, parents, depths, [(leaf, reward) for leaf, reward, _ in taken])
        for row in rows:
            worst = max(worst, abs(q[row[0]] - row[3]))
        nodes_seen, trees_seen = nodes_seen + len(rows), trees_seen + 1
        paths, rewards = [], []
        for leaf, reward, _ in taken:
            path, node = [], leaf
            while parents[node] is not None:
                path.append(node)
                node = parents[node]
            paths.append(path[::-1])
            rewards.append(reward)
        found = advantages(train, form, q, paths, rewards)
        good = {node for path, reward in zip(paths, rewards) if reward > 0 for node in path}
        for path, row in zip(paths, found):
            for node, advantage in zip(path, row):
                side = "correct" if node in good else "wrong"
                tokens[side] += counts[node]
                pushed[side, "up" if advantage > 1e-9 else "down" if advantage < -1e-9 else "left"] += counts[node]
        if args.tree == tree:
            print(f"tree {tree}, {search['rules']} rules, {form}: {len(taken)} trajectories, mean reward "
                  f"{sum(rewards) / len(rewards):.3f}")
            tags = {row[0]: row[5] for row in rows}
            for path, reward, row in zip(paths, rewards, found):
                steps = (f"{tags[n]}: q {q[n]:+.3f}, A {a:+.3f}" for n, a in zip(path, row))
                print(f"  {reward:+.0f}  " + "; ".join(steps))
    print(f"{trees_seen} trees, {nodes_seen} nodes: largest difference of a q_total {worst:.1e}")
    for side in ("correct", "wrong"):
        shares = {way: 100 * pushed[side, way] / max(tokens[side], 1) for way in ("up", "down", "left")}
        print(f"{form}: of {tokens[side]} tokens on {side if side == 'correct' else 'no correct'} trajectories "
              f"{shares['up']:.1f} % up, {shares['down']:.1f} % down, {shares['left']:.1f} % left alone")
    sys.exit(worst > 1e-9)


if __name__ == "__main__":
    main()
