# make demo: train on the toy street and draw a gallery.   make test: the tests.
# Both share .venv, made once. PIP_FIND_LINKS may name a folder with a ready
# wheel of mmcv; without one it is built from its source package.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
CONSTRAINTS := -c constraints.txt

.PHONY: demo test test-newest lint benchmark clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python tools/demo.py

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check

$(VENV)/.installed: setup.py constraints.txt $(VENV)/.mmcv
	@echo '== installing the plugin and its requirements'
	$(PIP) install -q $(CONSTRAINTS) --no-build-isolation -e '.[dev]'
	@touch $@

$(VENV)/.mmcv: constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo '== installing torch'
	$(PIP) install -q $(CONSTRAINTS) setuptools wheel ninja psutil torch
	@echo '== installing mmcv; where no wheel fits, this builds it from source'
	@echo '   (about 5 minutes on 2 cores, a line a minute tells it goes on)'
	@( while sleep 60; do echo "   ... still at it, `date +%T`"; done ) & pid=$$!; \
	CFLAGS=-g0 MMCV_WITH_OPS=1 $(PIP) install -q $(CONSTRAINTS) --no-build-isolation mmcv; \
	status=$$?; kill $$pid; exit $$status
	@touch $@
