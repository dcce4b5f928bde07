# make demo: install and run the main job.  make test: install and run the tests.  make check: all linters.
# make bench: install the rivals and measure beside them (about an hour).
# make test-gpu, make bench-gpu: the same on a CUDA device, with the torch and triton of the Python that PYTHON names.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt

# one thread a test process: two OpenMP pools on two cores get in each other's way
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

.PHONY: demo test check bench test-gpu bench-gpu clean

demo: $(VENV)/app
	$(BIN)/gatewright demo --out runs/demo --overwrite

test: $(VENV)/test
	$(TEST)

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pydoclint --quiet src
	$(BIN)/pyright --pythonpath $(BIN)/python

# what bench measures: BENCH=--quick for a first look, BENCH=--resume to go on
BENCH ?=

bench: $(VENV)/bench
	$(BIN)/python benchmarks/parity.py
	$(BIN)/python -m benchmarks.run $(BENCH)
	$(BIN)/python -m benchmarks.run --first-call
	$(BIN)/python -m benchmarks.options
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.memory --flat
	$(BIN)/python -m benchmarks.report

# a torch for CUDA is no matter of ours: the one that is there is used, whatever its version
test-gpu:
	$(PYTHON) -c "import torch, triton, pytest; assert torch.cuda.is_available(), 'no CUDA device'"
	PYTHONPATH=src TRITON_INTERPRET=0 $(PYTHON) -m pytest -p no:cacheprovider tests/backends/gpu

bench-gpu:
	PYTHONPATH=src $(PYTHON) -m benchmarks.gpu $(BENCH)

$(VENV)/app $(VENV)/test $(VENV)/dev $(VENV)/bench: $(VENV)/%: $(INPUTS) | $(BIN)/python
	$(PIP) -e ".[$*]"
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist src/*.egg-info
