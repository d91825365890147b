# Model Atlas. `make run` needs Python 3.11 or newer and make; everything else it brings itself.
.DELETE_ON_ERROR:
PYTHON ?= python3
BIN := .venv/bin
ATLAS := $(BIN)/atlas
DATABASE ?= embedded
TESTS ?= tests
JOBS ?= 3
LINT ?= lint
PORT ?= 3000
HISTORIES ?= 10000
unexport PYTHONDONTWRITEBYTECODE # tests start many processes, each of which would compile all modules

.PHONY: help install run ui test pytest test-source test-all test-histories test-crashes coverage bench lint lock clean db-migrate db-apply db-status db-check db-ensure db-drop db-roles db-shell

help: ## what can be made
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\n\t/'

install: .venv/installed ## the environment, as the lock file has it

# uv comes from the lock file too, checked by its hash like the rest.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	awk '/^[a-z]/ { wanted = /^uv==/ } wanted' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	$(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@

run: install ## a warehouse with data in it: migrate, load all recordings, answer questions
	$(ATLAS) db ensure
	$(ATLAS) run
	$(ATLAS) ask

ui: install ## the Dagster UI over the warehouse, on 127.0.0.1:3000
	$(ATLAS) ui --port $(PORT)

test: install ## everything a contributor must pass; DATABASE=container uses testcontainers
	@$(MAKE) --no-print-directory -j2 $(LINT) pytest # types are checked while the first tests run

pytest: install
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --database $(DATABASE) $(TESTS)

test-source: install ## what one source must pass: make test-source SOURCE=catalog/civitai
	@test -n "$(SOURCE)" || { echo "SOURCE is missing: make test-source SOURCE=catalog/civitai"; exit 2; }
	$(BIN)/python -m pytest -x --tb=short -p no:hypothesispytest tests/test_conformance.py --source $(SOURCE)

coverage: install ## which share of the lines of each package tests run
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -n $(JOBS) --dist worksteal $(TESTS)
	$(BIN)/coverage combine --quiet
	@for package in pipelines pipelines/*/ assets/*/; do \
		printf '%5s %%  %s\n' "$$($(BIN)/coverage report --format=total --precision=1 --include="$${package%/}/*.py")" $$package; \
	done

test-all: install ## every case of the tests that `make test` takes a sample of
	SAMPLES=all $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --database $(DATABASE) $(TESTS)

test-histories: install ## many histories of sources that change while they are read; HISTORY=<seed> repeats one
	HISTORIES=$(HISTORIES) SAMPLES=all $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -rP --show-capture=stdout tests/landing/test_histories.py tests/transform/test_domain.py

test-crashes: install ## a crash at every statement of landing, transform, rebuild, prune and erase, 100 of each other command, every outage; TESTS_SEED=<seed> repeats one
	CRASHES=all SAMPLES=all $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(addprefix tests/promises/test_i7_,crash.py outages.py)

bench: install ## what must take no longer than it may; on a machine that does nothing else
	$(BIN)/python -m pytest -q -s tests/budgets.py

lint: install ## format, style, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lock: ## write the lock file anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-emit-index-url --no-header pyproject.toml --output-file requirements.lock

db-migrate db-apply db-status db-check db-ensure db-drop db-roles db-shell: install ## the database itself
	$(ATLAS) db $(@:db-%=%)

clean: ## remove the environment; the warehouse in .atlas stays
	rm -rf .venv
