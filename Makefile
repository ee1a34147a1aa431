# The project's commands. `make help` lists them: every target with a ## comment.
PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test lint fix local-tools dev-tools

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: local-tools ## Run the whole service here, on PORT (default 5000), with its data in instance/
	@exec $(BIN)/python -m deploy.local

test: lint ## Run the tests: linter, type checker, and pytest with real services from wheels
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

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
