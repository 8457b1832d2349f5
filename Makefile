# Each target sets itself up: it needs Python 3.10+ and make, nothing else.
PYTHON ?= python3
# The versions to install. CI also takes .ci/floors.txt, the oldest that are allowed, and .ci/newest.txt, whatever is new.
CONSTRAINTS ?= constraints.txt
VENV ?= .venv
BIN := $(VENV)/bin
SHELL := /bin/bash

.PHONY: demo test test-all test-floor test-newest foreign check benchmarks benchmarks-check docs docs-links format clean

demo: $(VENV)/installed
	$(BIN)/lightning-gap compare f1 small large linear-lr ghost-lr --data digits --trials 4 --workers 2 \
	    --measure_every_n_epochs 30 --sharpness_samples 256

test: $(VENV)/installed-dev
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/installed-dev
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu"

# On the oldest versions that are allowed, and on the newest there are: each in an environment of its own, of 5 GB.
FLOOR_PYTHON ?= python3.10
NEWEST_PYTHON ?= python3.13

test-floor:
	$(MAKE) VENV=build/floor PYTHON=$(FLOOR_PYTHON) CONSTRAINTS=.ci/floors.txt test

test-newest:
	$(MAKE) VENV=build/newest PYTHON=$(NEWEST_PYTHON) CONSTRAINTS=.ci/newest.txt test

# Eight projects that train with Lightning, without and with our callbacks: docs/foreign.md. It needs Python 3.11+.
foreign: build/foreign/installed
	OMP_NUM_THREADS=1 build/foreign/bin/python foreign/run.py

check: $(VENV)/installed-dev build/types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p lightning_gap
	$(BIN)/mypy lightning_gap recipes

# Ours beside peers, which it installs: the table of docs/benchmarks.md, in about eight minutes on two idle cores.
benchmarks: $(VENV)/installed-benchmarks
	$(BIN)/python benchmarks/against_peers.py

# Whether ours has become slow beside peers: few rows, generous bounds, ratios alone.
benchmarks-check: $(VENV)/installed-dev
	$(BIN)/python benchmarks/against_peers.py --check true

# The site, into build/docs/index.html; a warning, or a link inside it that leads nowhere, is an error.
# NOTEBOOKS=force runs the notebooks and shows their outputs.
NOTEBOOKS ?= off
SPHINX = $(BIN)/python -m sphinx -W --keep-going -D nb_execution_mode=$(NOTEBOOKS) -c docs .

docs: $(VENV)/installed-docs
	$(SPHINX) -b html build/docs

# Whether the links to the web work, which needs one.
docs-links: $(VENV)/installed-docs
	$(SPHINX) -b linkcheck build/docs-links

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build

# The folders as they are installed, `recipes` inside `lightning_gap`, for the type checker.
build/types: lightning_gap recipes
	rm -rf $@ && mkdir -p $@/lightning_gap
	ln -s $(CURDIR)/lightning_gap/* $@/lightning_gap/
	ln -s $(CURDIR)/recipes $@/lightning_gap/recipes

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "lightning-gap needs Python 3.10 or newer; make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"

$(VENV)/installed: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable ".[recipes]"
	touch $@

$(VENV)/installed-dev: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --group dev --editable ".[recipes]"
	touch $@ $(VENV)/installed

$(VENV)/installed-benchmarks: $(VENV)/installed-dev
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --group benchmarks
	touch $@

$(VENV)/installed-docs: $(VENV)/installed-dev
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --group docs
	touch $@

build/foreign/installed: pyproject.toml foreign/requirements.txt
	$(PYTHON) -m venv build/foreign
	build/foreign/bin/pip install --quiet --upgrade "pip>=25.1"
	build/foreign/bin/pip install --quiet --requirement foreign/requirements.txt --editable .
	touch $@
