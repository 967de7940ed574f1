# `make demo` and `make test` need Python 3.10 or newer, make, and pip's access to PyPI. Nothing else.
#
#   make demo               the race, in the terminal and then in your browser (ONCE=1: only the terminal; PORT=8000)
#   make test               the whole suite (ARGS="-k fence" is passed to pytest; the slow marker is in test-slow)
#   make test-frameworks    the test suites of the frameworks themselves, with this package's sessions
#   make histories          200,000 random histories against a model, into docs/histories.md
#   make test-slow lint typecheck coverage clean
#   PYTHON=/path/to/python  the interpreter to use, if not the first suitable one on PATH

SHELL := /bin/sh
VENV ?= .venv
PY := $(VENV)/bin/python
# In the order of the files: the slowest come early. By itself xdist begins with the files that have the most tests.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
INPUTS := setup.py $(wildcard requirements/*.txt) tests/fetch_redis.py

.PHONY: help demo test test-slow test-frameworks histories lint format typecheck coverage clean
help:
	@sed -n '/^$$/q;s/^# \{0,1\}//p' Makefile

demo: $(VENV)/demo.stamp
	@$(PY) -m wsgi_rollsession demo $(if $(ONCE),--once) $(if $(PORT),--port $(PORT))

# The environment's bin comes last on PATH: a redis-server of the system is preferred to the fetched one.
# Most tests wait for servers most of the time, so two run for each processor.
test: $(VENV)/test.stamp
	PYTEST_XDIST_AUTO_NUM_WORKERS=$$((2 * $$(getconf _NPROCESSORS_ONLN))) PATH="$$PATH:$(CURDIR)/$(VENV)/bin" $(PY) -m pytest $(PARALLEL) $(ARGS)

# 200,000 random histories, into the page.
histories: $(VENV)/test.stamp
	$(PY) -m tests.histories --count 200000 --processes 2 --seed 1 --out docs/histories.md $(ARGS)

# One after the other: some of them are held to a bound, and need the machine for themselves.
test-slow: $(VENV)/test.stamp
	$(PY) -m pytest -m slow $(ARGS)

# An environment of its own: these suites want other versions of pytest than ours.
test-frameworks: $(VENV)-frameworks/made.stamp
	$(VENV)-frameworks/bin/python -m tests.frameworks.upstream --cache $(VENV)-frameworks/sdists $(ARGS)
	$(VENV)-frameworks/bin/python -m tests.frameworks.upstream_django --cache $(VENV)-frameworks/sdists
	$(VENV)-frameworks/bin/python -m tests.frameworks.upstream_pyramid --cache $(VENV)-frameworks/sdists

coverage: $(VENV)/test.stamp
	PATH="$$PATH:$(CURDIR)/$(VENV)/bin" $(PY) -m pytest $(PARALLEL) --cov --cov-report=term $(ARGS)

lint: $(VENV)/lint.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/lint.stamp
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

typecheck: $(VENV)/lint.stamp
	$(PY) -m mypy

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .nox .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make bench` and `make bench-quick`.
-include benchmarks/bench.mk

# ---- The environment, made again whenever what it is made from changes ----

# An interpreter is tried by running it: a pyenv shim, for one, may be on PATH and only print an error.
# Set PYTHON to choose; otherwise the first of these that is new enough, preferring one that can make environments.
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.10
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 10))
WITH_PIP := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))

$(VENV)/.made: $(INPUTS)
	@set -eu; python="$(PYTHON)"; \
	if [ -n "$$python" ]; then \
	  "$$python" -c '$(NEW_ENOUGH)' 2>/dev/null \
	    || { echo "make: PYTHON must be Python 3.10 or newer, received $$python" >&2; exit 1; }; \
	else \
	  for test in '$(WITH_PIP)' '$(NEW_ENOUGH)'; do for candidate in $(CANDIDATES); do \
	    if [ -z "$$python" ] && "$$candidate" -c "$$test" >/dev/null 2>&1; then python="$$candidate"; fi; \
	  done; done; \
	  [ -n "$$python" ] || { echo "make: needs Python 3.10 or newer; none of these works: $(CANDIDATES)." \
	    "Name one with PYTHON=/path/to/python" >&2; exit 1; }; \
	fi; \
	echo "Creating $(VENV) with $$("$$python" --version)"; \
	rm -rf $(VENV); \
	if "$$python" -c 'import venv, ensurepip' 2>/dev/null; then "$$python" -m venv $(VENV); \
	elif "$$python" -m venv --without-pip $(VENV) 2>/dev/null \
	  && "$$python" -m pip --python $(PY) install -q pip 2>/dev/null; then :; \
	else rm -rf $(VENV); echo "make: this Python cannot create an environment with pip." \
	  "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; fi; \
	touch $@

$(VENV)/demo.stamp: $(VENV)/.made
	$(PY) -m pip install -q --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/.made
	$(PY) -m pip install -q --disable-pip-version-check -r requirements/test.txt
	@$(PY) tests/fetch_redis.py $(VENV)/bin
	@touch $@ $(VENV)/demo.stamp

$(VENV)-frameworks/made.stamp: $(VENV)/.made requirements/frameworks.txt
	$(PY) -m venv --clear $(VENV)-frameworks
	$(VENV)-frameworks/bin/python -m pip install -q --disable-pip-version-check -r requirements/frameworks.txt
	@touch $@

$(VENV)/lint.stamp: $(VENV)/.made
	$(PY) -m pip install -q --disable-pip-version-check -r requirements/lint.txt -e .
	@touch $@
