# Each target sets up what it needs: Python 3.11 or newer, git and make are all that a fresh machine must have.
#
#   make round1   toy games, training and evaluation of the baseline in minutes (DATA=, STORAGE=, NAME= to choose)
#   make test     checks and tests
#   make check    ruff and mypy
#   make clean    removes the environment and caches; data and runs stay

PYTHON ?= python3
DATA ?= data/toy
STORAGE ?= runs
NAME ?= $(if $(filter data/toy,$(DATA)),round1,$(notdir $(DATA:/=)))

BIN := .venv/bin
STAMP := .venv/.installed
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: round1 test check clean
.DELETE_ON_ERROR:

round1: $(STAMP)
	$(if $(filter data/toy,$(DATA)),test -e "$(DATA)" || $(BIN)/worldmodel games toy "$(DATA)" --count 24 --seed 0)
	$(BIN)/worldmodel train tune/experiments/baseline.yaml --preset laptop --epochs 1 \
		--data "$(DATA)" --storage "$(STORAGE)" --run-name "$(NAME)" \
		$(if $(wildcard $(STORAGE)/$(NAME)/run.json),--resume)
	$(BIN)/worldmodel evaluate "$(NAME)" --storage "$(STORAGE)"
	@echo "games: $(DATA)   run: $(STORAGE)/$(NAME)   card: $(STORAGE)/$(NAME)/card.md"

# Both always run, so that a line too long does not hide what the tests say.
test: $(STAMP)
	@status=0; $(MAKE) --no-print-directory check || status=$$?; \
	$(BIN)/python -m pytest -n 2 --dist loadgroup || status=$$?; exit $$status

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis build dist *.egg-info

# torch comes first and alone, so that the machine's own pip settings decide which build of it is taken.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: name another one, as in make PYTHON=python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,replay]"
	touch $@
