# Two commands: `make demo` watches a policy learn from R3, `make test` runs the suite. Both make .venv where missing.
PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
BIN := $(VENV)/bin
# Without a GPU, torch comes from PyTorch's CPU index where it can be reached (the stock Linux build brings CUDA, GBs).
# TORCH_INDEX= (empty) takes torch from the usual index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Test processes, one thread each: two threads that share a core with another process take many times as long.
WORKERS ?= 2

.PHONY: demo test test-long test-vllm lock-vllm audit lint install install-test clean help

help:
	@echo "make demo   set up and train the shipped policy with R3 (minutes on a laptop)"
	@echo "make test   set up and run the test suite"
	@echo "make test-long  runs that are killed for real lose nothing; two processes give the numbers of one"
	@echo "make lint   ruff and mypy"
	@echo "make test-vllm  the tests with real vLLM, on a CPU, in an environment of their own (3 GB)"
	@echo "make audit  known weaknesses of the packages in .venv, and their licences (information; needs the network)"
	@echo "make clean  remove the environments"

demo: install
	$(BIN)/python -m dro_lab.run
	@echo
	@echo "Next: open the report named above, then compare with  $(BIN)/python -m dro_lab.run reward=avg_prob dataset=pararev"

test: install-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
	@echo
	@echo "Next: all tests passed. Watch a policy learn with  make demo"

test-long: install-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "kills or processes or long"
	@echo
	@echo "Next: the runs that were killed lost nothing, and two processes gave the numbers of one."

# Real vLLM on a CPU. Its lock file is whole, so nothing is resolved here; uv installs it in a fraction of pip's time.
test-vllm: $(VLLM_VENV)/.vllm
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -m vllm tests/vllm
	@echo
	@echo "Next: the vLLM tests passed."

$(VLLM_VENV)/.vllm: tests/vllm/requirements.lock
	$(MAKE) VENV=$(VLLM_VENV) TORCH_DEPS=--no-deps $(VLLM_VENV)/.torch
	$(VLLM_VENV)/bin/pip install -q uv
	$(VLLM_VENV)/bin/uv pip install -q --python $(VLLM_VENV)/bin/python --no-deps --compile-bytecode -r $<
	@touch $@

# Renews the lock file, with the torch that is at hand (`uv` on the path).
lock-vllm:
	uv pip compile -q pyproject.toml tests/vllm/requirements.in --excludes tests/vllm/excludes.txt --python-version 3.11 \
	  --no-header --no-annotate -o tests/vllm/requirements.lock
	sed -i 's/+cpu$$//' tests/vllm/requirements.lock

# Information, never a failure: without a network, or where the tools cannot be installed, it says so and goes on.
# The tools have an environment of their own and look at the lab's from outside.
AUDIT_VENV ?= .venv-audit
audit: install
	@timeout 300 sh -c '[ -x $(AUDIT_VENV)/bin/pip-licenses ] || { $(PYTHON) -m venv $(AUDIT_VENV) && \
	  $(AUDIT_VENV)/bin/pip install -q --timeout 15 --retries 1 pip-audit pip-licenses; }' || \
	  echo "audit: the tools cannot be installed; skipped"
	@[ ! -x $(AUDIT_VENV)/bin/pip-licenses ] || timeout 60 $(AUDIT_VENV)/bin/pip-licenses --python $(BIN)/python \
	  --from=mixed --order=license --format=plain || echo "audit: no licence list"
	@[ ! -x $(AUDIT_VENV)/bin/pip-audit ] || timeout 120 $(AUDIT_VENV)/bin/pip-audit --progress-spinner off --timeout 15 \
	  --skip-editable --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || \
	  echo "audit: weaknesses were found (above), or the database cannot be reached"

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
	  echo "torch: CPU build from $$index"; $(BIN)/pip install -q $(TORCH_DEPS) torch==2.13.0 --index-url "$$index"; \
	else \
	  echo "torch: from the usual package index"; $(BIN)/pip install -q $(TORCH_DEPS) torch==2.13.0; \
	fi
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run pyproject.toml
	$(BIN)/pip install -q -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(AUDIT_VENV)
