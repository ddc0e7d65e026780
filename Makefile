# Two commands for a newcomer: `make report` and `make test`. Each sets up all it needs.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
OUT ?= runs/report

.PHONY: help setup report notebooks test lint types contracts pytest clean

help:
	@echo "make report     a sink report on an embedded model, in $(OUT)/report.html"
	@echo "make test       lint, types, import contracts, tests with coverage"
	@echo "make setup      .venv with everything in it"
	@echo "make notebooks  examples/notebooks/*.ipynb from examples/*.py"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mechguard needs Python 3.11 or newer; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

report: $(READY)
	$(BIN)/mechguard report --out $(OUT)
	@echo "Open $(OUT)/report.html"

notebooks: $(READY)
	$(BIN)/python examples/notebooks/write.py

test: lint types contracts pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

# Coverage is counted on the quick tests alone, for it makes the slow ones half as long again. A file
# stays in one process, so that what its tests share is made once.
pytest: $(READY)
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m "not slow" --cov --cov-report=term
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m slow

clean:
	rm -rf .venv runs .mypy_cache .ruff_cache .pytest_cache .coverage*
