# Everything from a fresh clone: `make demo` and `make test` install what they need first.

PYTHON ?=
TORCH_INDEX ?=
VENV := .venv
PY := $(VENV)/bin/python
# That of the environment that is there: `make test` must not put the CPU build over the CUDA one.
DEVICE ?= $(if $(wildcard $(VENV)/.installed-cuda),cuda,cpu)
STAMP := $(VENV)/.installed-$(DEVICE)
PYTEST := $(PY) -m pytest -q
# Two processes at a time: one has all tests that need an engine or Ray, and starts them once; it reads
# no other files, since to read all takes a minute. Its output comes last. A process that selects
# nothing (exit code 5) is no failure if the other has tests.
ENGINE_FILES = $(if $(ARGS),,$(sort $(shell grep -rl 'mark\.engine' tests --include='test_*.py')))
define both
	@log=$$(mktemp); \
	$(PYTEST) -m "engine$(1)" $(ARGS) $(ENGINE_FILES) >$$log 2>&1 & engine=$$!; \
	$(PYTEST) -m "not engine$(1)" $(ARGS); unit=$$?; \
	wait $$engine; engine=$$?; cat $$log; rm $$log; \
	if [ $$unit -eq 5 ]; then exit $$engine; fi; \
	if [ $$engine -eq 5 ]; then exit $$unit; fi; \
	exit $$((unit ? unit : engine))
endef

.DEFAULT_GOAL := help
.PHONY: help venv demo results test test-all soak doctor gpu-check smollm2 vlm docs lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  settings: PYTHON=python3.12  DEVICE=cuda (remembered)  TORCH_INDEX=<index with the CPU build of torch>"

$(STAMP): pyproject.toml docker/install.sh
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" VENV=$(VENV) docker/install.sh $(DEVICE) dev
	@rm -f $(VENV)/.installed-*
	@touch $@

venv: $(STAMP) ## make .venv and install (again only when pyproject.toml changes)

demo: $(STAMP) ## train the embedded model with CE-GPPO: an entropy curve in minutes
	@$(PY) jobs/train.py experiment=ce_gppo_tiny run.name=demo-$$(date +%Y%m%d-%H%M%S)

results: $(STAMP) ## the experiments of docs/results.md: hours; ARGS=fig3 for one part, ARGS=list=true for all
	@$(PY) jobs/results.py $(ARGS); code=$$?; $(PY) docs/make_results.py && exit $$code

test: $(STAMP) ## all tests but the slow ones
	$(call both, and not slow)

test-all: $(STAMP) ## all tests
	$(call both,)

doctor: $(STAMP) ## say what would keep a run from starting here
	@$(PY) jobs/doctor.py

soak: $(STAMP) ## train under random faults for 20 minutes, then check that nothing was lost
	@$(PY) benchmarks/soak.py $(ARGS)

gpu-check: $(STAMP) ## on a machine with a GPU, after `make venv DEVICE=cuda`: measure what only a GPU can show
	@$(PY) benchmarks/gpu_check.py $(ARGS)

smollm2: $(STAMP) ## fetch SmolLM2-135M for experiment=smollm2_chain_sum, guess_number_smollm2
	@$(PY) jobs/fetch_smollm2.py

vlm: $(STAMP) ## on CPUs: let engines read images, for experiment=uec_rl_figures_tiny
	@PYTHON="$(PYTHON)" VENV=$(VENV) docker/install.sh vlm

docs: $(STAMP) ## make docs/configuration.md from the code, docs/results.md from its numbers
	@$(PY) docs/make_configuration.py && $(PY) docs/make_results.py

lint: $(STAMP) ## style
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
