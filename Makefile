# One command per wish. Everything is installed into .venv, once; a second run starts at once.

# the first interpreter that is 3.10 or newer; `make PYTHON=/path/to/python3.12 ...` picks another
NEWER := import sys; sys.exit(sys.version_info < (3, 10))
PYTHON ?= $(firstword $(foreach name,python3.11 python3 python3.12 python3.13 python3.10,\
	$(shell $(name) -c "$(NEWER)" >/dev/null 2>&1 && echo $(name))))
# more options for pip, for example PyTorch's CPU wheels where there is no GPU:
#   make quickstart PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
# more options for venv; on a Jetson and in NVIDIA's containers TensorRT is in the system's packages:
#   make install VENV_FLAGS=--system-site-packages
VENV_FLAGS ?=

# TensorRT-RTX, a wheel of 95 MB, builds TensorRT's engines on any machine; `make quickstart RTX=` leaves it out
RTX ?= $(if $(filter Linux_x86_64,$(shell uname -sm | tr ' ' _)),rtx)

VENV := .venv
BIN := $(VENV)/bin
COMMA := ,
RUN_EXTRAS := torch,openvino,report$(if $(RTX),$(COMMA)$(RTX))
TEST_EXTRAS := $(RUN_EXTRAS),serve,bench,docs,dev
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help quickstart install test lint types docs bench gpu-check arm64-check release-check clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

quickstart: $(VENV)/.run ## install what it needs, then run the whole pipeline on the embedded model into quickstart/
	$(BIN)/resnetrt quickstart --out quickstart

install: $(VENV)/.dev ## install everything that the tests need into .venv

test: $(VENV)/.dev ## run all tests (PYTEST_FLAGS="-k fold" picks some)
	$(BIN)/pytest -q -n 2 --dist loadfile --max-worker-restart 0 $(PYTEST_FLAGS)

lint: $(VENV)/.dev ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy --strict over every source file
	$(BIN)/python tests/typecheck.py

docs: $(VENV)/.dev ## the documentation as a site, in build/site; a warning or a broken link is an error
	$(BIN)/python -m sphinx -q -W -E -b html -c docs . build/site
	@echo "build/site/index.html"

DEPTHS ?= 18,34,50,101,152
bench: $(VENV)/.run ## latency against depth beside eager PyTorch (DEPTHS=18,50)
	$(BIN)/resnetrt bench --depths $(DEPTHS)

# more options, such as GPU_CHECK_FLAGS="--only graph --minutes 3"
GPU_CHECK_FLAGS ?=
gpu-check: $(VENV)/.run ## all that this machine's GPU can run, into gpu-check.json; without a GPU, why nothing ran
	$(BIN)/python -m resnetrt.benchmarks.gpu gpu-check.json $(GPU_CHECK_FLAGS)

arm64-check: $(VENV)/.dev ## load, self-test, infer and serve on an emulated arm64 (needs qemu-user-static)
	$(BIN)/python tests/arm64_check.py

release-check: $(VENV)/.dev ## build wheel and sdist, install both into new environments, quickstart from the wheel
	$(BIN)/python tests/release_check.py

clean: ## remove what was built or measured here
	rm -rf build quickstart *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## also remove .venv
	rm -rf $(VENV)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: expected Python 3.10 or newer, found $$(python3 --version 2>&1);" \
		"install python3.11 or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV_FLAGS) $(VENV) || { rm -rf $(VENV); echo "make: $(PYTHON) can't create $(VENV);" \
		"on Debian install the package python3-venv" >&2; exit 1; }

# order-only: a venv is made once, whatever its interpreter's date
$(VENV)/.run: $(REQUIREMENTS) | $(BIN)/python
	@echo "installing resnetrt[$(RUN_EXTRAS)] into $(VENV): some minutes the first time"
	@$(INSTALL) --editable '.[$(RUN_EXTRAS)]'
	@touch $@

$(VENV)/.dev: $(REQUIREMENTS) | $(BIN)/python
	@echo "installing resnetrt[$(TEST_EXTRAS)] into $(VENV): some minutes the first time"
	@$(INSTALL) --editable '.[$(TEST_EXTRAS)]'
	@touch $(VENV)/.run $@
