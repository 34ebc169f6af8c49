# Each target works alone on a machine that has Python (>= 3.11), venv and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What a lock names, by its hashes and as wheels: so no package runs code when it is installed. Then
# the project itself, built with what locks/build.txt names. pip brings uv, which brings the rest in a
# fraction of pip's time, from the registry that pip is configured for where it is told no other.
HASHED := --require-hashes --only-binary :all:
define install
	$(1)/bin/python -m pip --disable-pip-version-check --quiet install $(HASHED) --requirement locks/uv.txt
	UV_DEFAULT_INDEX=$${UV_DEFAULT_INDEX-$${PIP_INDEX_URL-$$($(1)/bin/python -m pip config get global.index-url 2>/dev/null)}} \
		$(1)/bin/uv --quiet pip install --python $(1) --system-certs $(HASHED) --requirement locks/build.txt --requirement $(2)
	$(1)/bin/uv --quiet pip install --python $(1) --no-deps --no-build-isolation --editable .
	touch $@
endef
SOURCES := schema engine indexes serving bench loadtest tests hatch_build.py
# Tests start hundreds of processes, and each would compile the whole product anew.
unexport PYTHONDONTWRITEBYTECODE
# Two more than there are cores, of four at most: many tests wait for processes that they started.
WORKERS := $(shell cores=$$(nproc); echo $$((cores < 4 ? cores + 2 : 4)))

# One lock for each set of extras, named after it. The first has all that the tests run with, and the
# others the same versions.
LOCKS := cpu+dev cpu+demo cpu+demo+postgres+test \
	$(foreach runtime,cpu openvino gpu,$(runtime)+serve+desk+postgres+tracing)

CLIENT := serving/client/client.py

.PHONY: demo test test-other check format client contract docs lock clean

demo: $(VENV)/.demo
	$(BIN)/sosie demo

# One Ray cluster at a time, and what is measured there needs the cores: so these go alone. A new file
# there goes alone too, unless it is named here as one that starts no Ray.
CLUSTER := tests/serving/cluster
NO_RAY := $(patsubst %,$(CLUSTER)/test_%.py,application deployments environment haproxy \
	proxy_metrics registrar_client restarts supervisor)
ALONE := $(filter-out $(NO_RAY),$(sort $(wildcard $(CLUSTER)/test_*.py)))
# In their order: pytest-xdist would leave files of few tests, some of them the longest, to the end.
test: $(VENV)/.dev $(CLIENT)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ALONE:%=--ignore %)
	$(BIN)/python -m pytest $(ALONE)

# What needs few packages, on another Python than that of $(VENV): CI runs it where there is one.
# On SQLite alone: what differs between Pythons is not in the server.
# One process: several would compile the same kernels, each for itself.
OTHER_PYTHON ?= /usr/bin/python3
OTHER := .venv-other
test-other: $(OTHER)/.short
	$(OTHER)/bin/python -m pytest -m "not slow and not lfw and not gpu" -k "not postgres" \
		tests/indexes/exact tests/engine/registry/test_store.py tests/engine/registry/test_vault.py

$(OTHER)/.short: pyproject.toml locks/cpu+demo+postgres+test.txt
	$(OTHER_PYTHON) -m venv $(OTHER)
	$(call install,$(OTHER),locks/cpu+demo+postgres+test.txt)

check: $(VENV)/.dev $(CLIENT)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/openapi_changes.py .ci/openapi_v1.json

format: $(VENV)/.dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

# The installation makes it too; here it follows a change of async_client.py.
client: $(CLIENT)
$(CLIENT): serving/client/async_client.py hatch_build.py | $(VENV)/.dev
	$(BIN)/python hatch_build.py

# At a release: what version 1 has got since is kept, too.
contract: $(VENV)/.dev
	$(BIN)/python .ci/openapi_changes.py .ci/openapi_v1.json
	$(BIN)/python .ci/openapi_changes.py --write .ci/openapi_v1.json

# Figures and pictures of README.md and docs, rendered from bench/reports.
docs: $(VENV)/.dev
	$(BIN)/sosie bench docs

# After a change of requirements: what is locked stays. `make lock UPGRADE=--upgrade` renews all.
UPGRADE :=
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --system-certs $(UPGRADE) \
	--generate-hashes --no-annotate --no-emit-index-url --custom-compile-command 'make lock'
AS_FIRST = --constraint locks/$(firstword $(LOCKS)).txt
lock: $(VENV)/.dev
	$(foreach set,$(LOCKS),$(COMPILE) $(if $(filter $(firstword $(LOCKS)),$(set)),,$(AS_FIRST)) \
		$(patsubst %,--extra %,$(subst +, ,$(set))) --output-file locks/$(set).txt pyproject.toml &&) \
	echo hatchling editables unasync | tr ' ' '\n' | $(COMPILE) $(AS_FIRST) --output-file locks/build.txt - && \
	echo uv | $(COMPILE) $(AS_FIRST) --output-file locks/uv.txt -

clean:
	rm -rf $(VENV) $(OTHER) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml locks/cpu+demo.txt | $(VENV)/bin/python
	$(call install,$(VENV),locks/cpu+demo.txt)

$(VENV)/.dev: pyproject.toml locks/cpu+dev.txt | $(VENV)/bin/python
	$(call install,$(VENV),locks/cpu+dev.txt)
