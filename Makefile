# Everything runs in .venv, which `make` creates from the locks. Only Python must be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := $(VENV)/.installed-demo

# Always keep compiled modules, because tests start the command line hundreds of times.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo ready test test-long unit coverage mutants lint licences check-licences audit types schemas check-schemas bench profile lock clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(INSTALLED) ## Create .venv with everything in it

NATIVE := setup.py $(wildcard $(addprefix service/pipeline_processing/,sources/postgres/*.p[xy][dx] sources/postgres/*.hpp rows/loops.py rows/lazy_row.p*))

# --no-deps: the locks are complete, so there is nothing to resolve.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

# What the service and its embedded servers need; no tools of developers.
$(DEMO): requirements-demo.lock requirements-build.lock pyproject.toml $(NATIVE)
	@echo "Setting up $(VENV) (once; a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements-demo.lock -r requirements-build.lock
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(INSTALLED): requirements.lock $(DEMO)
	@echo "Adding the tools for development (once; about a minute)"
	@$(PIP) --require-hashes -r requirements.lock
	@touch $@

demo: $(DEMO) ## Run the main job end to end, on its own real servers (KEEP=1 keeps them)
	@$(BIN)/pipeline-processing demo $(if $(KEEP),--keep)

# What every test process would do otherwise: compile the tests. And what every start of Kafka would.
ready: $(INSTALLED)
	@$(BIN)/python -m tests.kafka_startup
	-@$(BIN)/python -m pytest --collect-only --quiet >/dev/null 2>&1

# Four processes, because tests mostly wait for servers. A file's tests stay together, so that they share fixtures.
# Files keep their order, so that long ones don't come last.
PARALLEL := --numprocesses=4 --dist=loadfile --no-loadscope-reorder
test: $(INSTALLED) ## Run all tests; ARGS="tests/unit -k select" for some; SERVERS=containers: on Docker
	@$(if $(ARGS)$(SERVERS),,$(BIN)/python -m tests.kafka_startup)
	@$(BIN)/python -m pytest $(if $(SERVERS),--servers=$(SERVERS)) $(or $(ARGS),$(PARALLEL)) $(if $(COVERAGE),--cov --cov-report=)

unit: $(INSTALLED) ## Run the unit tests, which need no servers
	@$(BIN)/python -m pytest tests/unit $(or $(ARGS),--numprocesses=2 --dist=worksteal)

# `hypothesis` marks every property test. In this profile, they try many new examples.
test-long: $(INSTALLED) ## Run the tests too long for every change: many more examples, rare variants
	@$(BIN)/python -m pytest -m "long or hypothesis" --hypothesis-profile=long $(PARALLEL) $(ARGS)

coverage: $(INSTALLED) ## Measure branch coverage by unit and contract tests; fail below the minimum
	@$(BIN)/python -m pytest tests/unit tests/contract $(PARALLEL) \
		--cov --cov-report=term-missing:skip-covered $(ARGS)

# In a copy with the package beside its tests, as mutmut requires. mutmut keeps its results there.
MUTATION := build/mutation
mutants: $(INSTALLED) ## Mutation-test runs/, serving/ and formats/ (hours); ARGS="pipeline_processing.runs.lease*"
	@mkdir -p $(MUTATION)
	@cd $(MUTATION) && rm -rf pipeline_processing tests schemas docs
	@cp -a service/pipeline_processing tests schemas docs pyproject.toml $(MUTATION)
	@cd $(MUTATION) && $(CURDIR)/$(BIN)/mutmut run $(ARGS); $(CURDIR)/$(BIN)/mutmut results

lint: $(INSTALLED) ## Check style, formatting and imports between folders
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo

# Of the image's packages. `allow-only` in pyproject.toml says which licences they may have.
PACKAGES = $$(grep -oE '^[a-z0-9._-]+' requirements-runtime.lock)
LICENCES = list=$$($(BIN)/pip-licenses --packages $(PACKAGES)) && printf '%s\n' "$$list" \
	| sed '1s/.*/| package | licence |\n|---|---|/; s/^"/| /; s/","/ | /; s/"$$/ |/'
licences: $(INSTALLED) ## Write docs/licences.md; fail if a package of the image has a licence that isn't allowed
	@rows=$$($(LICENCES)) && printf '%s\n\n' '# Licences' \
		'Of the packages in the image. `make licences` writes this page.' > docs/licences.md && echo "$$rows" >> docs/licences.md

# Only new rows count, because the version of Python decides on a few packages.
check-licences: $(INSTALLED) ## Check that the licences are allowed, and that docs/licences.md has them
	@rows=$$($(LICENCES)) && if echo "$$rows" | grep -vxFf docs/licences.md; then echo 'Run make licences.'; exit 1; fi

# --strict: a package that the index doesn't know would count as harmless. pip-audit itself isn't in the lock.
audit: $(INSTALLED) ## Look up known vulnerabilities of all locked packages (needs the internet)
	@$(BIN)/uv tool run pip-audit --requirement requirements.lock --disable-pip --require-hashes --strict --progress-spinner off

types: $(INSTALLED) ## Check types
	@$(BIN)/mypy

schemas: $(INSTALLED) ## Write schemas/
	@$(BIN)/pipeline-processing schemas

check-schemas: $(INSTALLED) ## Compare schemas/ with the code
	@$(BIN)/pipeline-processing schemas --check

bench: $(INSTALLED) ## Measure speed and memory against COPY, targets and other tools (15 minutes; ARGS=--quick: less)
	@$(BIN)/python -m tests.bench $(ARGS)

profile: $(INSTALLED) ## Show where the time of one run goes; ARGS=null-declared for another path
	@$(BIN)/python -m tests.bench.profile_run $(ARGS)

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header
BUILD_REQUIRES = import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")

# The image and the demo need fewer packages: their locks, for the service, for building its wheel, for its bill of
# materials and for the embedded servers, use the versions of the first.
lock: $(INSTALLED) ## Resolve requirements*.lock from pyproject.toml; UPGRADE=1 for new versions
	@$(COMPILE) --all-extras $(if $(UPGRADE),--upgrade) pyproject.toml -o requirements.lock
	@$(COMPILE) --no-annotate --constraints requirements.lock pyproject.toml -o requirements-runtime.lock
	@$(COMPILE) --no-annotate --constraints requirements.lock --extra demo pyproject.toml -o requirements-demo.lock
	@$(BIN)/python -c '$(BUILD_REQUIRES)' \
		| $(COMPILE) --no-annotate --constraints requirements.lock - -o requirements-build.lock
	@echo "cyclonedx-bom" | $(COMPILE) --no-annotate --constraints requirements.lock - -o requirements-sbom.lock

clean: ## Remove everything that these targets create
	rm -rf $(VENV) build dist .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis service/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
