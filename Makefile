# Every target works from a bare checkout: it makes .venv and installs exactly what requirements/ locks.

.DEFAULT_GOAL := help
.PHONY: help run test check acceptance drill format docs lock clean

# The first of these that is new enough and can make environments; they are only asked when something is to install.
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(shell \
	$(python) -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(python))))
NO_PYTHON = Python 3.11 or newer with its venv module is needed (Debian: apt-get install python3-venv); \
	to name one: make PYTHON=/path/to/python3

RUN := .venv/run.stamp
DEV := .venv/dev.stamp
INSTALL := .venv/bin/python -m pip install --quiet --disable-pip-version-check
COMPILE := .venv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command "make lock" $(UPGRADE)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUN) ## Serve everything from one process: SQLite, a folder, no services
	@exec .venv/bin/heliograph up

test: $(DEV) ## Run the whole suite, two files at a time
	.venv/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(DEV) ## Lint, format, types, the import contract, generated docs and the rules of the house
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python -m docs.generate --check
	.venv/bin/pytest --quiet tests/test_house.py tests/contracts/test_provider.py

acceptance: $(DEV) ## Run only the acceptance tests, on every deployment
	.venv/bin/pytest tests/acceptance $(ARGS)

drill: $(DEV) ## Break things at random under load, and check that nothing is lost or bought twice; ARGS="--seed N"
	.venv/bin/python -m tests.drill $(ARGS)

format: $(DEV) ## Format the code and mend what can be mended by itself
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

docs: $(DEV) ## Write the generated pages of docs/ anew
	.venv/bin/python -m docs.generate

lock: $(DEV) ## Write requirements/ anew from pyproject.toml; UPGRADE=--upgrade takes the newest releases
	$(COMPILE) --group build --output-file requirements/run.txt
	$(COMPILE) --group build --group dev --all-extras --constraint requirements/run.txt --output-file requirements/dev.txt

clean: ## Remove what the other targets made, but no data
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(RUN): requirements/run.txt pyproject.toml
	@test -x .venv/bin/pip || $(or $(PYTHON),$(error $(NO_PYTHON))) -m venv .venv
	$(INSTALL) --require-hashes --requirement requirements/run.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUN) requirements/dev.txt
	$(INSTALL) --require-hashes --requirement requirements/dev.txt
	@touch $@
