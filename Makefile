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
# Used where cargo-deny is not installed already; kept outside target/ so that `cargo clean` does not throw it away.
deny_version := 0.20.2
advisories := https://github.com/rustsec/advisory-db
own_deny := .tools/cargo-deny-$(deny_version)/bin/cargo-deny
deny := $(or $(shell PATH="$(PATH)" command -v cargo-deny),$(own_deny))

.PHONY: help setup setup-vllm build quickstart test fmt lint deny test-rust test-python lock

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
	@test -e $(problems) || $(orchestrator) problems generate --out $(problems) --count 256 --mix sum=2,shopping
	@$(orchestrator) run --config configs/quickstart.toml --set inference.engine=$(ENGINE)

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
