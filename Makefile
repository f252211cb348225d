# Everything a checkout needs; `make help` lists the targets. Needs git, make and Python 3.11 or later.

PYTHON ?= python3
WORKERS ?= 2
N ?= 1000
STEPS ?= 100000

VENV := .venv
BIN := $(VENV)/bin
STATE := .cache
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A lock names every package there is to install: nothing is resolved here, so that no later release can change what is installed.
INSTALL := $(PIP) install --quiet --no-deps
INTEROP := $(STATE)/interop
SERVERS := $(STATE)/servers
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command 'make lock' --upgrade

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run test lint types docs bench image torture powercut model lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STATE)/runtime.stamp ## set up .venv with kqs and what it needs to run

run: install ## serve on localhost:14151, settings from config/kqs.toml
	@exec $(BIN)/kqs serve --config config/kqs.toml

test: lint types tests-ready ## check style, types and floors, then run every test with its coverage gates
	@rm -rf $(STATE)/coverage && mkdir -p $(STATE)/coverage
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not alone' --cov --cov-report=
	$(BIN)/python -m pytest -m alone --cov --cov-append --cov-report=
	$(BIN)/coverage report --fail-under=95 --skip-covered --skip-empty
	$(BIN)/coverage report --fail-under=100 --skip-covered --include='kqs/wire/*,kqs/journal/*'

lint: $(STATE)/dev.stamp ## check style and floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --cache-dir $(STATE)/import-linter

types: $(STATE)/dev.stamp ## check types
	$(BIN)/mypy

docs: $(STATE)/dev.stamp ## build the site of docs/ and the reference in .cache/site, every link checked
	$(BIN)/python docs/build_site.py

bench: $(STATE)/dev.stamp ## measure a real server over TCP; writes .cache/bench.json
	$(BIN)/python -m bench.run $(ARGS)

image: ## build the container image kqs
	@docker info >/dev/null 2>&1 || { echo "make image needs a running docker engine: 'docker info' cannot reach one" >&2; exit 1; }
	docker build --tag kqs .

torture: $(STATE)/dev.stamp ## kill a loaded server N times (make torture N=1000) and look for lost jobs
	$(BIN)/python -m tests.crash.torture $(N)
	$(BIN)/python -m tests.crash.owners $(N)

powercut: $(STATE)/dev.stamp ## record a loaded server and cut its power at N places (make powercut N=200; needs strace)
	$(BIN)/python -m tests.crash.powercut $(N)

model: $(STATE)/dev.stamp ## play the whole queue against an oracle, for so many steps (make model STEPS=100000)
	KQS_MODEL_STEPS=$(STEPS) $(BIN)/python -m pytest -n 0 -o faulthandler_timeout=0 tests/property/test_model.py tests/property/test_short_runs.py

lock: $(STATE)/dev.stamp ## choose the locked versions of every dependency anew
	$(COMPILE) --output-file requirements.lock pyproject.toml
	$(COMPILE) --output-file requirements-dev.lock --extra dev --constraint requirements.lock pyproject.toml
	printf '%s\n' hatchling editables | $(COMPILE) --output-file requirements-build.lock -

clean: ## remove what these targets made; journal/ stays
	rm -rf $(VENV) $(STATE) build dist bench/bin .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: tests-ready
tests-ready: $(STATE)/dev.stamp $(INTEROP)/stamp $(SERVERS)/stamp

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kqs needs Python 3.11 or later")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tests/tools.sh venv
	$(PYTHON) -m venv $(VENV)

$(STATE)/runtime.stamp: $(BIN)/python requirements.lock requirements-build.lock pyproject.toml
	@mkdir -p $(STATE)
	$(INSTALL) --require-hashes -r requirements.lock -r requirements-build.lock
	$(INSTALL) --no-build-isolation --editable .
	$(PIP) check
	@touch $@

$(STATE)/dev.stamp: $(STATE)/runtime.stamp requirements-dev.lock
	$(INSTALL) --require-hashes -r requirements-dev.lock
	$(PIP) check
	@touch $@

.PHONY: tools
tools:
	@tests/tools.sh beanstalkd go javac jq mvn nc node npm strace systemd-analyze

$(INTEROP)/stamp: tests/interop/package.json tests/interop/package-lock.json | tools
	@mkdir -p $(INTEROP)
	cp tests/interop/package.json tests/interop/package-lock.json $(INTEROP)/
	@if command -v npm >/dev/null; then cd $(INTEROP) && npm ci --silent --ignore-scripts && touch stamp; fi

$(SERVERS)/stamp: tests/servers/build.sh tests/servers/pom.xml tests/servers/MongoServerProcess.java | tools
	@if command -v mvn >/dev/null && command -v javac >/dev/null; then tests/servers/build.sh $(SERVERS); fi
