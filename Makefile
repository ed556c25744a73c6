# `make demo` and `make test` set up all they need; nothing else has to be installed first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test bench fuzz durability docs docker-test lint clean

demo: $(VENV)/ready
	$(BIN)/sagdeploy demo --out demo

test: lint
	$(BIN)/pytest -n 2 --dist loadfile

# On a machine with little else to do; about an hour on two cores: make bench ONLY="reader slide"
bench: $(VENV)/ready
	$(BIN)/python benchmarks/all.py $(if $(ONLY),--only $(ONLY))

# Damaged slides by the thousand, given to `predict`: make fuzz CASES=10000 SEED=1
CASES ?= 500
fuzz: $(VENV)/ready
	$(BIN)/python -m benchmarks.fuzz --cases $(CASES) $(if $(SEED),--seed $(SEED))

# A run killed at every step and system call that writes, and a hundred times at random.
durability: $(VENV)/ready
	SAGDEPLOY_THOROUGH=1 $(BIN)/pytest -n 2 tests/durability

docs: $(VENV)/ready
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build
	@echo open docs/_build/index.html

# docker/try.sh says what it needs, root and a Docker engine's programs among it.
docker-test: $(VENV)/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" docker/try.sh

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/ready: pyproject.toml constraints.txt hatch_build.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo out docs/_build docs/api
