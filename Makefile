# The menu. `make demo` and `make test` each set up everything they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# more threads each would only wait for each other; neighbours stay with one worker, which makes their files once
WORKERS := -n 2 --dist worksteal
# commands that tests start begin with compiled code, as installed ones do, whatever the shell asks for
export PYTHONDONTWRITEBYTECODE :=

OLDEST := tests/test_masks.py tests/test_encodings.py tests/test_gating.py tests/test_rendering.py tests/test_configuration.py \
  tests/test_onnx_reading.py tests/test_onnx_shapes.py tests/test_inspection.py tests/test_hardening.py tests/test_simulation.py tests/test_public_names.py

.PHONY: help demo demo-mcu test test-oldest test-wide test-slow check docs calibrate compat compat-onnx ethos-u tflm coreai fuzz verify-changes chaos emulator clean
help:  ## this list
	@grep -hE '^[a-z% -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## train, prune, export, verify, simulate and gate a model on real digits
	$(BIN)/python -m sample_models.demo

demo-mcu: $(STAMP)  ## two small networks onto an Ethos-U and TensorFlow Lite Micro, in an environment with both extras
	$(call beside,$(VENV)-mcu)
	$(VENV)-mcu/bin/python -m pip install --quiet --quiet --constraint constraints.txt 'ethos-u-vela>=5.2,<5.3' tflite-micro
	$(VENV)-mcu/bin/python -m sample_models.mcu

test: $(STAMP)  ## the test suite; of wide tables a tenth of the rows
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS)

test-oldest:  ## the core's tests with the oldest versions that pyproject.toml promises, in an environment of their own
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt . pytest pytest-xdist hypothesis jsonschema pyyaml scikit-learn pillow
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest $(WORKERS) $(OLDEST)

test-wide: $(STAMP)  ## every row of wide tables, a quarter of an hour or more
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) -m 'wide and not slow'

test-slow: $(STAMP)  ## the suites that take minutes
	$(BIN)/python -m pytest -m slow

check: $(STAMP)  ## lint, types, doctests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --doctest-modules idp_deploy tests/test_architecture.py -q

docs: $(STAMP)  ## what is generated (docs/cli.md, schemas, the import table), then the site: build/site/index.html
	$(BIN)/python -m idp_deploy.cli.reference > docs/cli.md
	for name in configuration report baseline manifest; do $(BIN)/python -m idp_deploy schema $$name -o docs/schemas/$$name.schema.json; done
	$(BIN)/python -m tests.test_architecture
	$(BIN)/python -m mkdocs build --strict --quiet

calibrate: $(STAMP)  ## refit the cost model from targets/measurements
	$(BIN)/python -m idp_deploy.simulation.calibration

bench-%: $(STAMP)  ## one claim measured again: bench-sizes, bench-latency, bench-overhead, …
	$(BIN)/python -m bench.$(subst -,_,$*)

compat: $(STAMP)  ## exported files in other releases of onnxruntime and tflite-runtime, each in its own environment
	$(BIN)/python -m bench.compat
	$(BIN)/python -m bench.compat_tflite

compat-onnx: $(STAMP)  ## exported .onnx files in OpenVINO, OpenCV, MNN and others, each in its own environment
	$(BIN)/python -m bench.compat_onnx

# an environment of its own that also finds the packages of $(VENV), whatever leads there
define beside
$(PYTHON) -m venv $(1)
echo "import site; site.addsitedir('$$(echo $(abspath $(VENV))/lib/python*/site-packages)')" > \
  $$(echo $(1)/lib/python*/site-packages)/base.pth
endef

ethos-u: PACKAGE := ethos-u-vela>=5.2,<5.3
tflm: PACKAGE := tflite-micro
ethos-u tflm: $(STAMP)  ## the extra of that name in an environment of its own, and its tests
	$(call beside,$(VENV)-$@)
	$(VENV)-$@/bin/python -m pip install --quiet --quiet --constraint constraints.txt '$(PACKAGE)'
	OMP_NUM_THREADS=1 $(VENV)-$@/bin/python -m pytest tests/test_$(subst -,_,$@).py

coreai: $(STAMP)  ## Core AI's libraries and the vendor's own tool in an environment of their own, and the tests of that format
	$(PYTHON) -m venv $(VENV)-coreai
	$(VENV)-coreai/bin/python -m pip install --quiet --quiet --constraint constraints.txt torch
	$(VENV)-coreai/bin/python -m pip install --quiet --quiet --constraint constraints.txt --editable '.[dev,coreai]' coreai-opt==0.3.0
	OMP_NUM_THREADS=1 $(VENV)-coreai/bin/python -m pytest $(WORKERS) tests/test_coreai.py tests/test_coreai_run.py

fuzz: $(STAMP)  ## damaged files of eight kinds, 10,000 each (CASES=10000 SEED=1), in child processes with limits
	$(BIN)/python -m tests.fuzzing.campaign --cases $(or $(CASES),10000) --seed $(or $(SEED),1)

verify-changes: $(STAMP)  ## 2,000 changed bits and values of every format and scheme, sealed anew or not: none that matters passes
	$(BIN)/python -m tests.fuzzing.changes --cases $(or $(CASES),2000) --seed $(or $(SEED),1)

chaos: $(STAMP)  ## commands that are killed, find the disk full, meet or lose a worker (KILLS=200 SEED=1)
	$(BIN)/python -m tests.chaos.killing --kills $(or $(KILLS),200) --seed $(or $(SEED),1)

emulator: $(STAMP)  ## what `simulate --emulate` needs, in a private folder
	PYTHON=$(abspath $(BIN)/python) emulator/setup.sh

clean:  ## remove what was built (not the environment)
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
