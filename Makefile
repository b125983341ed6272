# tlc-minimal: `make demo` and `make test` are all that a newcomer needs; both set up .venv first if it is not there.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test lab lint format student variation clean

help:
	@echo "make demo     collapse a ResNet-18 on the embedded digits and show before -> after (3 minutes)"
	@echo "make lab      open the course in JupyterLab"
	@echo "make test     every test, and every notebook in the smoke profile"
	@echo "make lint     ruff: check and format"
	@echo "make format   let ruff put right what it can"
	@echo "make student  the notebooks without the solutions, into student/"
	@echo "make variation NAME=mine  a folder for rules of your own: variations/mine/ (lesson 09)"
	@echo "make setup    only install into .venv (the others do it when needed)"
	@echo "make clean    remove .venv, student/ and caches; data/ and runs/ stay"
	@echo "Another Python: make PYTHON=python3.12 setup"

setup: $(READY)

demo: $(READY)
	$(PY) -m tlc_minimal demo

# A process for each core, of one thread each; a file stays in one process, and the long ones come first.
test: $(READY)
	TLC_PROFILE=smoke OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses=8 --dist=loadfile --no-loadscope-reorder \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks tests

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
	$(PY) -m nbconvert --log-level=WARN --to notebook --output-dir=student \
	  --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags=solution notebooks/*.ipynb
	@echo "The notebooks without the solutions are in student/"

variation: $(READY)
	@$(PY) -m tlc_minimal.lessons.variation '$(NAME)'

clean:
	rm -rf .venv student build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find tlc_minimal tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than both files: nothing to do. A venv whose Python has gone is made again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || { \
	  echo "This needs Python >=3.11,<3.14, and '$(PYTHON)' is not. Install one, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv, then again: make $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv: once, a few minutes and some gigabytes (PyTorch)"
	@quiet=-qq; if [ -t 1 ]; then quiet=; fi; \
	  $(PY) -m pip install $$quiet --disable-pip-version-check -c constraints.txt -e ".[course,dev]" || { \
	  echo "pip stopped (see above): check network and disk space, then the same make command again." >&2; exit 1; }
	@touch $@
