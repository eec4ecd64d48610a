# `make` prints the help below; every target is a thin call of
# `python -m pipeline`, which decides what is stale.

PYTHON ?= python3
BIN := .venv/bin
VARIABLES := DATASET ARCHIVE BACKBONE LAYERS IMAGE_SIZE PREPROCESS PRECISION MIRROR STORE WEIGHTS BATCH LIMIT \
  SKIP_UNREADABLE MAX_FILE EXECUTOR ADDRESS HEAD SET GRID SCALE MEMORY TRUST SEED SEEDS FORCE RUN IMAGE FORMAT TO OUT DEBUG

# A variable no target knows is a misspelt one: name it and stop. (make writes a space within a
# value as a backslash and a space.)
EMPTY :=
SPACE := $(EMPTY) $(EMPTY)
WORDS := $(subst \$(SPACE),_,$(MAKEOVERRIDES))
GIVEN := $(foreach word,$(WORDS),$(if $(findstring =,$(word)),$(firstword $(subst =, ,$(word)))))
UNKNOWN := $(filter-out $(VARIABLES) PYTHON LOCKED PEERS PAGE MODULE,$(GIVEN))
ifneq ($(UNKNOWN),)
$(error unknown variable $(UNKNOWN): expected one of $(VARIABLES) PYTHON LOCKED PEERS PAGE MODULE; see: make help)
endif

# Each variable given on the command line becomes an option: IMAGE_SIZE=64 is --image-size=64. The
# shell reads the value as it was typed from its environment, so no character in it needs quoting.
GIVES = $(filter command override,$(origin $(1)))
$(foreach name,$(VARIABLES),$(if $(call GIVES,$(name)),$(eval override $(name) := $$(value $(name)))))
export $(VARIABLES)
option = --$(subst _,-,$(shell echo $(1) | tr A-Z a-z))="$$$(1)"
said = $(foreach name,$(1),$(if $(call GIVES,$(name)),$(call option,$(name))))
fixed = $(foreach name,$(1),$(if $(call GIVES,$(name)),$(error make $@ sets $(name) itself: leave it out)))
only = $(if $(filter-out $(1) PYTHON,$(GIVEN)),$(error make $@ does not read \
  $(filter-out $(1) PYTHON,$(GIVEN)): leave it out; expected some of $(1)))
OPTIONS = $(call said,$(VARIABLES))

PIPELINE := $(BIN)/python -m pipeline

.PHONY: help setup features train ladder curve report verify predict evaluate export demo baseline test kernels pythons ray s3 browser torture crashes fuzz mutants bench messages lint lock sbom clean
.DEFAULT_GOAL := help

##@ Start here

help: ## print this help
	@echo "Headroom: how far does a frozen network take you, and which head is better?"
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' \
	  $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "Variables, by name: make train HEAD=dense SEEDS=5"
	@echo "$(VARIABLES)" | fold -s -w 76 | sed 's/^/  /'
	@echo "Meanings and defaults: docs/options.md, or"
	@echo "  $(BIN)/python -m pipeline train --help"

# LOCKED=1 installs files that requirements.lock has the SHA-256 of, and no others; those of the tests too.
LOCK := $(if $(call GIVES,LOCKED),$(LOCKED))
$(if $(filter-out 0 1,$(LOCK)),$(error LOCKED=$(LOCK): expected 0 or 1))
setup: $(BIN)/$(if $(filter 1,$(LOCK)),.locked,.ready) ## pinned packages into .venv (LOCKED=1: verified by their hashes)

# The chains fix some variables; the others pass through.
DEMO_OUT = $(if $(call GIVES,OUT),"$$OUT",out/demo)
DEMO = --dataset digits --out $(DEMO_OUT) $(call said,BACKBONE WEIGHTS PRECISION MIRROR STORE IMAGE_SIZE LAYERS PREPROCESS BATCH LIMIT MAX_FILE EXECUTOR ADDRESS DEBUG)
demo: setup ## the whole job on 1,797 handwritten digits; needs no data
	$(call fixed,DATASET ARCHIVE HEAD SET)
	@$(PIPELINE) features $(DEMO)
	@$(PIPELINE) train $(DEMO) --head logistic $(call said,SEED FORCE)
	@$(PIPELINE) train $(DEMO) --head dense $(call said,SEED SEEDS FORCE)
	@$(PIPELINE) report --out $(DEMO_OUT) $(call said,DEBUG)

##@ Stage one: images to embeddings

features: setup ## embed the images of DATASET, once
	@$(PIPELINE) features $(OPTIONS)

verify: setup ## check every digest; embed a sample of images again
	@$(PIPELINE) verify $(OPTIONS)

##@ Stage two: embeddings to heads

train: setup ## train HEAD on the embeddings: a head, all, or vote
	@$(PIPELINE) train $(OPTIONS)

curve: setup ## validation accuracy by number of training images
	@$(PIPELINE) curve $(OPTIONS)

ladder: setup ## train the steps from the baseline to the best, one by one
	@$(PIPELINE) ladder $(OPTIONS)

BASELINE = $(call said,DATASET ARCHIVE IMAGE_SIZE PRECISION STORE WEIGHTS BATCH LIMIT SKIP_UNREADABLE MAX_FILE EXECUTOR ADDRESS OUT DEBUG) --layers block5 --preprocess unit
baseline: setup ## the original assignment: block5, pixels / 255, plain SGD
	$(call fixed,BACKBONE LAYERS PREPROCESS MIRROR HEAD SET)
	@$(PIPELINE) features $(BASELINE)
	@$(PIPELINE) train $(BASELINE) --head baseline $(call said,SEED SEEDS FORCE)
	@$(PIPELINE) report $(call said,OUT DEBUG)

##@ Results

report: setup ## compare the trained heads: OUT/report/index.html
	@$(PIPELINE) report $(OPTIONS)

predict: setup ## classify new images: IMAGE=file, folder or -
	@$(PIPELINE) predict $(OPTIONS)

evaluate: setup ## score a trained head on other labelled images: DATASET=
	@$(PIPELINE) evaluate $(OPTIONS)

export: setup ## a trained head for scikit-learn or Keras: TO=head.joblib
	@$(PIPELINE) export $(OPTIONS)

##@ Development

# A thread for each test process, as every core has a process already.
ONE_THREAD := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
test: $(BIN)/.ready-dev ## the tests: no network, no data
	@$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses auto --dist worksteal

messages: setup ## every message of the product, to be read as one text
	@$(BIN)/python tests/messages.py

lint: $(BIN)/.ready-dev ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

kernels: $(BIN)/.ready-dev ## the numerical tests under each OpenBLAS kernel
	@$(BIN)/python -m pytest tests/kernels.py --numprocesses auto

pythons: $(BIN)/.ready ## the fast tests under each other Python that is installed
	@$(ONE_THREAD) .ci/pythons

browser: $(BIN)/.ready-dev ## the report page in Chromium (PAGE=: an existing one)
	@HEADROOM_PAGE=$(PAGE) $(BIN)/python -m pytest tests/browser.py

torture: $(BIN)/.ready-dev ## minutes of SIGKILL at random moments
	@$(BIN)/python -m pytest tests/torture.py

crashes: $(BIN)/.ready-dev ## each state that a power cut may leave, opened again
	@HEADROOM_CRASHES=all $(ONE_THREAD) $(BIN)/python -m pytest tests/pipeline/test_crashes.py --numprocesses auto -rP

fuzz: .venv-fuzz/.ready ## any bytes and any words at every boundary
	@$(ONE_THREAD) .venv-fuzz/bin/python -m pytest $(if $(filter atheris,$(HEADROOM_ENGINE)),-p tests.guided) tests/fuzz.py -s

MUTATED = $(if $(call GIVES,MODULE),$(MODULE))
mutants: $(BIN)/.ready-dev ## small changes to MODULE= that no test notices
	$(call only,MODULE)
	@$(ONE_THREAD) $(BIN)/python tests/mutants.py "$(MUTATED)"

ray: .venv-ray/.ready ## stage one on a real Ray of several nodes
	@$(ONE_THREAD) .venv-ray/bin/python -m pytest tests/features/executors/test_ray.py

s3: .venv-s3/.ready ## images in a bucket, against a real S3 server
	@$(ONE_THREAD) .venv-s3/bin/python -m pytest tests/features/datasets/test_bucket.py

PEER = $(if $(call GIVES,PEERS),$(PEERS))
bench: setup ## images per second against Keras' predict (PEERS=1: OpenVINO)
	$(call only,DATASET WEIGHTS PEERS)$(if $(filter-out 0 1,$(PEER)),$(error PEERS=$(PEERS): expected 0 or 1))
	@$(BIN)/python benchmarks/extraction.py $(call said,DATASET WEIGHTS) $(if $(filter 1,$(PEER)),--peers)

# Written by uv, and read by pip; it holds for every Python from 3.11 on.
LOCKED_FILES := requirements.txt requirements-dev.txt requirements-parquet.txt
lock: .venv-lock/.ready ## requirements.lock anew, with the hashes of all packages
	@.venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --upgrade --custom-compile-command "make lock" --output-file requirements.lock $(LOCKED_FILES)

SBOM_OUT = $(if $(call GIVES,OUT),"$$OUT",out)
sbom: .venv-lock/.ready ## a CycloneDX bill of materials: OUT/sbom.json
	@mkdir -p $(SBOM_OUT)
	@.venv-lock/bin/cyclonedx-py requirements --output-reproducible --output-file $(SBOM_OUT)/sbom.json requirements.lock

clean: ## remove the caches of tools, never OUT
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
	@rm -rf .mypy_cache .ruff_cache .pytest_cache

define NEW_VENV
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"error: expected Python 3.11 to 3.13, got {v[0]}.{v[1]}; run: make setup PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; install python3-venv, then: make setup" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "error: .venv cannot be made (see above); put that right, then: make setup" >&2; exit 1; }
endef

$(BIN)/.ready: requirements.txt
	$(NEW_VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(BIN)/.locked: requirements.lock $(LOCKED_FILES)
	$(NEW_VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $(BIN)/.ready $(BIN)/.ready-dev $@

$(BIN)/.ready-dev: $(BIN)/.ready requirements-dev.txt requirements-parquet.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -r requirements-parquet.txt
	@touch $@

.venv-lock/.ready: requirements-lock.txt
	@$(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-lock.txt
	@touch $@

# An environment that sees the packages of .venv (by a .pth file) and has further ones, so that .venv
# stays without them.
SITE := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
define BESIDE_VENV
	@$(BIN)/python -m venv $(@D)
	@$(BIN)/python $(SITE) > "$$($(@D)/bin/python $(SITE))/headroom.pth"
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(foreach file,$(filter %.txt,$^),-r $(file))
	@touch $@
endef

.venv-ray/.ready: $(BIN)/.ready-dev requirements-ray.txt
	$(BESIDE_VENV)

.venv-s3/.ready: $(BIN)/.ready-dev requirements-ray.txt requirements-s3.txt requirements-s3-dev.txt
	$(BESIDE_VENV)

.venv-fuzz/.ready: $(BIN)/.ready-dev requirements-fuzz.txt
	$(BESIDE_VENV)
