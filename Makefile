# make demo    sets everything up and generates 10 s with the embedded model
# make test    sets everything up and runs all tests
# make bench   sets everything up and measures: the speed and waking at full size; swaps, memory and REST with the
#              embedded model. It rewrites docs/benchmarks.md with this machine's figures, or the page that PAGE names
# make bench-quick  sets everything up and measures the core figures of speed alone

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PAGE ?= docs/benchmarks.md
READY := $(VENV)/.ready

.PHONY: demo test bench bench-quick check gpu-check protos format clean

demo: $(READY)
	$(BIN)/acestage generate "warm lo-fi piano, rain" --duration 10 --seed 7 --checkpoint tiny-turbo --device cpu -o out/demo.wav

# For two cores: a sixth of the tests' time is waiting, so three processes keep them busy, with a thread each. Those
# that test two threads must not spin, which would take the cores from the others. Files are handed out in the order that
# pyproject.toml and tests/conftest.py give them, so that the last ones are short and one process waits at a time.
# Byte code is written whatever the environment says: else every service and command compiles all that it imports.
test: $(READY)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE \
		$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# The first line takes more than an hour on two cores, and 6 GB of disk; the others about a quarter of an hour.
# bench/__init__.py says what each measures, and how to do it with a full-size model.
bench: $(READY)
	$(BIN)/python -m bench.speed --write-docs --page $(PAGE)
	$(BIN)/python -m bench.swaps --threads 1
	$(BIN)/python -m bench.memory --threads 1
	$(BIN)/python -m bench.host_memory
	$(BIN)/python -m bench.gateway --threads 1

bench-quick: $(READY)
	$(BIN)/python -m bench.speed --quick

# On a machine with a CUDA device: what no other machine can check.
gpu-check: $(READY)
	$(BIN)/python -m pytest -s --timeout 1800 tests/gpu

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd protos && ../$(BIN)/buf lint
	$(BIN)/python -m scripts.generate_protos --check

protos: $(READY)
	$(BIN)/python -m scripts.generate_protos

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) out build *.egg-info

# The variable, unlike pip's flag, also holds for the isolated environment that builds the package. It has no folder:
# pip takes what is behind a blank for another file.
$(READY): export PIP_CONSTRAINT := constraints.txt
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $(READY)
