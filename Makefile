# Every target stands alone: it sets up what it needs first, and a set-up that misses nothing is instant.
PYTHON := .venv/bin/python

.PHONY: setup demo test bench chaos faults clean

setup:
	@tools/setup

# KEEP=1 leaves the demonstration's testbed running.
demo: setup
	@KEEP=$(KEEP) $(PYTHON) -m tests.demo

test: setup
	@tools/test

bench: setup
	@$(PYTHON) -m tests.bench

# Takes half an hour, and writes what it measured.
chaos: setup
	@$(PYTHON) -m tests.chaos --write docs/chaos.md

# Takes half an hour, and writes what it measured.
faults: setup
	@$(PYTHON) -m tests.chaos.faults --write docs/faults.md

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
