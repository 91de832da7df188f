# What a newcomer needs: make demo, make test. Each sets up what is missing by itself.
SHELL := /bin/sh
PYTHON ?=
VENV ?= .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
CODE := function_app.py settings.py handlers detections response clients simtenant workbench bench scripts tests

.PHONY: demo up test check bench package package-check package-host lock clean

$(READY): requirements.txt requirements-dev.txt package-lock.json
	@scripts/set-up $(VENV) $(PYTHON)

demo: $(READY) ## the whole story on this machine: an agent goes rogue and is stopped, with proof
	@$(RUN) -m simtenant demo

up: $(READY) ## the simulated tenant and the app, left running
	@$(RUN) -m simtenant up

test: $(READY) ## all tests
	@scripts/node-modules
	@$(RUN) -m pytest -q -n 3 --dist worksteal

check: $(READY) ## lint, types, import direction, rule gate, documents in step
	@$(VENV)/bin/ruff check $(CODE)
	@$(VENV)/bin/ruff format --check $(CODE)
	@$(VENV)/bin/mypy
	@$(RUN) -m pytest -q tests/structure
	@$(RUN) -m workbench check

bench: $(READY) ## measurements as JSON: medians and ratios
	@$(RUN) -m bench

package: $(READY) ## the zip that is deployed: Linux x86-64, Python 3.13
	@$(RUN) scripts/package.py

package-check: $(READY) ## the tests of production code, on the package (for the Python of .venv)
	@$(RUN) scripts/package.py check -n 2

package-host: $(READY) ## the package in a clean environment under Microsoft's runtime, given an incident
	@$(RUN) scripts/package.py host

lock: $(READY) ## requirements-py*.lock from requirements.txt
	@$(RUN) scripts/package.py lock

clean:
	rm -rf $(VENV) $(VENV).log .node-modules.log node_modules dist .state .mypy_cache .ruff_cache .pytest_cache .hypothesis
