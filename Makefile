# `make demo` and `make test` do all their own set-up: Python 3.11-3.13, git and make are all they need.
SHELL := /bin/sh
VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
TOOLS := tests/tools/node_modules/.ready
BPY   := .venv-bpy/.ready
OUT   ?= out/demo
PROMPT ?= a red mug
# The first interpreter on the path that is new enough and not too new.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)

.PHONY: help setup demo test test-slow test-tools lint fmt bench clean

help:
	@echo "make demo        a textured mesh, a turntable and a report from a prompt (PROMPT='a red mug' OUT=out/demo)"
	@echo "make test        the tests (a few minutes)      make test-slow   the long ones"
	@echo "make test-tools  the files under other programs: Khronos' validator, three.js (need Node), Blender, Godot"
	@echo "make lint        ruff and mypy                  make fmt         put imports and layout in order"
	@echo "make bench       measure everything, print the table, write benchmarks/results.json"

setup: $(READY)

# One environment, pinned versions, a stamp when it is complete.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Maquette needs Python 3.11, 3.12 or 3.13 on the path (or: make PYTHON=/path/to/python)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once; a few minutes)"
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/maquette make "$(PROMPT)" --out "$(OUT)"
	@echo
	@echo "The demo's files:"
	@for f in asset.glb turntable.mp4 turntable.gif sheet.png report.html report.json; do \
		test -e "$(OUT)/$$f" && echo "  $(abspath $(OUT))/$$f"; done; true

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not tools"

test-slow: $(READY)
	$(BIN)/python -m pytest -q -m "slow and not tools"

$(TOOLS): tests/tools/package.json
	@command -v npm >/dev/null || { echo "make test-tools needs Node 18 or newer with npm (nodejs.org)"; exit 2; }
	npm install --prefix tests/tools --no-audit --no-fund --loglevel=error
	@touch $(TOOLS)

# Blender's module in an environment of its own, where its wheel and Python 3.11 are to be had; tests skip without.
$(BPY):
	@mkdir -p .venv-bpy && touch $(BPY)
	@py=$$(command -v python3.11) && $$py -m venv .venv-bpy && .venv-bpy/bin/python -m pip install --quiet --quiet \
		'bpy==4.5.15' 'numpy<2' || { echo "no Blender module here: its tests are skipped"; rm -f .venv-bpy/bin/python; }

test-tools: $(READY) $(TOOLS) $(BPY)
	$(BIN)/python -m pytest -q -m tools

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

fmt: $(READY)
	$(BIN)/ruff check --fix-only --select I,UP .

bench: $(READY)
	$(BIN)/python -m benchmarks --page

clean:
	rm -rf out build .pytest_cache .mypy_cache .ruff_cache
