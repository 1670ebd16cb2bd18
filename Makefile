# The few commands there are. `make help` lists them.

PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin
# pip's configured find-links may hold a CPU build of torch; uv does not read pip's settings by itself.
FIND_LINKS := $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
UV := UV_FIND_LINKS="$(FIND_LINKS)" UV_HTTP_TIMEOUT=180 $(RUN)/uv
UV_VERSION := 0.13.9

.PHONY: help setup demo test test-cluster check chaos bench-data bench-train s3 format lock

help:
	@echo "make demo    set up, then the whole job on one healthy brain: train, evaluate, promote, upscale (minutes)"
	@echo "make test    set up, then the test suite"
	@echo "make test-cluster  the tests that take minutes each: sweeps, killed processes, lost machines, hostile files"
	@echo "make check   lint, format, types, import directions"
	@echo "make chaos   a training to which faults happen at random, and what it came to (MINUTES=5 SEED=0)"
	@echo "make bench-data  how fast training crops arrive, from a folder and from S3 (minutes)"
	@echo "make bench-train  what exact training costs beside fast training, a step (minutes)"
	@echo "make s3      an S3 server on this machine, until Ctrl-C; its data and keys are in s3/"
	@echo "make setup   only .venv with the locked dependencies"
	@echo "make format  format the code"
	@echo "make lock    resolve the dependencies anew into requirements.lock"

# Compatible mode puts this folder on Python's path. The other lets a folder named metasr, such as ~/metasr, hide the
# package from whoever works beside it.
setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet uv==$(UV_VERSION)
	$(UV) pip install --quiet --python $(RUN)/python --constraint requirements.lock \
		--config-setting editable_mode=compat --editable ".[demo,dev]"
	touch $@

demo: setup
	$(RUN)/metasr demo --output demo

test: setup
	$(RUN)/pytest

test-cluster: setup
	METASR_FUZZ_EXAMPLES=30000 $(RUN)/pytest tests/properties
	$(RUN)/pytest -m slow
	$(RUN)/pytest tests/chaos

check: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

MINUTES := 5
SEED := 0
chaos: setup
	$(RUN)/python -m tests.chaos.chaos --minutes $(MINUTES) --seed $(SEED) --output chaos

bench-data: setup
	$(RUN)/python tests/benchmarks/data_throughput.py

bench-train: setup
	$(RUN)/python tests/benchmarks/training_step.py

s3: setup
	$(RUN)/python infra/storage/s3.py

format: setup
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

# The build of torch and the CUDA packages that it brings depend on the machine, so neither is written down with a
# hash, and a torch of a local index loses its suffix.
lock: setup
	$(UV) pip compile --quiet --python $(RUN)/python --all-extras --no-header --no-annotate pyproject.toml \
		| sed -E 's/^(torch(vision)?==[0-9.]+)\+.*/\1/' > requirements.new
	mv requirements.new requirements.lock
