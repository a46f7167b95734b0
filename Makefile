# The menu. `make demo` and `make test` each set up everything they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test test-slow check docs calibrate compat compat-onnx fuzz emulator clean
help:  ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## train, prune, export, verify, simulate and gate a model on real digits
	$(BIN)/python -m sample_models.demo

test: $(STAMP)  ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2  # two workers: more threads each would only wait for each other

test-slow: $(STAMP)  ## the suites that take minutes
	$(BIN)/python -m pytest -m slow

check: $(STAMP)  ## lint, types, doctests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --doctest-modules idp_deploy tests/test_architecture.py -q

docs: $(STAMP)  ## docs/cli.md, made from --help, and the import table
	$(BIN)/python -m idp_deploy.cli.reference > docs/cli.md
	for name in configuration report baseline manifest; do $(BIN)/python -m idp_deploy schema $$name -o docs/schemas/$$name.schema.json; done
	$(BIN)/python -m tests.test_architecture

calibrate: $(STAMP)  ## refit the cost model from targets/measurements
	$(BIN)/python -m idp_deploy.simulation.calibration

bench-%: $(STAMP)  ## one claim measured again: bench-sizes, bench-latency, bench-overhead, …
	$(BIN)/python -m bench.$(subst -,_,$*)

compat: $(STAMP)  ## exported files in other releases of onnxruntime and tflite-runtime, each in its own environment
	$(BIN)/python -m bench.compat
	$(BIN)/python -m bench.compat_tflite

compat-onnx: $(STAMP)  ## exported .onnx files in OpenVINO, OpenCV, MNN and others, each in its own environment
	$(BIN)/python -m bench.compat_onnx

fuzz: $(STAMP)  ## damaged files of eight kinds, 10,000 each (CASES=10000 SEED=1), in child processes with limits
	$(BIN)/python -m tests.fuzzing.campaign --cases $(or $(CASES),10000) --seed $(or $(SEED),1)

emulator: $(STAMP)  ## what `simulate --emulate` needs, in a private folder
	PYTHON=$(abspath $(BIN)/python) emulator/setup.sh

clean:  ## remove what was built (not the environment)
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
