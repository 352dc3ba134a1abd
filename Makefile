# Everything a user or a developer types. `make help` lists it.
PYTHON    ?= python3
VENV      ?= .venv
QUALITIES ?= 1,5,10,50,90
SHARDS    ?= shards
RAW       ?=
NAME      ?= $(shell basename "$(RAW)")
BIN       := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check lint shards named train report bench bench-gpu clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

# One environment, grown by need: what the tools need, then the tests, then the checkers.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "limla needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "no virtual environment could be made; on Debian: apt install python3-venv" >&2; exit 2; }
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.made
	$(BIN)/pip install --quiet -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/.made
	$(BIN)/pip install --quiet -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/.made
	$(BIN)/pip install --quiet -e '.[bench]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.made
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

demo: $(VENV)/.installed  ## the whole line on an embedded dataset; ends by naming the HTML report
	$(BIN)/python tools/calibration.py demo/photos
	$(BIN)/python tools/run.py tools/demo.toml

test: $(VENV)/.installed-test  ## the whole test suite
	$(BIN)/pytest

lint: $(VENV)/.installed-dev  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

check: lint test  ## lint, then the tests

shards: | named $(VENV)/.installed  ## RAW=folder [QUALITIES=1,5,10,50,90] [SHARDS=shards] [NAME=…]: pack and re-encode photos
	$(BIN)/python tools/pack.py "$(RAW)" "$(SHARDS)/$(NAME)"
	$(BIN)/python tools/reencode.py "$(SHARDS)/$(NAME)" --quality "$(QUALITIES)"

train: $(VENV)/.installed  ## ARGS="--data-dir shards/flowers --quality 10 …": limla-train
	$(BIN)/limla-train $(ARGS)

report: $(VENV)/.installed  ## ARGS="results --output report.html": limla report
	$(BIN)/limla report $(ARGS)

bench: | named $(VENV)/.installed-bench  ## RAW=folder of photos: limla beside its limits and peers; docs/benchmarks.md
	$(BIN)/python benchmarks/compare.py "$(RAW)"
	$(BIN)/python benchmarks/pages.py

# where a GPU is; another Python than the environment's: make bench-gpu GPU_PYTHON=python3, from a checkout as it is
GPU_PYTHON ?= $(BIN)/python
bench-gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/.installed-test)  ## [RAW=folder of photos] [GPU_ARGS=…]: the GPU's tests, then its speed, to benchmarks/results/gpu.json
	@PYTHONPATH="$(CURDIR):$$PYTHONPATH" $(GPU_PYTHON) -m pytest tests/gpu -rs -W default $(GPU_TEST_ARGS); tests=$$?; \
	  PYTHONPATH="$(CURDIR):$$PYTHONPATH" $(GPU_PYTHON) benchmarks/gpu.py $(if $(RAW),--photos "$(RAW)") $(GPU_ARGS) && exit $$tests

# before anything is installed
named:
	@test -n "$(RAW)" || { echo "name the folder of photos: make $(MAKECMDGOALS) RAW=path/to/folder" >&2; exit 2; }

clean:  ## remove the environment and the demo
	rm -rf $(VENV) demo
