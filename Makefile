# Two commands: `make quickstart` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Where rustup puts cargo, for a shell that was opened before it was installed.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export CARGO_NET_RETRY ?= 5
# In a test run a server that does not start is a failure, not a reason to skip.
export REQUIRE_VLLM ?= 1

# What samples in the quickstart, and what the set-up is for: `embedded` or `vllm`.
ENGINE ?= embedded

python := .venv/bin/python
orchestrator := target/release/orchestrator
problems := runs/quickstart/problems.jsonl
held_out := runs/quickstart/heldout.jsonl
# The small model, and what it learns to solve.
small := models/small
small_mix := sum@2=3,sum_of_three
# Used where cargo-deny is not installed already; kept outside target/ so that `cargo clean` does not throw it away.
deny_version := 0.20.2
advisories := https://github.com/rustsec/advisory-db
own_deny := .tools/cargo-deny-$(deny_version)/bin/cargo-deny
deny := $(or $(shell PATH="$(PATH)" command -v cargo-deny),$(own_deny))

.PHONY: help setup setup-vllm build quickstart small-model compare siblings learn bench-train test fmt lint deny test-rust \
	test-python test-compose fuzz lock

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16
	@echo
	@echo 'ENGINE=vllm with setup, build or quickstart: on a real vLLM server instead of in one process'

setup: ## system packages, Rust, libtorch in a Python environment, model; what is there is left alone
	@ENGINE=$(ENGINE) inference/setup.sh

setup-vllm: ## the same and vLLM, which the tests need
	@ENGINE=vllm inference/setup.sh

build: setup ## the release binary, target/release/orchestrator
	@cargo build --release --locked

quickstart: build ## train a small real model on this machine
	@mkdir -p $(dir $(problems))
	@test -e $(problems) || $(orchestrator) problems generate --out $(problems) --count 160 --mix sum=2,shopping
	@test -e $(held_out) || $(orchestrator) problems generate --out $(held_out) --count 64 --held-out --mix sum=2,shopping
	@$(orchestrator) run --config configs/quickstart.toml --set inference.engine=$(ENGINE)

small-model: $(small)/config.json ## a model of 0.4 M parameters that can add and seldom does, for comparisons on a processor

# First the steps, until they are mostly right; then, once, a file in which three of four answers are guesses.
$(small)/config.json: | build
	@mkdir -p runs/small
	@rm -rf runs/small/start runs/small/able
	@$(orchestrator) problems generate --out runs/small/steps.jsonl --count 2000 --seed 1 --mix $(small_mix) --solutions
	@$(orchestrator) problems generate --out runs/small/habits.jsonl --count 2000 --seed 1 --mix $(small_mix) \
		--solutions --guesses 0.75
	@$(orchestrator) problems generate --out runs/small/problems.jsonl --count 2000 --seed 2 --mix $(small_mix)
	@$(orchestrator) problems generate --out runs/small/heldout.jsonl --count 240 --seed 3 --mix sum@2,sum_of_three --held-out
	@$(orchestrator) model init --out runs/small/start --family qwen3 --hidden-size 128 --layers 2 --std 0.02 --seed 1
	@$(orchestrator) sft --config configs/small.toml --model runs/small/start --data runs/small/steps.jsonl \
		--out runs/small/able --epochs 6 --batch 8 --learning-rate 2e-3 --seed 1
	@$(orchestrator) sft --config configs/small.toml --model runs/small/able --data runs/small/habits.jsonl \
		--out $(small) --epochs 1 --learning-rate 1e-3 --seed 1

compare: small-model ## the measurement of docs/measurements/2026-11-23-advantage-forms.md, about 15 minutes on two cores
	@$(python) tests/measure/advantage_forms.py run --seeds 1 2 3
	@$(python) tests/measure/advantage_forms.py table

siblings: small-model ## the measurement of docs/measurements/2026-11-23-siblings-cpu.md: search alone, without training
	@$(python) tests/measure/siblings.py

learn: build ## a comparison of docs/evidence.md: SUITE (main) of configs/suites, JOBS (2) runs at a time; goes on where it was
	@$(orchestrator) bench learn --suite configs/suites/$(or $(SUITE),main).toml --jobs $(or $(JOBS),2)

bench-train: build ## our trainer beside PyTorch and transformers on the trees of RUN (runs/quickstart), a few minutes
	@$(python) tests/measure/train_bench.py --model models/smollm2-135m-instruct --run $(or $(RUN),runs/quickstart) \
		--trees $(or $(TREES),8) --threads $(or $(THREADS),$(shell nproc))

test: setup-vllm fmt lint deny test-rust test-python ## everything that must pass before a commit

fmt: ## formatting
	@cargo fmt --all --check

lint: setup ## clippy and links of the documentation, warnings denied
	@cargo clippy --release --locked --all-targets -- -D warnings
	@RUSTDOCFLAGS='-D warnings' cargo doc --release --locked --no-deps --lib --document-private-items

deny: $(deny) ## licences, bans and sources of the dependencies; advisories where the database answers
	@$(deny) --locked check --hide-inclusion-graph licenses bans sources
	@if timeout 20 git ls-remote --exit-code $(advisories) HEAD < /dev/null > /dev/null 2>&1; then \
		$(deny) --locked check --hide-inclusion-graph advisories; \
	else \
		echo 'advisories not checked: $(advisories) does not answer from here'; \
	fi

# Built without its own profile (link-time optimisation): the check takes a second either way.
$(own_deny):
	@echo 'building cargo-deny $(deny_version) into .tools (2 to 3 minutes, once)' >&2
	@CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		cargo install --quiet --locked --root .tools/cargo-deny-$(deny_version) cargo-deny@$(deny_version)

test-rust: setup-vllm ## cargo test
	@cargo test --release --locked --no-fail-fast

test-python: setup-vllm ## the Python files in inference/
	@$(python) -m unittest discover --start-directory inference --pattern 'test_*.py'

test-compose: ## the images without a GPU and docker-compose.yml on them, where a container engine is present
	@tests/compose.sh

fuzz: ## look for answers that break the verifier, SECONDS_EACH (60) for each of the two targets; needs no libtorch
	@tests/fuzz/run.sh $(or $(SECONDS_EACH),60)

lock: setup ## resolve the Python requirements anew
	@for variant in cpu gpu; do \
		override=inference/requirements-$$variant-override.txt; \
		UV_CUSTOM_COMPILE_COMMAND='make lock' .venv/bin/uv pip compile --quiet --system-certs --universal \
			--python-version 3.11 --generate-hashes $$(test ! -e $$override || echo --override $$override) \
			inference/requirements-$$variant.in --output-file inference/requirements-$$variant.txt; \
	done
	@UV_CUSTOM_COMPILE_COMMAND='make lock' .venv/bin/uv pip compile --quiet --system-certs --universal \
		--python-version 3.11 --generate-hashes --no-deps --no-annotate --constraint inference/requirements-cpu.txt \
		inference/requirements-base.in --output-file inference/requirements-base.txt
