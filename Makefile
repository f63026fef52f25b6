# Everything runs in .venv. The first target that needs it creates it, and it is updated whenever
# setup.py, pyproject.toml, constraints.txt or this file has changed.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The exact versions in constraints.txt are those of Python 3.11; others take the newest allowed.
CONSTRAINTS ?= $(shell $(PYTHON) -c 'import sys; print("constraints.txt" if sys.version_info[:2] == (3, 11) else "")')
EXTRAS := tune,nlb,dev
# This package is installed without its dependencies, because it requires a version of pandas that no
# supported Python can install.
NLB_TOOLS := nlb_tools==0.0.4
# Further requirements of `make constraints`, in addition to the bounds in setup.py.
PINNED := torch==2.13.0

# Variables that the environment of another project may have set.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV

.DEFAULT_GOAL := help
.PHONY: help setup run test test-slow lint format types layers constraints clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | \
	  awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: $(STAMP) ## make or update the environment in .venv

# The stamp is written last and holds the path of the checkout. Without it (a set-up that was
# interrupted, a checkout that was moved) the environment is created from scratch, otherwise it is
# updated.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
$(STAMP): setup.py pyproject.toml constraints.txt Makefile
	@[ "$$(cat $@ 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV) (this takes minutes the first time)"
	$(BIN)/python -m pip install --quiet $(if $(strip $(CONSTRAINTS)),-c $(CONSTRAINTS)) -e ".[$(EXTRAS)]"
	$(BIN)/python -m pip install --quiet --no-deps $(NLB_TOOLS)
	@echo "$(CURDIR)" > $@

# There is one thread, because with several, threads mostly wait when matrices are this small.
run: $(STAMP) ## train on the shipped data; or ARGS="..." for scripts/run_single.py
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python scripts/run_single.py $(or $(ARGS),trainer.max_epochs=120)

test: $(STAMP) ## run the fast tests; ARGS="..." is passed to pytest
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-slow: $(STAMP) ## run the slow tests; ARGS="..." is passed to pytest
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -m slow --timeout=600 $(ARGS); status=$$?; \
	if [ $$status -eq 5 ]; then echo "There is no slow test."; else exit $$status; fi

lint: $(STAMP) ## check style and format
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check

format: $(STAMP) ## correct style and format
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

types: $(STAMP) ## check the types
	$(BIN)/python -m mypy

layers: $(STAMP) ## check which parts of the package may import which (pyproject.toml)
	$(BIN)/lint-imports

# Needs Python 3.11. Local version labels (torch's +cpu) are cut off, so that any build satisfies them.
constraints: ## update constraints.txt to the newest versions that setup.py allows
	@set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "Python 3.11 is needed")'; \
	$(PYTHON) -m venv "$$tmp/venv"; \
	"$$tmp/venv/bin/python" -m pip install --quiet "$(PINNED)" -e ".[$(EXTRAS)]"; \
	"$$tmp/venv/bin/python" -m pip install --quiet --no-deps "$(NLB_TOOLS)"; \
	{ echo "# Exact versions of the reference environment (Python 3.11 on Linux)."; \
	  echo "# Written by \`make constraints\`; do not edit."; \
	  "$$tmp/venv/bin/python" -m pip list --format=freeze --exclude pip --exclude lfads_torch \
	    | sed 's/+.*//'; } > "$$tmp/constraints.txt"; \
	cp "$$tmp/constraints.txt" constraints.txt

clean: ## remove the environment, caches and build outputs; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
