# Everything starts here: `make train` and `make test` set up what they need, in .venv, and leave the rest of the machine alone.
# `make` alone lists the targets. Another Python: make PYTHON=/path/to/python3.12

.DEFAULT_GOAL := help
.PHONY: help install train test gradcheck compare overfitting bench scaling reproduce web web-build chaos fuzz audit lint format pip-tools conda-update clean always

# 3.14 is the newest Python that the pinned torch has wheels for.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(or $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done),python3)

# The locks hold the hashes of Linux wheels. Elsewhere pip resolves the .in files anew, less the line that points to the lock.
ifeq ($(shell uname -s),Linux)
REQUIREMENTS := requirements/prod.txt requirements/dev.txt
INSTALLING := installing the locked requirements into .venv (about 5 GB the first time)
PIP_INSTALL := .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes $(REQUIREMENTS:%=-r %)
else
REQUIREMENTS := requirements/prod.in requirements/dev.in
INSTALLING := the locks are for Linux: installing the newest versions that requirements/*.in allow into .venv
PIP_INSTALL := grep -hv '^-c' $(REQUIREMENTS) > .venv/requirements.in && \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r .venv/requirements.in
endif

# The stamp is named after the requirements' contents, so neither a checkout nor a restored cache can confuse it by its dates.
# It is written last: an interrupted install leaves none.
STAMP := .venv/.installed-$(shell cat $(REQUIREMENTS) | cksum | cut -d ' ' -f 1)

# What `make bench` compares with lies in a folder of its own, behind .venv's packages.
BENCH_STAMP := .bench/.installed-$(shell cat requirements/bench.in $(REQUIREMENTS) | cksum | cut -d ' ' -f 1)

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s%s\n", $$1, $$2}' Makefile

install: $(STAMP)  ## Set up .venv, if that is not done yet (train, test and lint do this themselves)

train: $(STAMP)  ## Meta-train MAML on the sinusoid, print its test result and plot its adaptation
	.venv/bin/python training/run_experiment.py --data_class=Sinusoid --max_steps=15000 --log_dir=logs

test: $(STAMP)  ## Run every test
	bash tasks/test.sh

gradcheck: $(STAMP)  ## Print how MAML's outer gradient compares with one derived by hand in numpy
	.venv/bin/python tests/numpy_maml.py

compare: $(STAMP)  ## Train every algorithm that can do regression on the sinusoid and print the table
	.venv/bin/python training/compare.py

overfitting: $(STAMP)  ## Train on few classes of CIFAR-FS; draw and print what closes the gap to validation
	.venv/bin/python benchmarks/overfitting.py

bench: $(STAMP) $(BENCH_STAMP)  ## Time a meta-training step beside other frameworks' (ten minutes) and put the table into docs/speed.md
	.venv/bin/python benchmarks/step.py
	.venv/bin/python benchmarks/speed_table.py --write

scaling: $(STAMP)  ## Measure how a step's time and memory grow with tasks, steps and processes, for docs/scaling.md
	.venv/bin/python benchmarks/scaling.py
	.venv/bin/python benchmarks/checkpointing.py
	.venv/bin/python benchmarks/processes.py

reproduce: $(STAMP)  ## Train what is left of the results table, at the lowest priority; LIST=1 lists it, ROW=name trains one row, KEEP=1 puts what started rows go on from into the repository
	.venv/bin/python benchmarks/reproduce.py $(if $(LIST),--list) $(if $(KEEP),--keep) $(if $(ROW),--row=$(ROW)) $(if $(DATA),--data=$(DATA)) $(if $(QUEUE),--queue=$(QUEUE))

chaos: $(STAMP)  ## Kill a hundred runs at random moments, resume them, and count what is lost (ten minutes); RUNS=1000
	.venv/bin/python benchmarks/chaos.py $(if $(RUNS),--runs=$(RUNS)) $(if $(SEED),--seed=$(SEED))

fuzz: $(STAMP)  ## Drive every reader of files with files that are nearly right, for SECONDS=60; prints how many were tried
	TQDM_DISABLE=1 PYTHONPATH=.:tests .venv/bin/python -m fuzzing --seconds=$(or $(SECONDS),60)

audit:  ## Look the locked packages up in the public lists of known flaws
	$(PYTHON) tasks/audit.py

web: web-build  ## Serve the page of web/ on 127.0.0.1, where the networks adapt in the browser (needs Node 20; PORT=8000)
	cd web && npm run --silent serve

web-build: web/node_modules web/public/models  ## Build that page into web/dist, for any static host
	cd web && npm run --silent build

web/node_modules: web/package-lock.json
	@command -v npm >/dev/null || { echo "the page needs Node 20 or newer, with npm: https://nodejs.org" >&2; exit 1; }
	cd web && npm ci --ignore-scripts --no-fund
	@touch $@

# The page's models are exported again when their weights or the export have changed.
web/public/models: web/models.py $(wildcard few_shot/export.py few_shot/onnx/*.py \
		benchmarks/results/sinusoid_10shot/weights.safetensors \
		benchmarks/results/omniglot_5way_1shot_15query/weights.safetensors) | $(STAMP)
	.venv/bin/python web/models.py
	@touch $@

lint: $(STAMP)  ## Check style, types and shell scripts
	bash tasks/lint.sh

format: $(STAMP)  ## Format the code and fix what ruff can fix by itself
	.venv/bin/python -m ruff check --fix-only .
	.venv/bin/python -m ruff format .

# `always` only where .venv has lost its Python, as when the system's Python was upgraded under it.
$(STAMP): $(if $(shell test -x .venv/bin/python || echo lost),always)
	@.venv/bin/python -c 'import pip; $(SUPPORTED)' 2>/dev/null || { \
		$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { \
			echo "make needs Python 3.11 or newer (at most 3.14): make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
		$(PYTHON) -m venv --clear .venv; }
	@rm -f .venv/.installed-*
	@echo "$(INSTALLING)"
	@$(PIP_INSTALL)
	@PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --editable .
	@touch $@

$(BENCH_STAMP): | $(STAMP)
	@echo "installing the peers of requirements/bench.in into .bench (half a GB, about a minute)"
	@.venv/bin/python benchmarks/environment.py
	@touch $@

COMPILE := CUSTOM_COMPILE_COMMAND="make pip-tools" .venv/bin/python -m piptools compile --quiet \
	--generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links

pip-tools: $(STAMP)  ## Compile requirements/*.in to locks and make .venv match them; UPGRADE=--upgrade takes the newest versions
	@test "$$(uname -s)" = Linux || { echo "the locks are for Linux: compile them there" >&2; exit 1; }
	$(COMPILE) $(UPGRADE) --output-file=requirements/prod.txt requirements/prod.in
	$(COMPILE) $(UPGRADE) --output-file=requirements/dev.txt requirements/dev.in
	.venv/bin/python -m piptools sync --quiet requirements/prod.txt requirements/dev.txt
	@$(MAKE) --no-print-directory install

conda-update:  ## For conda users: create or update the environment `few_shot`, whose Python the other targets then use
	conda env update --prune --file environment.yml
	@echo "now: conda activate few_shot"

clean:  ## Remove caches and the install stamp; data/, logs/ and .venv stay
	rm -rf .venv/.installed-* .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info web/dist web/public
	find . \( -path ./.venv -o -path ./data -o -path ./logs \) -prune -o -name __pycache__ -prune -exec rm -rf {} +
