#!/usr/bin/env bash
# `orchestrator` with the given arguments; before it the problems of the quickstart, where they are asked for and not there;
# and when it has ended, a copy of the newest weights on the disk. For containers, where the folder of the weights
# (`run.weights_dir`) is memory that goes with them.
#
#   inference/train.sh run --config configs/quickstart.toml --resume --set run.weights_dir=/weights
#
#   WEIGHTS=/weights        where the run writes its weights
#   KEPT=runs/weights       where the copy goes: KEPT/NAME-run-1-.../v000008, one version of each run
set -euo pipefail

weights=${WEIGHTS:-/weights}
kept=${KEPT:-runs/weights}

# The first process of a container is deaf to signals that it does not expect.
trap 'exit 143' INT TERM
if [[ " $* " = *" --config configs/quickstart.toml "* ]]; then
    problems=runs/quickstart/problems.jsonl
    held_out=runs/quickstart/heldout.jsonl
    mkdir -p runs/quickstart
    [ -e $problems ] || orchestrator problems generate --out $problems --count 160 --mix sum=2,shopping
    [ -e $held_out ] || orchestrator problems generate --out $held_out --count 64 --held-out --mix sum=2,shopping
fi

# Not by `exec`, for what follows; so signals have to be handed on.
orchestrator "$@" &
child=$!
trap 'kill -TERM "$child" 2> /dev/null || true' INT TERM
code=0
wait "$child" || code=$?
# A signal ends the wait, not the run, which stops in good order.
while kill -0 "$child" 2> /dev/null; do
    wait "$child" || true
done
wait "$child" && code=0 || code=$?

# A version has its final name only when it is complete.
shopt -s nullglob
for run in "$weights"/*/; do
    newest=$(find "$run" -mindepth 1 -maxdepth 1 -type d -regex '.*/v[0-9]+' | sort | tail -n 1)
    [ -n "$newest" ] || continue
    target=$kept/$(basename "$run")
    name=$(basename "$newest")
    # Another training may have given its weights the same name.
    ! cmp -s "$newest/manifest.json" "$target/$name/manifest.json" || continue
    mkdir -p "$target"
    rm -rf "$target/.partial"
    cp -r "$newest" "$target/.partial"
    sync
    rm -rf "${target:?}/$name"
    mv "$target/.partial" "$target/$name"
    find "$target" -mindepth 1 -maxdepth 1 -type d -regex '.*/v[0-9]+' ! -name "$name" -exec rm -rf {} +
    printf 'weights kept in %s/%s\n' "$target" "$name" >&2
done
exit "$code"
