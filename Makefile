# `make demo` and `make test` set up all they need; nothing else has to be installed first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test docker-test lint clean

demo: $(VENV)/ready
	$(BIN)/sagdeploy demo --out demo

test: lint
	$(BIN)/pytest -n 2 --dist loadfile

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
	rm -rf $(VENV) demo out
