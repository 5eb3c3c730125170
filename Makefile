# Everything a person or CI runs. Set-up happens by itself; `make` alone lists the commands.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
BINARY := dist/kukuri-sidecar/kukuri-sidecar
SOURCES := $(shell find sidecar -name '*.py') build/kukuri-sidecar.spec pyproject.toml requirements.lock
export PYTHONPATH := sidecar

.PHONY: help setup demo chat test check interop binary schema format bench-rpc meet sim clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 14

setup: $(VENV)/.ready ## make .venv from the lock file (every other command does it by itself)

$(VENV)/.ready: requirements.lock
	@PYTHON=$(PYTHON) build/need.sh python
	@echo "setting up $(VENV) (once) ..."
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --prefer-binary -r requirements.lock
	@touch $@

demo: $(BINARY) ## three sidecars on this machine meet by a topic's name and talk, live
	@build/need.sh node
	@node host-example/node/demo.mjs

chat: $(BINARY) ## TOPIC=name [TICKET=...] [DHT=host:port]: talk in a topic from the terminal
	@build/need.sh node
	@node host-example/node/chat.mjs "$(TOPIC)" $(TICKET) $(addprefix --dht=,$(DHT))

test: setup $(BINARY) .cache/iroh-wheels/.ready ## all tests that need no Rust
	@build/need.sh node
	$(PY) -m pytest -m "not interop and not slow" $(ARGS)
	node --test host-example/node/test/

check: setup ## format, lint, types, import rules, schema drift
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m kukuri_sidecar schema --check

interop: setup $(BINARY) ## real Rust iroh-gossip peers (needs cargo; the build is cached outside the clone)
	@build/need.sh cargo
	tests/peers/build_rust_peers.sh
	$(PY) -m pytest -m interop $(ARGS)

binary: $(BINARY) ## the frozen one-dir build

$(BINARY): $(VENV)/.ready $(SOURCES)
	@echo "freezing $@ ..."
	@PYTHONHASHSEED=1 PYINSTALLER_ZLIB_COMPRESSION_LEVEL=0 $(PY) -m PyInstaller --noconfirm --log-level ERROR --workpath .cache/pyinstaller --distpath dist build/kukuri-sidecar.spec
	@$(PY) build/smoke.py $(BINARY)
	@touch $@

schema: setup ## write rpc-schema/ from the code
	$(PY) -m kukuri_sidecar schema

format: setup ## let ruff format and mend
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench-rpc: $(BINARY) ## [ARGS=--anchor]: start-up, memory, round trips and exit times of the frozen binary beside their targets
	$(PY) tests/bench/rpc.py $(BINARY) $(ARGS)

meet: setup ## two strangers meet by a topic's name, 20 times, among 500 DHT nodes of which a fifth is dead
	$(PY) -m pytest -m slow -s tests/interop/test_rendezvous.py

sim: setup ## [NODES="100 1000"]: gossip simulations of the production core beside the Rust figures
	PYTHONPATH=sidecar:tests $(PY) -m sim.gossip_report --nodes $(or $(NODES),100 1000)
	@PYTHONPATH=sidecar:tests $(PY) -m sim.gossip_plots .cache/gossip.png

.cache/iroh-wheels/.ready: tests/peers/iroh_wheels.lock $(VENV)/.ready
	$(PY) tests/peers/fetch_iroh_wheels.py
	@touch $@

clean: ## remove what was built here
	rm -rf $(VENV) .cache dist
