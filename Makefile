# The few commands there are. `make help` lists them.

# The first Python from 3.11 on that this machine has; PYTHON=... names another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
VENV := .venv
RUN := $(VENV)/bin
UV := UV_HTTP_TIMEOUT=180 $(RUN)/uv
UV_VERSION := 0.13.9

.PHONY: help setup demo test coverage test-cluster check chaos bench bench-check bench-data bench-train s3 up down status e2e sbom \
	picture format lock

help:
	@echo "make demo    set up, then the whole job on one healthy brain: train, evaluate, promote, upscale (minutes)"
	@echo "make test    set up, then the test suite"
	@echo "make coverage  the test suite, and which lines its own processes ran (Ray's workers and commands are not seen)"
	@echo "make test-cluster  the tests that take minutes each: sweeps, killed processes, lost machines, hostile files"
	@echo "make check   lint, format, types, import directions"
	@echo "make chaos   a training to which faults happen at random, and what it came to (MINUTES=5 SEED=0)"
	@echo "make bench   how fast images are enlarged, beside other networks and the least possible (minutes); writes bench/"
	@echo "make bench-check  the same for small images, on one core: whether the ratios keep their bounds (a minute)"
	@echo "make bench-data  how fast training crops arrive, from a folder and from S3 (minutes)"
	@echo "make bench-train  what exact training costs beside fast training, and Ray beside torch.distributed, a step (minutes)"
	@echo "make s3      an S3 server on this machine, until Ctrl-C; its data and keys are in s3/"
	@echo "make sbom    what this is made of: bill of materials, licences, known vulnerabilities; writes sbom/"
	@echo "make up      a server for a team on this machine: Ray, MLflow with passwords, S3, Prometheus; make down, make status"
	@echo "make e2e     the whole life of a model on such a server, with faults on the way (minutes)"
	@echo "make setup   only .venv with the locked dependencies"
	@echo "make picture  draw infra/architecture.svg from the imports, write jobs/settings.md from the types"
	@echo "make format  format the code"
	@echo "make lock    resolve the dependencies anew into requirements.lock"

setup: $(VENV)/.ready

# pip takes torch and torchvision, because it knows the indexes and folders that this machine is configured for, such as
# one with builds for CPUs alone; uv takes the rest, in seconds, and finds those two installed. Compatible mode puts this
# folder on Python's path: the other lets a folder named metasr, such as ~/metasr, hide the package from whoever works
# beside it. Without bytecode every process would compile torch, ray and mlflow anew, which takes longer than they run.
$(VENV)/.ready: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "no Python from 3.11 on was found; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN)/pip install --quiet --constraint requirements.lock torch torchvision uv==$(UV_VERSION)
	$(UV) pip install --quiet --python $(RUN)/python --constraint requirements.lock --compile-bytecode \
		--config-setting editable_mode=compat --editable ".[cluster,serve,viewer,dicom,export,demo,dev]"
	$(RUN)/python -m compileall -q metasr cluster jobs tests
	touch $@

demo: setup
	$(RUN)/metasr demo --output demo

# A file's tests stay together, because they share what takes long to make. There is a process more than cores, because
# some tests wait. Torch has one thread: more would wait for each other.
TESTERS := $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$(( cores < 4 ? cores + 1 : 4 )))
TEST := OMP_NUM_THREADS=1 $(RUN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

test: setup
	$(TEST)

coverage: setup
	$(TEST) --cov=metasr --cov=cluster --cov=jobs --cov-report=term:skip-covered

test-cluster: setup
	METASR_FUZZ_EXAMPLES=30000 $(RUN)/pytest tests/properties
	$(RUN)/pytest -m slow
	$(RUN)/pytest tests/chaos

check: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/python infra/architecture.py --check
	$(RUN)/python infra/settings.py --check

MINUTES := 5
SEED := 0
chaos: setup
	$(RUN)/python -m tests.chaos.chaos --minutes $(MINUTES) --seed $(SEED) --output chaos

bench: setup
	$(RUN)/python -m tests.benchmarks.bench

bench-check: setup
	$(RUN)/python -m tests.benchmarks.bench --device cpu --threads 1 --quick --check

bench-data: setup
	$(RUN)/python tests/benchmarks/data_throughput.py

bench-train: setup
	$(RUN)/python tests/benchmarks/training_step.py
	$(RUN)/python -m tests.benchmarks.around_the_step

s3: setup
	$(RUN)/python infra/storage/s3.py

e2e: setup
	$(RUN)/pytest -m slow -s tests/infra/test_end_to_end.py

# From the lock. What the network does not let pip-audit ask about is said; what it finds fails. ADVISORIES is a folder with
# advisories, such as a checkout of github.com/pypa/advisory-database, which are then looked through too, without a network.
ADVISORIES :=
sbom: setup
	@mkdir -p sbom
	$(RUN)/python infra/licences.py sbom/licences.md
	$(UV) tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements requirements.lock \
		--pyproject pyproject.toml --output-reproducible --output-format JSON --output-file sbom/sbom.json
	-$(UV) tool run --quiet pip-audit==2.10.1 --requirement requirements.lock --no-deps --disable-pip \
		--progress-spinner off > sbom/audit.txt 2>&1
	@! grep -q "could not be audited" sbom/audit.txt || \
		echo "vulnerabilities: unknown for $$(grep -c 'could not be audited' sbom/audit.txt) packages: see sbom/audit.txt"
	@! grep "^Found .* known vulnerabilit" sbom/audit.txt
	@test -z "$(ADVISORIES)" || { $(RUN)/python infra/advisories.py "$(ADVISORIES)" > sbom/advisories.txt; code=$$?; \
		cat sbom/advisories.txt; exit $$code; }

up down status: setup
	$(RUN)/python -m infra.local $@

picture: setup
	$(RUN)/python infra/architecture.py
	$(RUN)/python infra/settings.py

format: setup
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

# Which build of torch, and which CUDA packages come with it, depends on the machine: the lock names neither.
lock: setup
	$(UV) pip compile --quiet --python $(RUN)/python --all-extras --no-header --no-annotate pyproject.toml \
		| sed -E -e 's/^(torch(vision)?==[0-9.]+)\+.*/\1/' -e '/^(nvidia|cuda)-|^triton==/d' > requirements.new
	mv requirements.new requirements.lock
