# make demo   the main job from a fresh clone: environment, bundled LM and data, service, job, report
# make test   everything, on SQLite and on PostgreSQL and Redis
# make check  the fast gate: format, lint, types, import contracts, quick tests
# make serve  the embedded server in the foreground
# make bench  benchmarks (ARGS=…)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CODE := api models worker migrations client tests benchmarks examples
ARGS ?=
WORKERS ?= 2

.PHONY: demo test check serve bench clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" tests/test_house.py tests/semisup tests/migrations tests/test_deploy.py

serve: $(INSTALLED)
	$(BIN)/semift up $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks $(ARGS)  # e.g. ARGS="fpb path/to/fpb"

clean:
	rm -rf $(VENV) .semift

# torch comes first and by version alone: its CPU and CUDA builds differ, everything else is pinned in constraints.txt.
$(INSTALLED): requirements/api.txt requirements/worker.txt requirements/dev.txt requirements/constraints.txt client/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -r requirements/dev.txt -c requirements/constraints.txt
	$(BIN)/pip install -q -e client -c requirements/constraints.txt
	touch $@
