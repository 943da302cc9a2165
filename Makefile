# mswitch: `make demo` runs the main job, `make test` the tests; both set up what they need.

# Python 3.11 or 3.12 where there is one: newer ones may have to compile a dependency.
PYTHON ?= $(shell for top in 12 99; do for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $$top))" 2>/dev/null \
	&& { echo $$p; exit; }; done; done)
BIN := .venv/bin
READY := .venv/ready

.PHONY: help setup demo test lint format bench bench-langid test-kill requirements clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(READY)  ## Make the environment in .venv (pinned, hashed requirements)

$(READY): requirements.txt requirements-setup.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "mswitch needs Python 3.11 or newer: install it, or give PYTHON=/path/to/python"; exit 2; }
	@echo "[setup] environment in .venv, with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-setup.txt
	@$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements.txt
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@
	@echo "[setup] ready"

demo: $(READY)  ## The whole chain, from a crawl to a per-language speed-up report
	@$(BIN)/mswitch demo $(DEMO_OPTIONS)

test: $(READY)  ## All tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)  ## Style, types, import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports

format: $(READY)  ## Reformat the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test-kill: $(READY)  ## Kill the demo at every fault point and at random moments, compare bytes
	@$(BIN)/python -m pytest tests/flows/kill_demo.py -s --timeout 7200

bench-langid: $(READY)  ## Language identification on labelled text: writes the table into docs/
	@$(BIN)/python tests/benchmarks/langid.py

requirements: $(READY)  ## Pin again what pyproject.toml asks for
	@export UV_CUSTOM_COMPILE_COMMAND="make requirements"; \
	compile="$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate"; \
	$$compile pyproject.toml --extra train --extra flows --extra dev --output-file requirements.txt && \
	$$compile pyproject.toml --constraint requirements.txt --output-file requirements-base.txt && \
	grep -E '^uv==' requirements.txt | sed 's/ .*//' | $$compile - --output-file requirements-setup.txt

clean:  ## Remove the environment and caches (runs/ stays)
	@rm -rf .venv build *.egg-info .ruff_cache .pytest_cache
