# What a newcomer needs: make demo, make test. Each sets up what is missing by itself.
SHELL := /bin/sh
PYTHON ?=
VENV ?= .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
CODE := function_app.py settings.py handlers detections response clients simtenant workbench bench scripts tests

.PHONY: demo up test check bench package clean

$(READY): requirements.txt requirements-dev.txt package-lock.json
	@scripts/set-up $(VENV) $(PYTHON)

demo: $(READY) ## the whole story on this machine: an agent goes rogue and is stopped, with proof
	@$(RUN) -m simtenant demo

up: $(READY) ## the simulated tenant and the app, left running
	@$(RUN) -m simtenant up

test: $(READY) ## all tests
	@scripts/node-modules
	@$(RUN) -m pytest -q -n 2

check: $(READY) ## lint, types, import direction, rule gate, documents in step
	@$(VENV)/bin/ruff check $(CODE)
	@$(VENV)/bin/ruff format --check $(CODE)
	@$(VENV)/bin/mypy
	@$(RUN) -m pytest -q tests/structure
	@$(RUN) -m workbench check

bench: $(READY) ## measurements as JSON: medians and ratios
	@$(RUN) -m bench

package: $(READY) ## the zip that is deployed, and its size
	@$(RUN) scripts/package.py

clean:
	rm -rf $(VENV) $(VENV).log .node-modules.log node_modules dist .state .mypy_cache .ruff_cache .pytest_cache .hypothesis
