# Two commands are all it takes: `make chat` and `make test`. `make parity` compares
# with PyTorch, in an environment of its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PARITY := .venv-parity
# Options for pip there, as `make parity PARITY_PIP="--constraint FILE"`. On Linux PyPI's
# torch brings CUDA with it (5 GB); PyTorch's own index has a build without:
# PARITY_PIP="--extra-index-url https://download.pytorch.org/whl/cpu"
PARITY_PIP ?=

.PHONY: chat test mutants parity lint format docs clean

chat: $(VENV)/installed
	$(BIN)/fastvlm-mlx chat examples/number.png -p "Describe the image." --model demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Changes the core's code in small ways and counts which changes a test notices.
mutants: $(VENV)/installed-mutants
	$(BIN)/python -m tests.support.mutants

parity: $(PARITY)/installed
	$(PARITY)/bin/python -m pytest -m parity -rP

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The generated pages: docs/cli.md from --help, docs/api.md from the docstrings.
docs: $(VENV)/installed-dev
	$(BIN)/python -m tests.app.test_help
	$(BIN)/python -m tests.support.make_api_page

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

# `pip install --group` needs pip 25.1; `make` works with the pip of any Python >= 3.10.
$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev --editable '.[coreml,serve]'
	touch $@

$(VENV)/installed-mutants: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group mutants
	touch $@

$(PARITY)/installed: pyproject.toml
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check $(PARITY_PIP) --group dev --group parity --editable '.[coreml,serve]'
	$(PARITY)/bin/python -c "import timm, torch, transformers"
	touch $@

clean:
	rm -rf $(VENV) $(PARITY) build dist *.egg-info
