# make demo   the main job from a fresh clone: environment, bundled LM and data, service, job, report
# make test   everything, on SQLite and on PostgreSQL and Redis
# make check  the fast gate: format, lint, types, import contracts, banned calls, quick tests, known vulnerabilities
# make lint   the gate without its tests
# make lock   requirements/*.lock from the lists and constraints.txt, after one of these was edited
# make serve  the embedded server in the foreground
# make fuzz   an hour at most of requests nobody thought of, on both databases
# make bench  benchmarks (ARGS=…)
# make chaos  ten minutes of random faults on real servers, and a checker (ARGS="--minutes 1 --seed 1")
# make bench-quality  does it help: ARGS=--quick (5 to 9 minutes), or ARGS="--data PATH" (hours; stop it and go on at will)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CODE := api models worker migrations client tests benchmarks examples
ARGS ?=
WORKERS ?= 2

.PHONY: demo test lint check lock serve fuzz bench bench-quality chaos clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.house.audit

check: lint
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" tests/test_house.py tests/house tests/security tests/semisup tests/migrations tests/test_deploy.py

serve: $(INSTALLED)
	$(BIN)/semift up $(ARGS)

fuzz: $(INSTALLED)
	SEMIFT_TEST_FUZZ_EXAMPLES=200 $(BIN)/python -m pytest -q tests/api/test_schemathesis.py $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks $(ARGS)  # e.g. ARGS="fpb path/to/fpb"

bench-quality: $(INSTALLED)
	$(BIN)/python -m benchmarks quality $(ARGS)

chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos $(ARGS)

clean:
	rm -rf $(VENV) .semift

# Everything by version and hash, but torch by version alone: its CPU and CUDA builds differ. It comes last, so that what it
# needs besides CUDA is there already.
$(INSTALLED): requirements/dev.lock client/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --require-hashes --no-deps -r requirements/dev.lock
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q --no-deps --no-build-isolation -e client
	touch $@

lock: $(INSTALLED)
	for name in api worker dev; do \
		$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
			requirements/$$name.txt -c requirements/constraints.txt \
			| awk '/^[^ ]/ {skip = /^(torch|triton|nvidia-|cuda-)/} !skip' > requirements/$$name.lock || exit 1; \
	done
