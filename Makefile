# The project's commands. `make help` lists them: every target with a ## comment.
PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?= -n 3 --dist loadfile
MINUTES ?= 10
EXAMPLES ?= 5000
SEED ?= 1
ROUNDS ?= 3
CASES ?= 50000
PLANS ?= login conversion capacity
SCRIPTS := .ci/run deploy/startup.sh deploy/containers/entrypoint deploy/containers/prepare tests/containers/run \
	tests/containers/machine/boot

.DEFAULT_GOAL := help
.PHONY: help run test test-slow test-browser screenshots test-containers test-terraform test-jmeter stress bench chaos fuzz \
	fuzz-audio cost lock audit licences docs lint fix local-tools dev-tools

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: local-tools ## Run the whole service here, on PORT (default 5000), with its data in instance/
	@exec $(BIN)/python -m deploy.local

test: lint ## Run the tests: linter, type checker, and pytest with real services from wheels
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: dev-tools ## Run what `make test` leaves out for its length: every input to every output, the long races
	@$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-browser: ## Use the page in a real Chromium, which the system must have
	@$(PYTHON) deploy/local/prepare.py requirements/browser.txt
	@$(BIN)/python -m pytest tests/browser

screenshots: ## Make the pictures that README shows, in docs/pictures
	@$(PYTHON) deploy/local/prepare.py requirements/browser.txt
	@$(BIN)/python -m tests.browser.screenshots docs/pictures

test-containers: dev-tools ## Walk the containers' stack and bare Debian machines: WORDS go to pytest. Needs Docker, or root on Debian
	@tests/containers/run $(WORDS)

test-terraform: dev-tools ## Check the Terraform files with HashiCorp's own parser and formatter too, which needs Go
	@GOBIN=$(CURDIR)/$(BIN) go install github.com/hashicorp/hcl/v2/cmd/hclfmt@v2.25.0
	@$(BIN)/python -m pytest tests/terraform

test-jmeter: dev-tools ## Run every stress plan once, small, in a real JMeter: needs Java, and Maven or JMeter 5.6
	@$(BIN)/python -m pytest tests/jmeter/smoke

bench: dev-tools ## Measure the service beside bare ffmpeg, argon2 and the usual way: PARTS, ROUNDS (3)
	@$(BIN)/python -m tests.bench $(if $(PARTS),--only $(PARTS)) --rounds $(ROUNDS)

stress: dev-tools ## Run the stress plans in full against a service started for them: PLANS (login conversion capacity)
	@$(BIN)/python -m tests.measure.stress $(PLANS)

chaos: dev-tools ## Break everything at random under load, then check the books: MINUTES (10), SEED (1)
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED)

fuzz: dev-tools ## Send the service what no client should: CASES (50000), SEED (1)
	@LOG_LEVEL=CRITICAL CASES=$(CASES) SEED=$(SEED) $(BIN)/python -m pytest tests/fuzz -n 2 --dist loadfile -rP -q

fuzz-audio: dev-tools ## Fuzz the reading of files, options and plans: EXAMPLES (5000) of each, SEED (1)
	@FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest --hypothesis-seed=$(SEED) tests/worker/transcode/test_fuzz.py tests/worker/test_formats.py

cost: dev-tools ## Measure what conversions take beside the bare ffmpeg (FFMPEG chooses it): CPU, time, memory
	@$(BIN)/python -m tests.measure.conversion_cost --seconds 120
	@$(BIN)/python -m tests.measure.conversion_cost --seconds 3600 --repeat 1 --formats wav,ogg,m4a

docs: dev-tools ## Write the documents that come from the code
	@$(BIN)/python -m worker.contract.formats_doc > docs/formats.md

lock: supply-tools ## Write the requirements*.txt from requirements/*.in: every version pinned, every file by its checksum
	@cd requirements && compile() { UV_CUSTOM_COMPILE_COMMAND="make lock" ../$(BIN)/uv pip compile --quiet --universal \
	    --python-version 3.11 --generate-hashes --no-annotate --no-strip-extras "$$@"; } && \
	  compile browser.in --output-file browser.txt && compile dev.in -c browser.txt --output-file dev.txt && \
	  compile local.in -c dev.txt --output-file local.txt && compile service.in -c local.txt --output-file ../requirements.txt && \
	  compile bench.in -c browser.txt --output-file bench.txt && compile supply.in -c browser.txt --output-file supply.txt

audit: supply-tools ## Ask the database of known vulnerabilities about everything the service is installed from (needs the internet)
	@$(BIN)/pip-audit --require-hashes --disable-pip --strict --requirement requirements.txt

licences: dev-tools ## Write docs/licences.md: what the service is installed from, and on which terms
	@$(BIN)/python -m tests.supply.licences > docs/licences.new && mv docs/licences.new docs/licences.md

lint: dev-tools ## Check style and types
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check
	@$(BIN)/python -m mypy
	@$(BIN)/shellcheck $(SCRIPTS)

fix: dev-tools ## Correct what the linter and formatter can correct by themselves
	@$(BIN)/python -m ruff check --fix
	@$(BIN)/python -m ruff format

local-tools:
	@$(PYTHON) deploy/local/prepare.py requirements/local.txt

supply-tools:
	@$(PYTHON) deploy/local/prepare.py requirements/supply.txt

dev-tools:
	@$(PYTHON) deploy/local/prepare.py requirements/dev.txt
