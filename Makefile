# make demo         train on the toy street, test, draw work_dirs/demo/gallery.png
# make test         run the tests, two at a time
# make test-browser test the web page in Chromium
# make test-full-size  a step of each recipe at full size: minutes, 16 GB
# make test-newest  run them against the newest diffusers and transformers
# make lint         run ruff
# make benchmark    measure step, runner, inference and pipeline of the toy street
#
# All but test-newest share .venv, made once. PIP_FIND_LINKS may name a folder
# with a ready wheel of mmcv; without one it is built from its source package.
PYTHON ?= python3.11
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
EXTRAS ?= dev,metrics,demo,mmagic,mmdet
NEWEST := .venv-newest

.PHONY: demo test test-browser test-full-size test-newest lint benchmark

demo: $(VENV)/installed
	$(BIN)/python tools/demo.py

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-browser: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser

test-full-size: $(VENV)/installed
	$(BIN)/python -m pytest -m full_size

lint: $(VENV)/installed
	$(BIN)/ruff check

benchmark: $(VENV)/installed
	$(BIN)/python tools/benchmark.py configs/semflow_toy.py

test-newest: $(NEWEST)/constraints.txt
	@rm -f $(NEWEST)/installed
	$(MAKE) test VENV=$(NEWEST) CONSTRAINTS=$< \
	    UPGRADE='-U --upgrade-strategy eager' EXTRAS=dev,metrics

$(NEWEST)/constraints.txt: constraints.txt
	@mkdir -p $(@D)
	grep -vE '^(diffusers|transformers|huggingface-hub)==' $< > $@

$(VENV)/installed: setup.py $(CONSTRAINTS) $(VENV)/mmcv-installed
	@echo '== installing the plugin and what it requires'
	$(PIP) install -q $(UPGRADE) -c $(CONSTRAINTS) --no-build-isolation \
	    --config-settings editable_mode=compat -e '.[$(EXTRAS)]'
	case $(EXTRAS) in *mmagic*) \
	    $(PIP) install -q -c $(CONSTRAINTS) --no-deps mmagic;; esac
	@touch $@

# mmcv's CPU operators are enough on a GPU host too: the plugin uses none, and
# with the GPUs hidden the build needs no CUDA toolkit.
$(VENV)/mmcv-installed: $(CONSTRAINTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo '== installing torch'
	$(PIP) install -q -c $(CONSTRAINTS) setuptools wheel ninja psutil torch
	@echo '== installing mmcv: without a ready wheel it is built from source,'
	@echo '   which takes 5 minutes on 2 cores'
	@(while sleep 20; do echo "   still building, $$(date +%T)"; done) & \
	    clock=$$!; trap "kill $$clock" EXIT; \
	    CFLAGS=-g0 CUDA_VISIBLE_DEVICES= FORCE_CUDA=0 MMCV_WITH_OPS=1 \
	    $(PIP) install -q -c $(CONSTRAINTS) --no-build-isolation mmcv
	@touch $@
