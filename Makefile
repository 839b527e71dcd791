# make            the daemon in .venv/bin/tunneld
# make demo       hosts and tunnels on this machine, step by step
# make test       the tests (make long: those that take minutes, daemons on asyncio, and on a newer Python)
# make fuzz       a million bad inputs for each parser; by hand, it takes a quarter of an hour
# make lint       ruff, ruff format, mypy
# make bench      throughput, packet rate and round trip
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Two files at a time, since most tests wait; then what must not share the machine.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
.DEFAULT_GOAL := $(BIN)/tunneld
.PHONY: demo test long second fuzz lint bench lock clean

# pip in this order: everything by hash from the lock file, then the checkout itself without any index.
$(BIN)/tunneld: pyproject.toml requirements/run.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tunneld needs Python 3.11 or newer: make PYTHON=python3.11 (on Debian: apt-get install python3.11 python3.11-venv)" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "python3 has no venv module: apt-get install python3-venv" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the daemon and its libraries in .venv"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/run.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

.venv/.develop: $(BIN)/tunneld requirements/develop.lock
	@echo "installing the tools of the tests in .venv"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/develop.lock
	@touch $@

demo: $(BIN)/tunneld
	@$(BIN)/tunneld demo

test: .venv/.develop
	@status=0; $(PYTEST) $(TWO) -m "not long and not alone" || status=1; \
	$(PYTEST) -m "not long and alone" || status=1; exit $$status

long: .venv/.develop
	@status=0; $(PYTEST) $(TWO) -m "long and not alone" || status=1; \
	$(PYTEST) -m "long and alone" || status=1; \
	TUNNELD_LAB_LOOP=asyncio $(PYTEST) $(TWO) -m "not long and not alone" tests/system || status=1; exit $$status
	@$(MAKE) --no-print-directory second

# Daemons on a newer Python, if one is on PATH, on both loops.
second: .venv/.develop
	@for python in python3.14 python3.13 python3.12 ""; do $$python -c "import ensurepip" 2>/dev/null && break; done; \
	if [ -z "$$python" ]; then echo "no newer Python is on PATH: daemons ran on one only"; exit 0; fi; \
	$$python -m venv .venv/second && .venv/second/bin/python -m pip install -q --disable-pip-version-check \
	  --require-hashes --only-binary :all: -r requirements/run.lock || exit 1; \
	for loop in uvloop asyncio; do TUNNELD_LAB_PYTHON=$(CURDIR)/.venv/second/bin/python PYTHONPATH=$(CURDIR) \
	  TUNNELD_LAB_LOOP=$$loop $(PYTEST) -m "not long" tests/system/test_sealed_tcp.py || exit 1; done

fuzz: .venv/.develop
	@$(BIN)/python -m tests.fuzz

lint: .venv/.develop
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(BIN)/tunneld
	@$(BIN)/tunneld bench

# After a change of a bound in pyproject.toml; needs uv.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  pyproject.toml requirements/run.in -o requirements/run.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  --group test --group lint -c requirements/run.lock -o requirements/develop.lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
