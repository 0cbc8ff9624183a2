# Each target sets up what it needs; nothing has to be run before.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-bench
PEERS_READY := $(PEERS)/.ready

STUDY ?= vowels
TRAINED := $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)
SEARCHED := $(if $(TRIALS),--trials $(TRIALS)) $(if $(TIMEOUT),--timeout $(TIMEOUT)) $(TRAINED)
# A server by the environment alone: every user of the machine can read a process's arguments. The
# second variable says that the shell from which make was called knows nothing of it.
WHERE := $(if $(filter sqlite:%,$(firstword $(STORAGE))),--storage '$(STORAGE)')
ifneq ($(filter-out sqlite:%,$(firstword $(STORAGE))),)
search resume show report evaluate dashboard: export RNN_SEARCH_STORAGE := $(STORAGE)
search resume show report evaluate dashboard: export RNN_SEARCH_STORAGE_BY := make
endif

.PHONY: help setup search resume show report evaluate dashboard test test-all soak check bench clean

help:  ## print this
	@echo "make TARGET [STUDY=vowels|sunspots|shakespeare|path/to/mine.toml] [STORAGE=] [ARGS=\"more options\"]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## install everything into .venv (every other target does this by itself)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rnn-search needs Python 3.11 or newer; try make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@# One that was left half-made (interrupted, or python3-venv was missing) has no pip.
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  setuptools torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  --no-build-isolation -e '.[examples,postgres,dev]'
	@# Else the first search of all would wait for it.
	$(BIN)/python -c 'from search.recurrent import compile_ahead; compile_ahead()'
	@touch $(READY)

search: $(READY)  ## create or go on with STUDY until it has its trials [TRIALS= TIMEOUT= WORKERS=]
	@$(BIN)/rnn-search run '$(STUDY)' $(SEARCHED) $(WHERE)

resume: $(READY)  ## go on with STUDY from the database alone [TRIALS= TIMEOUT= WORKERS=]
	@$(BIN)/rnn-search resume '$(STUDY)' $(SEARCHED) $(WHERE)

show: $(READY)  ## what STUDY has come to
	@$(BIN)/rnn-search show '$(STUDY)' $(ARGS) $(WHERE)

report: $(READY)  ## one page on all that STUDY has found: HTML, Markdown, PNG
	@$(BIN)/rnn-search report '$(STUDY)' $(ARGS) $(WHERE)

evaluate: $(READY)  ## train the best of STUDY on several seeds, then look at the test part [WORKERS=]
	@$(BIN)/rnn-search evaluate '$(STUDY)' $(TRAINED) $(WHERE)

dashboard: $(READY)  ## look at the studies in a browser, also while they run [PORT=]
	@$(BIN)/rnn-search dashboard $(if $(PORT),--port $(PORT)) $(ARGS) $(WHERE)

test: $(READY)  ## the tests, but the slow ones
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow and not soak'

test-all: $(READY)  ## the slow ones, too
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not soak'

soak: $(READY)  ## a hundred kills at random moments: half an hour
	$(BIN)/python -m pytest -q -m soak

check: $(READY)  ## format, lint, types, import order and other fast checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

bench: $(PEERS_READY)  ## race searches side by side: a short form of bench/RESULTS.md, a quarter of an hour
	$(PEERS)/bin/python -m bench.race short

# What others need lies beside our own packages, on top of them, and never among them.
$(PEERS_READY): $(READY) bench/race/peers.txt
	$(PEERS)/bin/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m venv $(PEERS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -r bench/race/peers.txt
	@touch $(PEERS_READY)

clean:  ## remove what setup and tests made; studies stay
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
