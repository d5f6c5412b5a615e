SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs=demo/runs store=demo/store
OWN := demo/own

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-own test lint tables compare figures report bench profile clean

help:  ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

setup: $(BIN)/.ready  ## make .venv and install everything into it

$(BIN)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cbseg needs Python 3.11 or newer; set PYTHON=<path>")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## a sweep of losses over phantoms of A, B and C, then tables and pictures (minutes, no download)
	$(BIN)/python -m cbseg.run -m loss=pl,cb_flip,cb_fliprot data=covidA,covidB_sep,covidC_mixed experiment=demo $(DEMO)
	$(BIN)/python -m cbseg.run -m loss=full data=covidA,covidB_sep,covidC_mixed experiment=demo $(DEMO)
	$(BIN)/python -m cbseg.run -m loss=lcfcn,cb_lcfcn data=covidC_mixed experiment=demo $(DEMO)
	$(BIN)/python -m experiments.tables demo/runs
	$(BIN)/python -m experiments.figures demo/runs
	$(BIN)/python -m experiments.report demo/runs

demo-own: setup  ## one's own CT in three commands, on a phantom clinic: clicks in, masks and pictures out
	$(BIN)/python -m cbseg.data.phantom own $(OWN)/my_ct
	$(BIN)/python -m cbseg.data.check own data.root=$(OWN)/my_ct --sheet $(OWN)/check.png
	$(BIN)/python -m cbseg.run data=own data.root=$(OWN)/my_ct experiment=demo_own runs=$(OWN)/runs store=$(OWN)/store
	$(BIN)/python -m cbseg.predict $(OWN)/runs/own/cb_fliprot/seed0,experiment=demo_own \
		$(OWN)/my_ct/chest7.nii.gz $(OWN)/my_ct/patient8 --out $(OWN)/masks --dicom-seg

test: lint  ## lint, then all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tables: setup  ## the paper's tables from runs/, each number beside the paper's
	$(BIN)/python -m experiments.tables runs

figures: setup  ## what each loss predicts and counts, from runs/
	$(BIN)/python -m experiments.figures runs

compare: setup  ## how much each loss differs from the point loss, with intervals, from runs/
	$(BIN)/python -m experiments.compare runs

report: setup  ## one page of everything in runs/: runs/report.html
	$(BIN)/python -m experiments.report runs

bench: setup  ## measure what things cost, beside plain baselines
	$(BIN)/python -m experiments.bench

profile: setup  ## where the time of a training step goes, plain and ours
	$(BIN)/python -m experiments.step_profile

clean:  ## remove .venv, caches and the demo; keep runs/, store/ and data/
	rm -rf .venv demo *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
