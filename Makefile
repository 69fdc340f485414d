# Every target makes what it needs: Python 3.11 or newer and the package index are enough to begin with.
#
# torch: on Linux, the package index's own build carries the CUDA libraries, some gigabytes. On a machine without a GPU
# a CPU build is preferable. Put its wheel into a folder and name the folder in PIP_FIND_LINKS, or name an index that
# has it in PIP_EXTRA_INDEX_URL: `2.13.0+cpu` is taken for the `2.13.0` that is pinned, and preferred.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
RUNS := $(VENV)/.runs
PIP_VERSION := 26.3
# Of 350 MB of Python a run compiles what it imports, once; where it may keep nothing, all is compiled ahead.
UNCOMPILED := $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)
QUIETLY := --quiet --disable-pip-version-check $(UNCOMPILED) --constraint requirements.lock
# uv takes seconds for what takes pip minutes. What it has to know of pip's settings it is told here; where others
# matter, and it fails, pip does it.
UV := $(if $(PIP_INDEX_URL),UV_DEFAULT_INDEX=$(PIP_INDEX_URL)) $(if $(PIP_EXTRA_INDEX_URL),UV_INDEX="$(PIP_EXTRA_INDEX_URL)") \
	UV_HTTP_RETRIES=1 $(VENV)/bin/uv pip install --quiet --python $(PY) $(if $(UNCOMPILED),,--compile-bytecode) \
	$$(for place in $(or $(PIP_FIND_LINKS),$$($(PY) -m pip config get global.find-links 2>/dev/null)); do \
		echo --find-links $$place; done)
CACHES := .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

# The first that is new enough and can make environments; `make PYTHON=...` chooses another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo serve test lint format layers types openapi openapi-check bench docs lock lock-hashes lint-deploy audit sbom release test-newest test-zoo clean distclean

help: ## what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

install: $(STAMP) ## the environment .venv, from the pinned versions

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer, with venv, is needed: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check pip==$(PIP_VERSION)
	$(PY) -m pip install $(QUIETLY) uv
	@$(UV) -r requirements.lock || { \
		echo "uv could not install that; pip does"; \
		$(PY) -m pip install --quiet $(UNCOMPILED) -r requirements.lock; }
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(RUNS): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer, with venv, is needed: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install $(QUIETLY) editables hatchling
	$(PY) -m pip install $(QUIETLY) --no-build-isolation --editable '.[cli,workers,embedded,plot]' scikit-learn
	@touch $@

# Where all is installed there is nothing to add. Else what the demo runs, at the same versions, without tests and tools,
# and without compiling what is never imported.
demo: $(or $(wildcard $(STAMP)),$(RUNS)) ## the whole way once: real digits, real service, influences, pictures (ARGS=--exit ends by itself)
	$(PY) -m demo $(ARGS)

serve: $(STAMP) ## the service on this machine (ARGS="--port 8765 --workers 1 --data-dir upweight-data")
	$(VENV)/bin/upweight serve $(ARGS)

test: $(STAMP) ## all tests, with a real Redis and real workers (ARGS="-k name", JOBS=2 processes)
	$(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: $(STAMP) layers lint-deploy ## style, format, the arrows between packages, images and manifests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

lint-deploy: $(STAMP)
	$(VENV)/bin/hadolint docker/*.Dockerfile
	$(VENV)/bin/yamllint --strict compose.yaml deploy .yamllint.yaml .pre-commit-config.yaml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	$(VENV)/bin/kubernetes-validate --strict $(filter-out %/kustomization.yaml,$(wildcard deploy/kubernetes/*.yaml)) >/dev/null

layers: $(STAMP)
	$(VENV)/bin/lint-imports

format: $(STAMP) ## write the format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(STAMP) ## mypy, strict
	$(VENV)/bin/mypy

openapi: $(STAMP) ## write openapi.json
	$(PY) .ci/openapi.py

openapi-check: $(STAMP) ## openapi.json is valid and up to date
	$(PY) .ci/openapi.py --check

bench: $(STAMP) ## the figures of benchmarks/README.md
	$(PY) -m benchmarks $(ARGS)

lock: $(STAMP) ## requirements.lock from what .venv holds now
	$(PY) .ci/lock.py > requirements.lock.new
	mv requirements.lock.new requirements.lock

docs: $(STAMP) ## the documentation as a site, build/docs; a warning is an error
	$(VENV)/bin/sphinx-build -W --keep-going -q -b html docs build/docs

lock-hashes: $(STAMP) ## requirements.hashes.txt and docker/*.txt from requirements.lock, with the index's hashes
	$(PY) .ci/hashes.py

audit: $(STAMP) ## known vulnerabilities of what is pinned (ADVISORIES=all.zip: offline, by a file of osv.dev)
	$(PY) .ci/audit.py $(if $(ADVISORIES),--advisories $(ADVISORIES))

sbom: $(STAMP) ## the bill of materials, build/sbom.cdx.json (CycloneDX)
	mkdir -p build
	$(VENV)/bin/cyclonedx-py requirements requirements.hashes.txt --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.cdx.json

release: $(STAMP) sbom ## dist/: wheel, source, bill of materials (CycloneDX), and their sums
	rm -rf dist
	$(PY) -m hatchling build -d dist
	cp build/sbom.cdx.json dist/upweight-$$($(PY) -m hatchling version).cdx.json
	cd dist && sha256sum * > SHA256SUMS

test-newest: $(STAMP) ## the SDK's tests with the newest Python of this machine, where one is newer than ours
	$(PY) .ci/newest.py

# torchvision's wheel of the index is compiled for CUDA's torch, and packages that see it there import it: it lies apart.
ZOO := .venv-zoo
$(ZOO)/.installed: $(STAMP) Makefile
	rm -rf $(ZOO)
	$(PY) -m pip install $(QUIETLY) --no-deps --target $(ZOO) torchvision==0.28.0 timm==1.0.31
	@touch $@

test-zoo: $(ZOO)/.installed ## products of torchvision's, timm's and transformers' networks, by name
	UPWEIGHT_REQUIRE_ZOO=1 PYTHONPATH=$(ZOO) $(PY) -m pytest tests/programs/test_zoo_graphs.py

clean: ## caches, builds, the demo's data and pictures; your data and .venv stay
	rm -rf $(CACHES) demo-data demo-pictures
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## and .venv
	rm -rf $(VENV) .venv-newest $(ZOO)
