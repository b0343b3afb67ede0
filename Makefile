# Two commands are all a fresh machine needs: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slurm lint docs benchmark clean

demo: $(INSTALLED)
	$(BIN)/wsi-pipeline demo --output demo-output

test: $(INSTALLED) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-slurm: $(INSTALLED)
	$(BIN)/python -m pytest -m slurm

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/mkdocs build --strict

benchmark: $(INSTALLED)
	for name in segmenting decoders automatic reading vectorize pipeline; do $(BIN)/python -m benchmarks.$$name || exit 1; done

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo-output site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
