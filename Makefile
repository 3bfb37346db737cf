# Everything runs in .venv, which `make install` sets up; a second call starts at once.
PYTHON ?= python3
# Installed before the rest, so that no other package chooses a build for us.
TORCH ?= torch==2.13.0
VENV := .venv
STAMP := $(VENV)/.installed
# A quarter of a CPU training step is the allocator giving memory back to the kernel; see docs/performance.md.
export MALLOC_MMAP_MAX_ = 0
export MALLOC_TRIM_THRESHOLD_ = 100000000000
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-slow check format install clean

demo: $(STAMP)
	$(VENV)/bin/depthprune demo

test: $(STAMP)
	$(VENV)/bin/python -m pytest -m "not slow" -n 2

test-slow: $(STAMP)
	$(VENV)/bin/python -m pytest -m slow

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
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .mypy_cache
