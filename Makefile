# Each target sets itself up: it needs Python 3.10+ and make, nothing else.
PYTHON ?= python3
# The versions to install. CI also takes .ci/floors.txt, the oldest that are allowed, and .ci/newest.txt, whatever is new.
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
SHELL := /bin/bash

.PHONY: demo test test-all foreign check docs docs-links format clean

demo: .venv/installed
	$(BIN)/lightning-gap compare f1 small large linear-lr ghost-lr --data digits --trials 4 --workers 2 \
	    --measure_every_n_epochs 30 --sharpness_samples 256

test: .venv/installed-dev
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: .venv/installed-dev
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu"

# Eight projects that train with Lightning, without and with our callbacks: docs/foreign.md. It needs Python 3.11+.
foreign: .venv-foreign/installed
	OMP_NUM_THREADS=1 .venv-foreign/bin/python foreign/run.py

check: .venv/installed-dev build/types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p lightning_gap
	$(BIN)/mypy lightning_gap recipes

# The site, into build/docs/index.html; a warning, or a link inside it that leads nowhere, is an error.
# NOTEBOOKS=force runs the notebooks and shows their outputs.
NOTEBOOKS ?= off
SPHINX = $(BIN)/python -m sphinx -W --keep-going -D nb_execution_mode=$(NOTEBOOKS) -c docs .

docs: .venv/installed-docs
	$(SPHINX) -b html build/docs

# Whether the links to the web work, which needs one.
docs-links: .venv/installed-docs
	$(SPHINX) -b linkcheck build/docs-links

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-foreign build

# The folders as they are installed, `recipes` inside `lightning_gap`, for the type checker.
build/types: lightning_gap recipes
	rm -rf $@ && mkdir -p $@/lightning_gap
	ln -s $(CURDIR)/lightning_gap/* $@/lightning_gap/
	ln -s $(CURDIR)/recipes $@/lightning_gap/recipes

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "lightning-gap needs Python 3.10 or newer; make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"

.venv/installed: pyproject.toml $(CONSTRAINTS) | .venv/bin/pip
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable ".[recipes]"
	touch $@

.venv/installed-dev: pyproject.toml $(CONSTRAINTS) | .venv/bin/pip
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --group dev --editable ".[recipes]"
	touch $@ .venv/installed

.venv/installed-docs: .venv/installed-dev
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --group docs
	touch $@

.venv-foreign/installed: pyproject.toml foreign/requirements.txt
	$(PYTHON) -m venv .venv-foreign
	.venv-foreign/bin/pip install --quiet --upgrade "pip>=25.1"
	.venv-foreign/bin/pip install --quiet --requirement foreign/requirements.txt --editable .
	touch $@
