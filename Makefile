# The project's commands. `make help` lists them: every target with a ## comment.
PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?=
MINUTES ?= 10
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help run test test-slow chaos lint fix local-tools dev-tools

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: local-tools ## Run the whole service here, on PORT (default 5000), with its data in instance/
	@exec $(BIN)/python -m deploy.local

test: lint ## Run the tests: linter, type checker, and pytest with real services from wheels
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: dev-tools ## Run the tests that `make test` leaves out for their length
	@$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

chaos: dev-tools ## Break a service under load for MINUTES (10), chosen by SEED (1), and check that nothing is lost
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED)

lint: dev-tools ## Check style and types
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check
	@$(BIN)/python -m mypy

fix: dev-tools ## Correct what the linter and formatter can correct by themselves
	@$(BIN)/python -m ruff check --fix
	@$(BIN)/python -m ruff format

local-tools:
	@$(PYTHON) deploy/local/prepare.py requirements/local.txt

dev-tools:
	@$(PYTHON) deploy/local/prepare.py requirements/dev.txt
