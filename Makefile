# Everything that a fresh clone needs: `make demo`, `make lab`, `make test`.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m

.PHONY: demo lab test check pins hooks install clean

demo: $(VENV)/installed
	$(RUN) nbgen demo

# In a container one is often root, which JupyterLab refuses unless told.
lab: $(VENV)/installed
	$(VENV)/bin/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) \
		notebooks/quickstart.ipynb

# In the order of how soon each tells that something is wrong.
test: $(VENV)/installed-for-tests check
	@sh tools/install_chromium.sh
	$(RUN) coverage erase
	$(RUN) coverage run -m pytest -rs -n auto --dist worksteal
	$(RUN) coverage combine --quiet
	$(RUN) coverage report --fail-under=90
	$(RUN) coverage report --fail-under=100 --include='$(COVERED_WHOLLY)'
	$(RUN) pytest -rs -p no:randomly --nbval --nbval-current-env --nbval-cell-timeout=300 notebooks

# Rules without I/O, on which all else stands: each branch of them has a test.
COVERED_WHOLLY := */nbgen/progress/*,*/nbgen/review/*,*/nbgen/wire/*

check: $(VENV)/installed-for-tests
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# Write constraints.txt: what is installed now, after the tests have passed with it.
pins: $(VENV)/installed-for-tests
	$(VENV)/bin/python tools/pin.py

# Run `make check`'s programs before each commit.
hooks: $(VENV)/installed-for-tests
	$(RUN) pip install --quiet --constraint constraints.txt --group dev
	$(VENV)/bin/pre-commit install

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nbgen needs Python 3.11 or newer: run `make PYTHON=python3.11 …` with one you have")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)/bin/python tools/install_torch.py
	$(RUN) pip install --quiet --constraint constraints.txt --editable '.[notebook]'
	@touch $@

$(VENV)/installed-for-tests: $(VENV)/installed
	$(RUN) pip install --quiet --constraint constraints.txt --group test
	@touch $@

clean:
	rm -rf $(VENV) build dist outputs .mypy_cache .ruff_cache .pytest_cache .coverage*
