# Everything a checkout needs, from a bare machine: only make itself must be there.

.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
SOURCES := sidecar tests $(wildcard bench demo)

.PHONY: help setup test lint format demo bench sqlite-suite clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

setup: .venv/.complete ## install what is missing and build .venv/ with the litefs command in it

.venv/.complete: pyproject.toml constraints.txt scripts/setup
	@scripts/setup
	@touch $@

test: lint ## the whole test suite: style, types, layers, unit, faults, mounts
	@scripts/setup --sqlite-suite
	@scripts/consul >/dev/null || echo "the tests that need Consul will be skipped"
	$(BIN)/python -m pytest

lint: setup ## ruff, format, mypy --strict, import layers
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

demo: setup ## two nodes replicate on this machine, driven by the ordinary sqlite3 program
	$(BIN)/python demo/run.py

bench: setup ## every figure the README quotes
	$(BIN)/python -m bench

sqlite-suite: setup ## SQLite's own test files, run on a mount
	@scripts/setup --sqlite-suite
	tests/sqlite_suite/run

clean: ## remove what the other targets created
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis sidecar/litefs.egg-info
