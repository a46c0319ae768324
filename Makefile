# The two commands of the README do everything, set-up included: `make demo` and `make test`.
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench setup docs vm clean

demo: setup
	@$(BIN)/bridgehold demo

# Acts that are forks of the test process itself count its size and its descriptors: they run while it is small.
SMALL := $(addprefix tests/sandbox/test_,watchdog.py limits.py launch_gate.py)

# What floods a machine, or counts what is on it, comes last, two at a time; the rest four at a time: it waits more
# than it works.
LAST := $(addprefix tests/hostile/test_,acts.py import_floods.py processes.py sessions.py)

# A shared machine can stall a test: what failed runs once more, alone, and must pass then.
AGAIN = { echo "once more, alone, what failed:"; $(BIN)/python -m pytest -q --last-failed; }
test: setup check
	@$(BIN)/python -m pytest -q $(SMALL)
	@$(BIN)/python -m pytest -q -n 4 --dist loadfile $(SMALL:%=--ignore=%) $(LAST:%=--ignore=%) || $(AGAIN)
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(LAST) || $(AGAIN)

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python scripts/generate_docs.py --check

bench: setup
	@$(BIN)/python bench/run.py

docs: setup
	@$(BIN)/python scripts/generate_docs.py

vm: setup
	@scripts/vm-test

setup:
	@VENV=$(VENV) scripts/setup

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
