# make demo and make test are all the set-up there is: both make the virtual environment and install what is missing.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo test test-unit test-kernels lint format bench docs clean

help:
	@echo "make demo          boot a small real guest and look inside it from outside"
	@echo "make test          linters and the whole default test run (real guests included)"
	@echo "make test-unit     the pure tests only: seconds, no guest, no root"
	@echo "make test-kernels  the views and the kernel core on every kernel of the matrix"
	@echo "make lint          ruff and mypy --strict"
	@echo "make format        let ruff format the code"
	@echo "make bench         measure against the peers, as ratios in one run"
	@echo "make docs          write man pages and shell completions from the commands' tables"

# The stamp makes a second run quick; a change of pyproject.toml installs again.
$(VENV)/installed: pyproject.toml setup/debian-packages.txt
	setup/debian-packages demo
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@# An editable install is not compiled; the commands' start-up is what that costs.
	$(BIN)/python -m compileall -q src
	touch $@

demo: $(VENV)/installed
	@setup/debian-packages demo
	@$(BIN)/python -m demo

test: $(VENV)/installed lint
	@setup/debian-packages test
	$(PYTEST) -n 2 --dist loadgroup -m 'not matrix and not slow' tests

test-unit: $(VENV)/installed
	$(PYTEST) -q tests/unit

test-kernels: $(VENV)/installed
	@setup/debian-packages test
	$(PYTEST) -n 2 --dist loadgroup -m matrix tests

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed
	@setup/debian-packages bench
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	$(BIN)/python -m bench

docs: $(VENV)/installed
	$(BIN)/python -m docs.generate

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
