# Needs a POSIX sh, make and Python >= 3.13 (or uv). Each target sets up .venv as far as it needs it.
PY := .venv/bin/python

.PHONY: help setup run-env test-env demo test coverage check format docs spec bench bench-peers lab pin clean

help:
	@echo "make demo      index the standard library with a queue and a worker"
	@echo "make test      the whole test suite, and the branches that it reaches; ARGS='-k name' runs a part of it"
	@echo "make coverage  the suite without the laboratory, and the branches that it reaches"
	@echo "make check     linters, type checkers, layers"
	@echo "make format    let ruff put the code in order"
	@echo "make docs      build the documentation into site/; a warning is an error"
	@echo "make spec      validate openspec/"
	@echo "make bench     benchmarks"
	@echo "make bench-peers  sitq beside other task queues; ARGS='sitq huey' names some, ARGS=--publish writes the page"
	@echo "make lab       the laboratory: long runs that look for broken promises; ARGS='kill --count 500'"
	@echo "make pin       write requirements/*.txt anew"

setup:
	@sh scripts/bootstrap.sh dev

run-env:
	@sh scripts/bootstrap.sh run

test-env:
	@sh scripts/bootstrap.sh test

demo: run-env
	@$(PY) -m examples.stdlib_index $(ARGS)

PARALLEL := --numprocesses logical --maxprocesses 4 --dist worksteal

ifdef ARGS
test: test-env
	@$(PY) -m pytest $(PARALLEL) $(ARGS)
else
test: coverage
	@$(PY) -m pytest $(PARALLEL) tests/lab
endif

# Not of the laboratory: it would take several times as long, and most of its processes are killed.
coverage: test-env
	@rm -rf .coverage
	@$(PY) -m coverage run -m pytest $(PARALLEL) --ignore tests/lab $(ARGS)
	@$(PY) -m coverage combine --quiet
	@$(PY) scripts/floors.py

check: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/pyright --warnings
	.venv/bin/lint-imports

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: setup
	@$(PY) scripts/docs.py

spec: setup
	@OPENSPEC_TELEMETRY=0 DO_NOT_TRACK=1 sh scripts/npm.sh openspec openspec validate --all --strict --no-interactive

bench: run-env
	@$(PY) -m benchmarks $(ARGS)

bench-peers: run-env
	@sh scripts/peers.sh
	@$(PY) -m benchmarks peers $(ARGS)

lab: test-env
	@$(PY) -m tests.lab $(or $(ARGS),--help)

pin: setup
	@sh scripts/pin.sh

clean:
	rm -rf .venv .venv-peers* .coverage site docs/assets/mermaid.min.js tools/*/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
