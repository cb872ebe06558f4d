# The only task list: people and CI call the same targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Idle OpenMP threads sleep instead of spinning: processes here share the cores.
export OMP_WAIT_POLICY := PASSIVE
INSTALLED := $(VENV)/.installed
DEMO_OUT ?= demo

.PHONY: help setup demo test charts cluster-test image-test node-test bench lint version-check format types imports clean

help:  ## list the tasks
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup: $(INSTALLED)  ## make .venv with the pinned packages

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "expected Python 3.11 to 3.13 as '$(PYTHON)': apt-get install python3, or make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' constraints.txt)"
	$(BIN)/uv pip sync --quiet --python $(BIN)/python constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup  ## the main job end to end, small: corpus, training, attack, gate, bundle, server
	$(BIN)/rampart demo --out $(DEMO_OUT)

test: setup  ## all tests, with what was skipped named at the end
	$(BIN)/pytest

charts: setup  ## the chart: unit tests, schemas, alerts, dashboards (tools: tests/cluster/install.sh)
	$(BIN)/pytest tests/charts

# What takes no arguments; attack_scores, deep_image_prior, defences and demo_seeds want a detector or a folder.
BENCHMARKS := adversarial_training blur_flow_cost decode evaluation faces folding loader pgd_crafting \
  prepare_again prepare_scale serving serving_engine serving_soak

cluster-test: setup  ## rollouts, pods and TrainJobs on a real control plane (tools: tests/cluster/install.sh)
	$(BIN)/pytest tests/cluster

image-test: setup  ## build and run the images (root; tools: tests/images/images.sh deps)
	$(BIN)/pytest tests/images

node-test: setup  ## chart, images and pipeline steps on a real node (root, 30 GB; tools: tests/node/install.sh)
	$(BIN)/pytest tests/node

bench: setup  ## measure everything that is published, into benchmarks/results (hours; keep the machine quiet)
	for name in $(BENCHMARKS); do \
	  $(BIN)/python -m benchmarks.$$name --json > benchmarks/results/$$name.json.new \
	    && mv benchmarks/results/$$name.json.new benchmarks/results/$$name.json || exit; \
	done

lint: setup  ## everything that a commit must pass: ruff, spelling, YAML, large files, private keys
	$(BIN)/pre-commit run --all-files

version-check: setup  ## the package, the chart and the changelog name one version
	$(BIN)/pytest -q tests/test_versions.py

format: setup  ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup  ## mypy --strict
	$(BIN)/mypy

imports: setup  ## import contracts
	$(BIN)/lint-imports

clean:  ## remove what the tasks made, except .venv
	rm -rf demo build local_outputs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
