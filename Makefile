# Everything a checkout needs: `make demo` on a fresh machine, `make test` before a commit.
# PYTHON picks the interpreter (3.11 or newer), WORKERS the number of test processes (0: this one):
#     make demo PYTHON=python3.13
#     make test WORKERS=2 PYTEST_ARGS="-k replay"

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if "$$python" -c '$(NEW_ENOUGH)' 2>/dev/null; then echo "$$python"; break; fi; done)
WORKERS ?= auto
PYTEST_ARGS ?=
BENCH_ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --disable-pip-version-check --quiet
PYTEST := $(RUN) -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile

.PHONY: help install demo test test-ci test-all check format bench bench-gpu bench-score bench-backbones bench-laboratory readme docs dist try-wheel clean distclean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamps are what makes a second call install nothing: only a changed pyproject.toml does.
$(VENV)/.stamp-user: pyproject.toml
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || \
		{ echo "asmpg needs Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "Installing asmpg into $(VENV) (once; a few minutes on a slow line)"
	@"$(PYTHON)" -m venv $(VENV)
	@$(PIP) --editable '.[plot]'
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-user
	@echo "Installing the development tools into $(VENV)"
	@$(PIP) --editable '.[dev]'
	@touch $@

install: $(VENV)/.stamp-user ## Make .venv and install the package with plotting into it

demo: $(VENV)/.stamp-user ## Train an LSTM and a transformer action-sequence model on one task (a minute)
	@$(RUN) -m asmpg.cli.demo

test: check ## Formatting, lint, types, and the quick tests: before a commit
	$(PYTEST) $(PYTEST_ARGS)

test-ci: check ## What CI runs: the same with the thorough tests
	$(PYTEST) -m "not slow and not browser" $(PYTEST_ARGS)

test-all: check ## The same with the slow tests
	$(PYTEST) -m "" $(PYTEST_ARGS)

check: $(VENV)/.stamp-dev ## Formatting, lint and types
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(RUN) -m pyright

format: $(VENV)/.stamp-dev ## Format the code and fix what can be fixed
	$(RUN) -m ruff check --fix-only .
	$(RUN) -m ruff format .

bench: $(VENV)/.stamp-dev ## Time and memory of updates and of the loop at the paper's sizes
	$(RUN) benchmarks/speed.py $(BENCH_ARGS)

bench-gpu: $(VENV)/.stamp-dev ## The same on an accelerator, ten seeds at once (needs the extra cuda)
	$(RUN) benchmarks/speed.py --gpu --name speed-gpu $(BENCH_ARGS)

bench-score: $(VENV)/.stamp-user ## Score against environment steps and seconds, on the eight Myriad tasks
	$(RUN) benchmarks/score.py $(BENCH_ARGS)

bench-backbones: $(VENV)/.stamp-user ## Cost of every backbone; BENCH_ARGS=--scores trains with each too
	$(RUN) benchmarks/backbones.py $(BENCH_ARGS)

bench-laboratory: $(VENV)/.stamp-user ## Time and memory of Jacobians and gradient norm profiles
	$(RUN) benchmarks/laboratory.py $(BENCH_ARGS)

readme: $(VENV)/.stamp-user ## Write docs/results.md and what README.md says of it from results/
	$(RUN) benchmarks/readme.py

$(VENV)/.stamp-docs: $(VENV)/.stamp-user
	@echo "Installing the tools of the documentation into $(VENV)"
	@$(PIP) --editable '.[docs]'
	@touch $@

docs: $(VENV)/.stamp-docs ## Build the documentation site into site/; every link has to lead somewhere
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

$(VENV)/.stamp-dist: $(VENV)/.stamp-user
	@$(PIP) build twine
	@touch $@

dist: $(VENV)/.stamp-dist ## Build wheel and sdist into dist/ and check them
	rm -rf dist
	$(RUN) -m build --quiet
	$(RUN) -m twine check --strict dist/*

PYTHONS ?= $(PYTHON)
try-wheel: ## Try dist/*.whl outside the checkout; PYTHONS="python3.11 python3.13": newest releases, then lowest
	.ci/try-wheel $(PYTHONS)

clean: ## Remove caches and builds; keep .venv and runs
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove .venv as well
	rm -rf $(VENV)
