# Everything runs in .venv, which `make install` sets up; a second call starts at once.
PYTHON ?= python3
# Installed before the rest, so that no other package chooses a build for us.
TORCH ?= torch==2.13.0
VENV := .venv
STAMP := $(VENV)/.installed
# What the command line asks of malloc and OpenMP itself, for the tests too; see docs/performance.md.
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824
export OMP_WAIT_POLICY ?= passive
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

# Each engine in a venv of its own, with the versions that docs/engines.md names. lm-eval and llama.cpp's converter
# see our packages too: they need torch, and the transformers of ours.
ENGINES ?= .engines
ENGINE_VENVS := transformers4 mlx-lm mistralrs xllamacpp lm-eval
LLAMA_CPP_SDIST := 0.3.36
transformers4 := transformers==4.57.6 safetensors accelerate
mlx-lm := mlx[cpu]==0.32.4 mlx-lm==0.32.2
mistralrs := mistralrs==0.9.5
xllamacpp := xllamacpp==2026.10.11549 sentencepiece==0.2.3
lm-eval := lm_eval==0.4.13
ON_OURS := lm-eval xllamacpp

FUZZ_SECONDS ?= 90

.PHONY: demo test test-slow test-slurm test-families test-distributed test-faults fuzz test-engines engines check format install clean

demo: $(STAMP)
	$(VENV)/bin/depthprune demo

test: $(STAMP)
	$(VENV)/bin/python -m pytest -m "not slow" -n 2 --dist worksteal

test-slow: $(STAMP)
	$(VENV)/bin/python -m pytest -m slow

# Runs in two processes, DDP and FSDP2, beside those of one; prints how far they are from each other.
test-distributed: $(STAMP)
	$(VENV)/bin/python -m pytest -s tests/distributed

test-engines: engines
	DEPTHPRUNE_ENGINES=$(ENGINES) $(VENV)/bin/python -m pytest tests/engines

engines: $(STAMP) $(ENGINE_VENVS:%=$(ENGINES)/%/.installed) $(ENGINES)/llama.cpp

$(ENGINES)/%/.installed:
	$(PYTHON) -m venv $(ENGINES)/$*
	$(if $(filter transformers4,$*),$(ENGINES)/$*/bin/python -m pip install --quiet "$(TORCH)")
	$(if $(filter $(ON_OURS),$*),ls -d $(abspath $(VENV))/lib/python*/site-packages > "$$(echo $(ENGINES)/$*/lib/python*/site-packages)/project.pth")
	$(ENGINES)/$*/bin/python -m pip install --quiet $(foreach package,$($*),"$(package)")
	touch $@

# llama.cpp's converter comes as source only, in llama-cpp-python's.
$(ENGINES)/llama.cpp:
	$(PYTHON) -m pip download --quiet --no-deps --no-binary :all: -d $(ENGINES) llama-cpp-python==$(LLAMA_CPP_SDIST)
	tar -xzf $(ENGINES)/llama_cpp_python-$(LLAMA_CPP_SDIST).tar.gz -C $(ENGINES)
	ln -sfn llama_cpp_python-$(LLAMA_CPP_SDIST)/vendor/llama.cpp $@

# Kills tiny runs at every change of their folder, and compares: some minutes on an idle machine.
test-faults: $(STAMP)
	$(VENV)/bin/python tests/faults/every_kill.py

# Nearly valid input of every kind; prints executions and findings. `make fuzz FUZZ="--seed 7 configs"` repeats.
fuzz: $(STAMP)
	$(VENV)/bin/python tests/fuzz/explore.py --seconds $(FUZZ_SECONDS) $(FUZZ)
# Removes layers from a tiny model of every type that transformers makes text with, and writes docs/families.md.
test-families: $(STAMP)
	$(VENV)/bin/python tests/families/walk.py

# Comparisons on a SLURM of one node that it sets up from Debian's packages and ends; says where it cannot.
test-slurm: $(STAMP)
	$(VENV)/bin/python tests/slurm/sweep.py

check: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(STAMP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet "$(TORCH)"
	$(VENV)/bin/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) .engines dist build .pytest_cache .ruff_cache .mypy_cache
