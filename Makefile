# tlc-minimal: `make demo` and `make test` are all that a newcomer needs; both set up .venv first if it is not there.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test lab lint format student variation site test-site slides nbgrader test-nbgrader launch test-play test-installed test-oldest test-newest clean

help:
	@echo "make demo           collapse a ResNet-18 on the embedded digits and show before -> after (two minutes)"
	@echo "make lab            open the course in JupyterLab"
	@echo "make test           every test, and every notebook in the smoke profile"
	@echo "make lint           ruff: check and format"
	@echo "make format         let ruff put right what it can"
	@echo "make variation NAME=mine"
	@echo "                    a folder for rules of your own: variations/mine/ (lesson 09)"
	@echo "make setup          only install into .venv (the others do it when needed)"
	@echo "make clean          remove .venv, build/, student/ and caches; data/ and runs/ stay"
	@echo "For those who teach:"
	@echo "make student        the notebooks without outputs and solutions, hints kept, into student/"
	@echo "make slides         one reveal.js deck a lesson, into build/slides/ (needs npm)"
	@echo "make nbgrader       a graded course from the exercises, into build/course/"
	@echo "make site           lessons, results, library and these pages as a site, into build/site/ (needs npm)"
	@echo "make launch REPO=owner/name [BRANCH=main]"
	@echo "                    the lessons with Colab, Kaggle and Binder buttons for a fork, into launch/"
	@echo "For those who change it:"
	@echo "make test-play      all ten lessons as a reader plays with them (make test draws one)"
	@echo "make test-site      the site and the slides in a headless Chromium"
	@echo "make test-nbgrader  right, half-right, spoilt and endless submissions, graded"
	@echo "make test-installed the built wheel in a clean venv and another folder: import, doctor, demo"
	@echo "make test-oldest    the tests on the oldest Python and the floors of pyproject.toml"
	@echo "make test-newest    the tests with the newest of everything"
	@echo "Another Python: make PYTHON=python3.12 setup"

setup: $(READY)

demo: $(READY)
	$(PY) -m tlc_minimal demo

# A process for each core, of one thread each; a file stays in one process, and the long ones come first.
test: $(READY)
	TLC_PROFILE=smoke OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses=8 --dist=loadfile --no-loadscope-reorder \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks tests --ignore=notebooks/variation/test_mine.py

# Another seed, rule and width, few images, no record: some minutes.
test-play: $(READY)
	TLC_PLAY=all OMP_NUM_THREADS=1 $(PY) -m pytest -q -rA -n logical --maxprocesses=8 tests/test_play.py

lab: $(READY)
	$(PY) -m jupyterlab notebooks/00_tour.ipynb

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

student: $(READY)
	rm -rf student
	$(PY) -m nbconvert --log-level=WARN --to notebook --output-dir=student --ClearOutputPreprocessor.enabled=True \
	  --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags=solution notebooks/*.ipynb
	@echo "The notebooks without outputs and solutions are in student/"

site: .venv/.site build/npm
	OMP_NUM_THREADS=1 $(PY) -m tools.site

slides: $(READY) build/npm
	$(PY) -m tools.slides

test-site: site slides
	$(PY) -m pytest -q tools/test_site.py

nbgrader: .venv/.grade
	$(PY) -m tools.grade

test-nbgrader: .venv/.grade
	$(PY) -m pytest -q tools/test_nbgrader.py

BRANCH ?= main
launch:
	@$(PYTHON) -m tools.launch "$(REPO)" "$(BRANCH)"

# Not from this folder, and not editable: what a person has who never cloned it.
test-installed: VENV := build/installed
test-installed: $(READY)
	rm -rf build/wheel
	$(PY) -m pip wheel -qq --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install -qq -c constraints.txt "$$(ls build/wheel/*.whl)[course]"
	cd $(VENV) && bin/python $(CURDIR)/tools/installed.py

# The floors of the core and the course, on the oldest Python; and no constraints at all. Each in a venv of its own.
OLDEST ?= python3.11
NEWEST ?= python3.13
test-oldest: VENV := build/oldest
test-oldest:
	$(OLDEST) -m venv --clear $(VENV)
	$(VENV)/bin/python tools/floors.py > $(VENV)/floors.txt
	$(VENV)/bin/python -m pip install -qq -c $(VENV)/floors.txt -e ".[course,dev]"
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n logical --maxprocesses=8 --dist=loadfile tests

test-newest: VENV := build/newest
test-newest:
	$(NEWEST) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install -qq --upgrade -e ".[course,dev]"
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n logical --maxprocesses=8 --dist=loadfile tests

variation: $(READY)
	@$(PY) -m tlc_minimal.lessons.variation '$(NAME)'

clean:
	rm -rf .venv student build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find tlc_minimal tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# What one extra brings, beside what is there: .venv/.site, .venv/.grade
.venv/.%: $(READY)
	$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@touch $@

# MathJax and reveal.js, whole: pages and slides fetch nothing when they are looked at.
build/npm:
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js (on Debian and Ubuntu: apt install npm)" >&2; exit 1; }
	npm install --silent --no-audit --no-fund --no-save --prefix build/npm mathjax@3.2.2 reveal.js@4.6.1 requirejs@2.3.7 || { rm -rf build/npm; exit 1; }

# The stamp is newer than both files: nothing to do. A venv whose Python has gone is made again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || { \
	  echo "This needs Python >=3.11,<3.14, and '$(PYTHON)' is not. Install one, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv, then again: make $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv: once, a few minutes and some gigabytes (PyTorch)"
	@quiet=-qq; if [ -t 1 ]; then quiet=; fi; \
	  $(PY) -m pip install $$quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[course,dev]" || { \
	  echo "pip stopped (see above): check network and disk space, then the same make command again." >&2; exit 1; }
	@$(PY) -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true  # what pip does on one core alone
	@touch $@
