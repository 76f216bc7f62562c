# `make` explains the targets.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Real data sets, used by some tests and recipes when they are there.
ifneq ($(wildcard ../shared/data),)
export COMPRESSM_DATA ?= $(abspath ../shared/data)
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format docs tables bench gpu clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## create .venv and install the package with all that development needs

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/pip install -qq --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## train on bundled data with compression: a table, a report, exported models, advice
	$(BIN)/python -m compressm demo

test: $(STAMP) lint ## lint, type check and all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: $(STAMP) ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

tables: $(STAMP) ## write the tables of the README and of all pages anew from the results and the code
	$(BIN)/python -m compressm bench tables

bench: $(STAMP) ## speed of the operators on this machine
	$(BIN)/python -m compressm bench ops
	$(BIN)/python -m compressm bench mamba

# The machine's own Python, if it has PyTorch: PYTHON=python3 needs no network and no .venv.
gpu: ## tests, comparisons and timings on a CUDA device
	@test "$(origin PYTHON)" != file || $(MAKE) --no-print-directory install
	@PYTHONPATH=src:. $(if $(filter file,$(origin PYTHON)),$(BIN)/python,$(PYTHON)) experiments/gpu.py

clean: ## remove everything that is made
	rm -rf $(VENV) build dist site runs .pytest_cache .mypy_cache .ruff_cache
