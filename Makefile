# Everything runs from .venv, which the targets make and keep up to date. Needs Python 3.11 or newer, git and make.
PYTHON ?= python3
BIN := .venv/bin
RUNNABLE := .venv/.runnable
EXAMPLE := .venv/.example
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo example test check format soak bench constraints clean

help:  ## Show what there is.
	@awk -F ':.*## ' '/^[a-z.]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# What the demo needs; quicker to have than all that developing needs.
$(RUNNABLE): pyproject.toml constraints.txt $(wildcard src/refold/speedups/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[embedded]'
	@touch $@

$(EXAMPLE): $(RUNNABLE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group example
	@touch $@

$(READY): $(RUNNABLE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group dev
	@touch $@

.venv: $(READY)  ## Make the virtual environment (the other targets do it when needed).

demo: $(RUNNABLE)  ## Turn a git history into views and check them; GIT=/path chooses another repository.
	@$(BIN)/refold demo --git "$${GIT:-.}" $(ARGS)

example: $(EXAMPLE)  ## Run the order service of examples/orders, with orders to look at; PORT=8000 chooses the port.
	@PYTHONPATH=examples $(BIN)/python -m orders

test: $(READY)  ## Run the tests, against real servers; ARGS="-k name" chooses.
	$(BIN)/python -m pytest -m "not soak" $(ARGS)

check: $(READY)  ## Lint, formatting, types, import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(READY)  ## Format the code and mend what ruff can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak: $(READY)  ## Run the long tests.
	$(BIN)/python -m pytest -m soak $(ARGS)

bench: $(READY)  ## Measure; ARGS are those of `refold bench`.
	$(BIN)/refold bench $(ARGS)

constraints: $(READY)  ## Write constraints.txt anew from the newest versions that work.
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager pip --editable . --group dev
	$(BIN)/python -m pip list --format=freeze --exclude refold --exclude setuptools --exclude wheel > constraints.txt
	@touch $(RUNNABLE) $(READY)

clean:  ## Remove everything that was made, .venv too.
	rm -rf .venv .demo dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
