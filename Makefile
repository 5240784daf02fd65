# Two commands: `make demo` watches a policy learn from R3, `make test` runs the suite. Both make .venv where missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Without a GPU, torch comes from PyTorch's CPU index where it can be reached (the stock Linux build brings CUDA, GBs).
# TORCH_INDEX= (empty) takes torch from the usual index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Test processes, one thread each: two threads that share a core with another process take many times as long.
WORKERS ?= 2

.PHONY: demo test lint install install-test clean help

help:
	@echo "make demo   set up and train the shipped policy with R3 (minutes on a laptop)"
	@echo "make test   set up and run the test suite"
	@echo "make lint   ruff and mypy"
	@echo "make clean  remove .venv"

demo: install
	$(BIN)/python -m dro_lab.run
	@echo
	@echo "Next: open the report named above, then compare with  $(BIN)/python -m dro_lab.run reward=avg_prob dataset=pararev"

test: install-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
	@echo
	@echo "Next: all tests passed. Watch a policy learn with  make demo"

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.run
install-test: $(VENV)/.test

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; use  make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.python
	@index="$(TORCH_INDEX)"; \
	if [ -n "$$index" ] && ! command -v nvidia-smi >/dev/null 2>&1 && \
	   $(BIN)/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/torch/", timeout=5)' "$$index" >/dev/null 2>&1; then \
	  echo "torch: CPU build from $$index"; $(BIN)/pip install -q torch==2.13.0 --index-url "$$index"; \
	else \
	  echo "torch: from the usual package index"; $(BIN)/pip install -q torch==2.13.0; \
	fi
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run pyproject.toml
	$(BIN)/pip install -q -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV)
