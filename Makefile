# Two commands are all it takes: `make chat` and `make test`. `make train` teaches the
# demo model something; `make parity` compares with PyTorch, in an environment of its own.
# The first Python that fits; `make chat PYTHON=/path/to/python` names another. 3.14 is
# last: coremltools has no build for it yet.
FITS = import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(1)))
find = for p in $(1); do "$$p" -c '$(call FITS,$(2))' 2>/dev/null && echo "$$p" && break; done
PYTHON ?= $(shell { $(call find,python3 python3.13 python3.12 python3.11,13); \
	$(call find,python3 python3.14,99); } | head -n 1)
NO_PYTHON = error: $(or $(PYTHON),python3): not a Python from 3.11 on; install one ("brew install python@3.13" on a Mac) or name it: make chat PYTHON=/path/to/python3.13
VENV := .venv
BIN := $(VENV)/bin
PARITY := .venv-parity
# Options for pip there, as `make parity PARITY_PIP="--constraint FILE"`. On Linux PyPI's
# torch brings CUDA with it (5 GB); PyTorch's own index has a build without:
# PARITY_PIP="--extra-index-url https://download.pytorch.org/whl/cpu"
PARITY_PIP ?=

.PHONY: chat train test check-mac mutants parity lint format docs clean

chat: $(VENV)/installed
	$(BIN)/fastvlm-mlx chat examples/number.png -p "Describe the image." --model demo

# docs/training.md tells what this does, and how well.
train: $(VENV)/installed
	$(BIN)/python examples/draw_flags.py build/flag-images
	$(BIN)/fastvlm-mlx train demo build/flag-images/train --out build/flags --overwrite \
	    --epochs 24 --batch 8 --lr 2e-3 --projector --projector-lr 2e-4 --patience 8 \
	    --plot build/flags.png
	$(BIN)/fastvlm-mlx chat build/flag-images/test/003.png --model demo \
	    --adapter build/flags -p "Which country's flag is this?"

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Changes the core's code in small ways and counts which changes a test notices.
mutants: $(VENV)/installed-dev
	$(BIN)/python -m tests.support.mutants

parity: $(PARITY)/installed
	$(PARITY)/bin/python -m pytest -m parity -rP

# Tests in which the type of the numbers matters.
NUMBERS := $(addprefix tests/,model generation conversation adapters train test_demo.py)

# What can be known of a Mac without one: docs/mac.md. Needs a package index.
check-mac: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group mac
	$(BIN)/python -m pytest -m mac tests/mac
	$(BIN)/python -m tests.mac.pretend float16 --numprocesses 2 --dist loadfile
	$(BIN)/python -m tests.mac.pretend bfloat16 --numprocesses 2 --dist loadfile $(NUMBERS)
	$(BIN)/python -m tests.mac.lowest_versions

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/pyright --pythonplatform Darwin

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The generated pages: docs/cli.md from --help, docs/api.md from the docstrings.
docs: $(VENV)/installed-dev
	$(BIN)/python -m tests.app.test_help
	$(BIN)/python -m tests.support.make_api_page

# One that was interrupted, or made by a Python that does not fit, is made anew.
$(VENV)/made:
	@$(BIN)/python -c 'import pip; $(call FITS,99)' 2>/dev/null || { \
	    "$(PYTHON)" -c '$(call FITS,99)' 2>/dev/null || { echo '$(NO_PYTHON)' >&2; exit 1; }; \
	    "$(PYTHON)" -m venv --clear $(VENV); }
	@touch $@

$(VENV)/installed: pyproject.toml $(VENV)/made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu]'
	touch $@

# `pip install --group` needs pip 25.1; `make` works with the pip of any Python >= 3.11.
$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev --editable '.[cpu,serve]'
	touch $@

$(PARITY)/installed: pyproject.toml $(VENV)/made
	$(BIN)/python -m venv --clear $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check $(PARITY_PIP) --group dev --group parity --editable '.[cpu,serve]'
	$(PARITY)/bin/python -c "import peft, timm, torch, transformers"
	touch $@

clean:
	rm -rf $(VENV) $(PARITY) build dist *.egg-info
