# Each target sets up what it needs: Python 3.11 or newer, git and make are all that a fresh machine must have.
#
#   make round1   toy games, Round 1's seven experiments, tables and a report in minutes (DATA=, STORAGE=, NAME=, SEEDS=,
#                 RESUME=1: go on with the grid of that name, as it does by itself where STORAGE is a folder here)
#   make test     checks and tests
#   make slow     tests of minutes: jobs on a real head node, monitoring, the real kernels (interpreted)
#   make test-browser  the pages in Chromium (apt-get install chromium chromium-driver), on a quiet machine
#   make test-faults   runs are killed, starved and lied to, and lose nothing (FAULTS=long: for longer)
#   make test-cluster  clusters are launched on hosts in namespaces, and every cloud's files checked (root, Linux)
#   make gpu      adds the kernels of mamba_ssm, on a machine with an NVIDIA GPU
#   make gpu-check  checks and measures this machine's GPU in ten minutes: runs/gpu-check/gpu-check.html (OUT=, ONLY=)
#   make bench    measures speed against other libraries, on real games where they are at hand; minutes
#   make check    ruff and mypy
#   make clean    removes the environment and caches; data and runs stay

PYTHON ?= python3
DATA ?=
STORAGE ?= runs
NAME ?= $(or $(notdir $(DATA:/=)),round1)
SEEDS ?= 1
FAULTS ?= short
OUT ?= runs/gpu-check
ONLY ?=
AGAIN ?=

BIN := .venv/bin
STAMP := .venv/.installed
KERNELS := .venv-kernels
KERNELS_STAMP := $(KERNELS)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: round1 test slow bench test-browser test-faults test-cluster gpu gpu-check kernels check clean
.DELETE_ON_ERROR:

round1: $(STAMP)
	$(BIN)/python tune/round1.py --storage "$(STORAGE)" --name "$(NAME)" --seeds "$(SEEDS)" \
		$(if $(DATA),--data "$(DATA)") $(if $(or $(RESUME),$(wildcard $(STORAGE)/$(NAME)/grid.json)),--resume)

# Both always run, so that a line too long does not hide what the tests say.
test: $(STAMP)
	@status=0; $(MAKE) --no-print-directory check || status=$$?; \
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(AGAIN) || status=$$?; exit $$status

slow: $(STAMP) $(KERNELS_STAMP)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadgroup $(AGAIN)

test-browser: $(STAMP)
	$(BIN)/python -m pytest -m browser

test-faults: $(STAMP)
	WORLDMODEL_FAULTS="$(FAULTS)" $(BIN)/python -m pytest -m faults -n 2 --dist loadgroup $(AGAIN)

# What launches clusters runs in namespaces of its own, where it reaches nothing else and all of it ends with pytest.
test-cluster: $(STAMP)
	tests/cluster/lab/install_packages.sh
	PYTHON=$(PYTHON) tests/infra/install.sh
	@status=0; $(BIN)/python -m pytest tests/cluster tests/infra -m "not lab" $(AGAIN) || status=$$?; \
	tests/cluster/lab/run.sh $(BIN)/python -m pytest tests/cluster -m lab -s $(AGAIN) || status=$$?; exit $$status

# One thread, as the yardstick was measured; BENCH="quality" or another area measures that one alone.
bench: $(STAMP) $(PEERS_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks $(BENCH)

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

gpu: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[gpu]"
	$(call install_kernels,$(BIN))

# An environment that exists is enough: without a network the kernels are compared only if they are there already.
gpu-check: $(if $(wildcard $(BIN)/python),,$(STAMP))
	@if nvidia-smi >/dev/null 2>&1 && ! $(BIN)/python -c \
		'from importlib.util import find_spec as f; exit(not all(map(f, ("einops", "triton", "mamba_ssm"))))'; then \
		$(MAKE) --no-print-directory gpu || echo "make gpu failed: the check goes on with what is installed" >&2; fi
	$(BIN)/python -m tests.gpu.check --out "$(OUT)" $(if $(ONLY),--only $(ONLY))

kernels: $(KERNELS_STAMP)

clean:
	rm -rf .venv $(KERNELS) $(PEERS) .mypy_cache .ruff_cache .hypothesis build dist *.egg-info

# torch comes first and alone, so that the machine's own pip settings decide which build of it is taken.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: name another one, as in make PYTHON=python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,replay,search]"
	touch $@

# Of mamba_ssm we run the Triton kernels alone: no CUDA extension is built, and its own dependencies serve the rest.
define install_kernels
MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE $(1)/python -m pip install --quiet --constraint constraints.txt \
	--no-build-isolation --no-deps mamba-ssm
endef

# An environment that adds what others made to the packages of .venv.
define add_environment
$(BIN)/python -m venv --clear --without-pip $(1)
$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	> "$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
$(1)/bin/python -m pip install --quiet --constraint constraints.txt --requirement $(2)
endef

# What the tests compare the model with.
$(KERNELS_STAMP): $(STAMP) tests/model/kernels.txt
	$(call add_environment,$(KERNELS),tests/model/kernels.txt)
	$(call install_kernels,$(KERNELS)/bin)
	touch $@

# What the benchmarks compare with.
$(PEERS_STAMP): $(STAMP) tests/model/kernels.txt tests/benchmarks/peers/requirements.txt
	$(call add_environment,$(PEERS),tests/benchmarks/peers/requirements.txt --requirement tests/model/kernels.txt)
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --no-deps mosaicml-streaming
	touch $@
