# `make serve` and `make test` do everything on a machine with Python 3.11 and make.
#   TORCH_INDEX=URL    another index for torch's wheel alone, for example one with CPU builds
#   ACCELERATOR=gpu    ONNX Runtime for CUDA beside the CPU
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH_INDEX ?=
ACCELERATOR ?= cpu
RUNS ?= runs
STORE ?= model_store
SERVER_HOME ?= server_home

VENV := .venv
PY := $(VENV)/bin/python
EIDETIC := $(VENV)/bin/eidetic
PIP := $(PY) -m pip --disable-pip-version-check
CONSTRAINTS := -c requirements/constraints.txt
# One process more than there are cores, since tests of servers wait for them; four at most.
PROCESSES := $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 3 ? cores + 1 : 4)))
PARALLEL := -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
# The larger parts of libraries that nothing here imports: compiling them takes as long as all of torch
NOT_IMPORTED := /tests/|/transformers/models/|/mypyc?/|/ray/(rllib|data|tune|train|llm)/|/torch/testing/|/networkx/
TYPES := $(VENV)/types
CODE := $(TYPES)/eideticnet handlers benchmarks

# torch and matplotlib keep caches in /tmp or in the user's home otherwise, and leave them there
export TORCHINDUCTOR_CACHE_DIR := $(CURDIR)/$(VENV)/cache
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/cache/matplotlib
# Processes that tests start read what others have compiled
unexport PYTHONDONTWRITEBYTECODE
# ONNX Runtime's official builds report usage to their maker unless told not to
export ORT_DISABLE_TELEMETRY := 1

# Types are checked on one core; asked for both, make lets tests run beside that
ifeq ($(filter check test,$(MAKECMDGOALS)),check test)
MAKEFLAGS += --jobs=2
unexport MAKEFLAGS
endif

.PHONY: setup serve report experiments test test-all test-gpu types check format docs loadtest clean FORCE

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml setup.py requirements/constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v != (3, 11) and \
	  f"Python 3.11 is needed, {sys.executable} is {v[0]}.{v[1]}; run make with PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q $(CONSTRAINTS) pip
	$(if $(TORCH_INDEX),$(PIP) install -q $(CONSTRAINTS) --no-deps --index-url $(TORCH_INDEX) torch)
	$(PIP) install -q --no-compile $(CONSTRAINTS) -e '.[$(ACCELERATOR),train,report,export,serve,ray,demo,sign,loadtest,experiments,docs,dev]'
	@# pip compiles on one core, and all that nobody imports too; what can't be compiled is for other Pythons
	@$(PY) -m compileall -qq -j 0 -x '$(NOT_IMPORTED)' $(VENV)/lib || true
	@touch $@

# Training goes on where it stopped and does nothing when it is complete, so it is always asked.
# Precious, because make deletes a target whose recipe is interrupted: half a run is worth keeping.
.PRECIOUS: $(RUNS)/digits/network.json
$(RUNS)/digits/network.json: FORCE | setup
	@$(EIDETIC) train experiments/digits.toml --out $(RUNS)/digits

$(RUNS)/digits/report.html: $(RUNS)/digits/network.json $(wildcard eideticnet/*.py eideticnet/*/*.py eideticnet/*/*.html)
	@$(EIDETIC) report $(RUNS)/digits

report: $(RUNS)/digits/report.html

# The archive's name holds its version, so a file beside it remembers the name.
$(STORE)/.digits: $(RUNS)/digits/network.json $(wildcard eideticnet/*.py eideticnet/*/*.py export/*.py export/*/*.py handlers/*.py handlers/*/*.py)
	@mkdir -p $(STORE)
	@archive="$$($(EIDETIC) export $(RUNS)/digits --store $(STORE) --replace)" && echo "$$archive" > $@

ifeq ($(wildcard $(shell cat $(STORE)/.digits 2>/dev/null)),)
$(shell rm -f $(STORE)/.digits)
endif

serve: $(STORE)/.digits $(RUNS)/digits/report.html
	@exec $(EIDETIC) serve "$$(cat $(STORE)/.digits)" --home $(SERVER_HOME) --replace

# A minute of load with a deploy in the middle: the same network once more, as version 5.1.
loadtest: $(STORE)/.digits
	@rm -rf $(RUNS)/loadtest_home  # which serves what was deployed last
	@next="$$($(EIDETIC) export $(RUNS)/digits --store $(RUNS)/loadtest_store --model-version 5.1 --replace)" && \
	$(EIDETIC) serve "$$(cat $(STORE)/.digits)" --home $(RUNS)/loadtest_home --replace \
	  --run "$(EIDETIC) loadtest --deploy $$next --accept-unmeasured-routing"

test: setup types
	$(PY) -m pytest $(PARALLEL)

test-all: setup types
	HYPOTHESIS_PROFILE=all $(PY) -m pytest $(PARALLEL) -m ''

# With ACCELERATOR=gpu, on a machine with CUDA: a test that finds none fails here instead of being skipped.
test-gpu: setup
	EIDETIC_GPU=1 $(PY) -m pytest -m gpu

# The paper's experiments that are made for a CPU, each from where it was. EIDETIC_DATA names the folder of data.
EXPERIMENTS ?= mnist5 cifar10_5 cifar10_5_conv mnist5_memory mnist5_k0 mnist5_scores cifar10_5_scores steps pmnist10 grid_pmnist \
  pmnist_rates cifar10_5_pretrained cifar10_5_pretrained_k0 digits_grow
experiments: setup
	@for name in $(EXPERIMENTS); do $(EIDETIC) experiment $$name --results experiments/results || exit; done

# mypy does not follow pyproject's package-dir, but it follows links.
types: FORCE | setup
	@rm -rf $(TYPES) && mkdir $(TYPES)
	@cp -rs $(CURDIR)/eideticnet $(TYPES)/
	@cp -rs $(CURDIR)/export $(CURDIR)/serving $(CURDIR)/loadtest $(CURDIR)/experiments $(TYPES)/eideticnet/
	@mv $(TYPES)/eideticnet/serving/client $(TYPES)/eideticnet/client

check: setup types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy $(CODE)

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The site goes to site/; two of its pages are generated from the code, and committed.
docs: setup types
	$(PY) docs/reference.py
	$(PY) -m zensical build --clean --strict

# The servers that this one is compared with live in an environment of their own.
.venv-peers/installed: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip --disable-pip-version-check install -q -r $<
	@touch $@

# The continual methods that networks are compared with come from Avalanche, in an environment of its own.
BASELINES := .venv-baselines/bin/python -m pip --disable-pip-version-check install -q $(CONSTRAINTS)
.venv-baselines/installed: experiments/baselines/requirements.txt requirements/constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv-baselines
	$(if $(TORCH_INDEX),$(BASELINES) --no-deps --index-url $(TORCH_INDEX) torch torchvision==0.28.0)
	$(BASELINES) -r $< -e '.[cpu,train,experiments]'
	@touch $@

bench-serving bench-ray: bench-%: setup .venv-peers/installed
	$(PY) -m benchmarks.$*

bench-%: setup
	$(PY) -m benchmarks.$*

clean:
	rm -rf $(VENV) .venv-peers .venv-baselines runs server_home build dist site *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f model_store/*.mar model_store/.digits
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
