# The two commands of the README do everything, set-up included: `make demo` and `make test`.
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench setup docs vm clean

demo: setup
	@$(BIN)/bridgehold demo

test: setup check
	@$(BIN)/python -m pytest -q

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
