# Everything a checkout needs, from a bare machine: only make itself must be there.

.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
DURATION ?= 600
ROOT ?= build/chaos
ENGINE ?= docker
WORKERS ?= 2
VERSION := $(shell sed -n 's/^VERSION = "\(.*\)"/\1/p' sidecar/litefs/version.py)
SOURCES := sidecar operator tests $(wildcard bench demo e2e charts)

.PHONY: help setup test lint format demo demo-cluster bench chaos images manifests chart sqlite-suite e2e e2e-up e2e-load e2e-down e2e-shell clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 24

setup: .venv/.complete ## install what is missing and build .venv/ with the litefs command in it

.venv/.complete: pyproject.toml constraints.txt scripts/setup
	@scripts/setup
	@touch $@

test: lint ## the whole test suite: style, types, layers, unit, faults, mounts; WORKERS=0 for one process
	@scripts/setup --sqlite-suite
	@timeout 1800 scripts/consul >/dev/null || echo "the tests that need Consul will be skipped"
	@timeout 1800 scripts/helm >/dev/null || echo "the tests that need Helm will be skipped"
	@timeout 300 scripts/promtool >/dev/null || echo "the tests of the alerts will be skipped"
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup ## ruff, format, mypy --strict, import layers
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

demo: setup ## two nodes replicate on this machine, driven by the ordinary sqlite3 program
	PYTHONPATH=sidecar:. $(BIN)/python -m demo.run

demo-cluster: setup ## three nodes with a Consul: elect, write, fail over, hand over, heal a split
	@scripts/consul >/dev/null
	PYTHONPATH=sidecar:. $(BIN)/python -m demo.cluster

bench: setup ## every figure the README quotes
	$(BIN)/python -m bench

chaos: setup ## random faults on a cluster: DURATION=600 SEED=1 ROOT=an empty directory (as root)
	@mkdir -p $(ROOT)
	PYTHONPATH=sidecar:. $(BIN)/python -m tests.chaos.run --root $(ROOT) --seconds $(DURATION) $(if $(SEED),--seed $(SEED))

images: ## build both images: REGISTRY=registry.example, ENGINE=docker, podman or buildah, BASE=another Debian 12
	for part in sidecar:litefs operator:litefs-operator; do \
	  $(ENGINE) build $(if $(BASE),--build-arg "BASE=$(BASE)") -f "$${part%:*}/Dockerfile" \
	    -t "$(if $(REGISTRY),$(REGISTRY)/)$${part#*:}:$(VERSION)" . || exit; \
	done

manifests: setup ## write what is generated in manifests/ and in the chart
	PYTHONPATH=operator $(BIN)/python -m litefs_operator crd >manifests/crd.yaml
	cp manifests/crd.yaml charts/litefs/files/crd.yaml
	$(BIN)/python -m charts.generated "$$(scripts/helm)"

chart: setup ## package the chart into dist/
	$$(scripts/helm) lint --strict charts/litefs
	$$(scripts/helm) package --destination dist charts/litefs

sqlite-suite: setup ## SQLite's own test files, run on a mount
	@scripts/setup --sqlite-suite
	tests/sqlite_suite/run

e2e: setup ## tests on a real Kubernetes cluster, started for them (as root); E2E_KUBECONFIG=... uses another
	@scripts/setup --e2e
	@$(if $(E2E_KUBECONFIG),,$(BIN)/python -m e2e tools)
	$(BIN)/python -m pytest e2e $(if $(TESTS),-k "$(TESTS)")

e2e-up: setup ## start the cluster of the e2e tests, and leave it running
	@scripts/setup --e2e
	@$(BIN)/python -m e2e up

e2e-load: setup ## give the running cluster images of the sources as they are
	@$(BIN)/python -m e2e load

e2e-down: ## take it down, after whatever happened
	@$(BIN)/python -m e2e down

e2e-shell: setup ## a shell with kubectl for it
	@scripts/setup --e2e
	@$(BIN)/python -m e2e shell

clean: ## remove what the other targets created
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis sidecar/litefs.egg-info
