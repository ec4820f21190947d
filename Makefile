# `make demo` and `make test` need Python 3.10 or newer and a package index; all else they install.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# PyTorch's build for CUDA, torchvision and the other libraries of networks: several GB.
ZOO := .venv-zoo
METHODS := dense,gem-miner,imp,random,shuffled,reinitialised
DEMO := runs/demo-$(shell date +%Y%m%d-%H%M%S)

# What is installed is tried with: make installed WITH=python3.12 TORCH=2.14.1
WITH ?= $(PYTHON)
TORCH ?= 2.13.0
INSTALLED := build/installed

.PHONY: demo test lint bench soak fuzz mutants some-mutants docs installed zoo clean

demo: $(READY)
	$(BIN)/gemkern race --preset digits --methods $(METHODS) --out $(DEMO)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --cov --cov-report=
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/interpreter
	$(BIN)/python -m benchmarks.covered
	$(MAKE) --jobs 2 --output-sync fuzz some-mutants

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m pytest benchmarks --benchmark-only

soak: $(READY)
	$(BIN)/python -m benchmarks.soak

fuzz: $(READY)
	$(BIN)/python -m benchmarks.fuzz

mutants: $(READY)
	$(BIN)/python -m benchmarks.mutants

some-mutants: $(READY)
	$(BIN)/python -m benchmarks.mutants --sample 4 --processes 1

docs: $(READY)
	$(BIN)/python -m sphinx --fail-on-warning --quiet -b html docs build/docs

installed: $(READY)
	rm -rf $(INSTALLED)
	$(WITH) -m venv $(INSTALLED)
	$(BIN)/python -m build --outdir $(INSTALLED)/dist .
	$(INSTALLED)/bin/python -m pip install --quiet torch==$(TORCH) "$$(echo $(INSTALLED)/dist/*.whl)[demo]"
	cd $(INSTALLED) && bin/gemkern race --preset digits --budget 0.2 --seeds 1 --methods $(METHODS) --out race

zoo: $(ZOO)/ready
	$(ZOO)/bin/python -m benchmarks.zoo

clean:
	rm -rf $(VENV) $(ZOO) build dist *.egg-info

$(READY): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev,gpu]'
	touch $(READY)

$(ZOO)/ready: setup.py pyproject.toml constraints.txt benchmarks/zoo/requirements.txt
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/python -m pip install --quiet --constraint constraints.txt --requirement benchmarks/zoo/requirements.txt --editable .
	touch $(ZOO)/ready
