# Two commands do everything on a machine with Python 3.11+, make and pip:
#   make demo   index the bundled gallery, search it with Chinese words, draw a contact sheet
#   make test   the default tests
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ENGINES := $(VENV)/.engines
DEMO   := .demo

.PHONY: help demo serve test test-slow test-engines lint types check format clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml clip_text_client/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --editable ./clip_text_client
	# the reference of parity tests; its own pins (lmdb 1.3.0) do not install any more
	$(BIN)/python -m pip install --quiet --no-deps 'cn-clip==1.6.0'
	touch $@

demo: $(READY) ## Index the bundled gallery and search it
	$(BIN)/clip-text demo --out $(DEMO)

serve: $(READY) ## Open the search page on the demo's index
	test -d $(DEMO)/index || $(BIN)/clip-text demo --out $(DEMO)
	$(BIN)/clip-text serve --index $(DEMO)/index

test: $(READY) ## The default tests
	$(BIN)/python -m pytest -n auto --maxprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY) ## The tests that take minutes
	$(BIN)/python -m pytest -m slow

$(ENGINES): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[engines]'
	touch $@

test-engines: $(ENGINES) ## The tests on real Milvus, PostgreSQL and Ray, which it installs first
	$(BIN)/python -m pytest -m engines -n auto --maxprocesses 2 --dist loadfile tests/engines

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

check: lint types test ## Lint, types and tests: what CI runs

format: $(READY) ## Rewrite the files the way lint wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove everything the commands above made
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
