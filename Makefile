# The two commands of the README do everything, set-up included: `make demo` and `make test`.
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check compat machines bench setup environments upgrade docs vm wheel package image clean

demo: setup
	@$(BIN)/bridgehold demo

# Every stage runs, whatever fails before it; the last line sums them all (scripts/suite.py). The first stage makes
# what the tests' bridges import.
test: setup
	@$(BIN)/python scripts/suite.py

check: setup
	@$(BIN)/python scripts/suite.py lint format types documents

# CPython's own tests and packages', inside and outside: an hour or two; writes docs/reference/differences.md.
compat: setup
	@$(BIN)/python compat/run.py --write

# Each kind of machine that can be made here, tried as a stranger would; writes docs/reference/machines.md.
machines: setup
	@$(BIN)/python machines/run.py --write

bench: setup
	@$(BIN)/python bench/run.py

docs: setup
	@$(BIN)/python scripts/generate_docs.py

vm: setup
	@scripts/vm-test

# The wheel, installed and used with each Python of this machine (scripts/try-wheel).
wheel: setup
	@VENV=$(VENV) $(BIN)/python scripts/try-wheel

# A tarball, a Debian package, an SBOM and their sums in dist/ (scripts/package --help).
package: setup
	@VENV=$(VENV) $(BIN)/python scripts/package

# The package in an image, by podman or docker (scripts/image; BASE=IMAGE for another base).
image: package
	@scripts/image

setup:
	@VENV=$(VENV) scripts/setup

# The same alone, for who runs some tests by hand.
environments: setup
	@VENV=$(VENV) scripts/build-environments

# The newest versions that pyproject.toml allows, locked and tried.
upgrade: setup
	@VENV=$(VENV) scripts/upgrade-locks
	@$(MAKE) test

clean:
	rm -rf $(VENV) .venv-* .environments build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
