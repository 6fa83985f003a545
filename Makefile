# Each target sets up what it needs; a machine needs only make and Python >= 3.11.
#
#   make demo      train on real digits, compare methods, sweep learning rates; leaves pictures
#   make test      tests and doctests               (TESTS="tests/test_oracles.py -k adam" for some)
#   make quick     a tenth of the tests, chosen to find most mistakes, in two minutes
#   make lint      style, format, types
#   make bench     side by side with optax and torch, in an environment of its own
#   make examples  every example                    (FLAGS=--quick for a short look)
#   make docs      the site, in docs/build/html       (DOCS=quick for short examples)
#   make docs-open the site, served on this machine only (PORT=8001 for another port)
#   make clean     remove environments, caches and outputs
#
# PYTHON=python3.12 chooses the interpreter; WORKERS=8 the number of test processes.

.PHONY: help demo test quick lint bench examples docs docs-open clean
.NOTPARALLEL:

VENV = .venv
WORKERS = 2
PORT = 8000
# The tests of a file run in one process, since they share compiled programs. DIST=load splits files.
DIST = loadfile
# What to install for the tests: `versions` is enough for those that run with several versions,
# `interop` also has the packages that gdjax is tested inside of.
EXTRA = test
# How to install into the environment that is the folder of the target.
INSTALL ?= $(@D)/bin/python -m pip install -qq --disable-pip-version-check
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && echo $$p && break; done)

help:
	@sed -n '3,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(VENV)/.examples
	$(VENV)/bin/python examples/digits.py $(FLAGS)

test: $(VENV)/.$(EXTRA)
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist $(DIST) $(TESTS)

quick: $(VENV)/.test
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist load -m quick tests

lint: $(VENV)/.test $(VENV)/.lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/mypy

bench: .venv-bench/.bench
	.venv-bench/bin/python bench/run.py $(FLAGS)

examples: $(VENV)/.examples
	set -e; for f in examples/*.py; do $(VENV)/bin/python $$f $(FLAGS); done

# Warnings are errors; so are links that lead nowhere. FLAGS="-D plot_gallery=0" runs no example.
docs: $(VENV)/.docs
	DOCS=$(DOCS) JAX_PLATFORMS=cpu $(VENV)/bin/python -m sphinx -W --keep-going -q \
	  $(FLAGS) docs docs/build/html

docs-open: $(VENV)/.docs
	test -f docs/build/html/index.html || $(MAKE) docs
	$(VENV)/bin/python -m http.server --bind 127.0.0.1 --directory docs/build/html $(PORT)

clean:
	rm -rf .venv .venv-uv .venv-bench .venv-lowest .venv-newest .venv-wheel build dist src/*.egg-info
	rm -rf docs/build docs/generated
	rm -rf .pytest_cache .ruff_cache .mypy_cache examples/output bench/output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# DIRECTORY/.EXTRA says that this environment has the package, in place, with that extra.
$(VENV)/.examples $(VENV)/.test $(VENV)/.versions $(VENV)/.interop $(VENV)/.lint $(VENV)/.docs .venv-bench/.bench: pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv was found: set PYTHON=." >&2; exit 1; }
	test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	@echo "Installing into $(@D); the first time takes a minute or two."
	$(INSTALL) $(PIP_FLAGS) -e ".[$(@F:.%=%)]"
	@touch $@
