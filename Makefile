# Two commands do everything on a machine with Python >= 3.10 and make:
#   make quickstart   installs into .venv and runs the quick start
#   make test         installs into .venv and runs every check and the default tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= output/quickstart
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: quickstart test lint install install-dev clean

quickstart: $(VENV)/.installed
	$(BIN)/mallowspo quickstart --output_dir $(OUTPUT)

test: $(VENV)/.installed-dev lint
	$(BIN)/pytest -q

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "mallowspo needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
