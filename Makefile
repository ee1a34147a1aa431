# The project's commands. `make help` lists them: every target with a ## comment.
PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?= -n 3 --dist loadfile
MINUTES ?= 10
EXAMPLES ?= 5000
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help run test test-slow test-browser chaos fuzz cost docs lint fix local-tools dev-tools

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: local-tools ## Run the whole service here, on PORT (default 5000), with its data in instance/
	@exec $(BIN)/python -m deploy.local

test: lint ## Run the tests: linter, type checker, and pytest with real services from wheels
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: dev-tools ## Run what `make test` leaves out for its length: every input to every output, the long races
	@$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-browser: ## Use the page in a real Chromium, which the system must have
	@$(PYTHON) deploy/local/prepare.py requirements/browser.txt
	@$(BIN)/python -m pytest tests/browser

chaos: dev-tools ## Break everything at random under load, then check the books: MINUTES (10), SEED (1)
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED)

fuzz: dev-tools ## Fuzz the reading of files, options and plans: EXAMPLES (5000) of each, SEED (1)
	@FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest --hypothesis-seed=$(SEED) tests/worker/transcode/test_fuzz.py tests/worker/test_formats.py

cost: dev-tools ## Measure what conversions take beside the bare ffmpeg (FFMPEG chooses it): CPU, time, memory
	@$(BIN)/python -m tests.measure.conversion_cost --seconds 120
	@$(BIN)/python -m tests.measure.conversion_cost --seconds 3600 --repeat 1 --formats wav,ogg,m4a

docs: dev-tools ## Write the documents that come from the code
	@$(BIN)/python -m worker.contract.formats_doc > docs/formats.md

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
