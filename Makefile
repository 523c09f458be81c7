# make demo         train on the toy street, test, draw work_dirs/demo/gallery.png
# make test         run the tests, two at a time
# make test-process    those that start processes: commands, ranks, kill and resume
# make test-browser test the web page in Chromium
# make test-full-size  a step of each recipe and row at full size: minutes, 16 GB
# make test-oldest  run the core on the oldest versions that setup.py allows
# make test-cuda    what has to be seen on a GPU
# make lint         run ruff
# make docs         build the documentation into site/
# make fuzz SECONDS=60 SEED=0    feed damaged files to all that reads some
# make faults COUNT=50 SEED=0    let writing fail at any moment, 6 x COUNT times
# make licenses     list the licences of what is installed
# make bom          write it as a bill of materials, dist/bom.cdx.json
# make audit        ask the network for known vulnerabilities of it, by pip-audit
# make benchmark    measure step, runner, inference and pipeline of the toy street
# make gpu          measure all that a GPU does: docs/performance.md
# make mmcv-ops     build mmcv's operators into .venv, for models that call them
#
# All but test-oldest share .venv, made once, of the newest libraries that
# constraints.txt allows.
PYTHON ?= python3.11
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
EXTRAS ?= dev,docs,metrics,features,corruptions,parquet,export,lora,demo,comparison
OLDEST := .venv-oldest
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := -n 2 --dist worksteal

.PHONY: demo test test-process test-browser test-cuda test-full-size \
    test-oldest lint docs fuzz faults licenses bom audit benchmark gpu mmcv-ops

demo: $(VENV)/installed
	$(BIN)/python tools/demo.py

test: $(VENV)/installed
	$(PYTEST) $(PARALLEL) -m 'not browser and not cuda and not full_size and not process'

test-process: $(VENV)/installed
	$(PYTEST) $(PARALLEL) -m process

test-browser: $(VENV)/installed
	$(PYTEST) -rs -m browser

test-cuda: $(VENV)/installed
	$(PYTEST) -rs -m cuda

test-full-size: $(VENV)/installed
	$(BIN)/python -m pytest -m full_size

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q
	@echo 'open site/index.html'

lint: $(VENV)/installed
	$(BIN)/ruff check

SECONDS ?= 60
SEED ?= 0
COUNT ?= 50
fuzz: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/fuzzing.py --seconds $(SECONDS) \
	    --seed $(SEED)

faults: $(VENV)/installed
	SEMFLOW_FAULTS=$(COUNT) SEMFLOW_FAULTS_SEED=$(SEED) $(PYTEST) tests/test_faults.py

licenses: $(VENV)/installed
	$(BIN)/python tools/list_licenses.py

bom: $(VENV)/installed
	@mkdir -p dist
	$(BIN)/python tools/list_licenses.py --bom > dist/bom.cdx.json

# Of a mirror of OSV on this machine with
# AUDIT='--vulnerability-service osv --osv-url http://127.0.0.1:PORT/v1/query'.
AUDIT ?=
audit: $(VENV)/installed
	@mkdir -p dist
	$(BIN)/python tools/list_licenses.py | grep -v '^mmseg-semflow' | \
	    awk '{print $$1 "==" $$2}' > dist/installed.txt
	test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && \
	    .venv-audit/bin/pip install -q pip-audit; }
	.venv-audit/bin/pip-audit --disable-pip --no-deps -r dist/installed.txt $(AUDIT)

benchmark: $(VENV)/installed
	$(BIN)/python tools/benchmark.py configs/semflow_toy.py

gpu: $(VENV)/installed
	$(BIN)/python tools/gpu_report.py

test-oldest: $(OLDEST)/constraints.txt
	$(MAKE) test VENV=$(OLDEST) CONSTRAINTS=$< EXTRAS=dev,metrics

# Every lower bound of setup.py as a pin. diffusers 0.28 imports a function that
# huggingface-hub 0.26 removed, and states no bound.
$(OLDEST)/constraints.txt: setup.py constraints.txt
	@mkdir -p $(@D)
	grep '^torch==' constraints.txt > $@
	grep -oE "'[a-zA-Z0-9_-]+>=[0-9.]+" setup.py | grep -v "'torch>" | \
	    sed "s/^'//; s/>=/==/" | sort -u >> $@
	echo 'mmcv-lite==2.0.0' >> $@
	echo 'huggingface-hub<0.26' >> $@

# mmcv-lite needs no build, and no operator of mmcv is called by the plugin.
$(VENV)/installed: setup.py $(CONSTRAINTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo '== installing the plugin and what it requires'
	$(PIP) install -q -c $(CONSTRAINTS) mmcv-lite \
	    --config-settings editable_mode=compat -e '.[$(EXTRAS)]'
	case $(EXTRAS) in *mmagic*|*comparison*) \
	    $(PIP) install -q --no-deps mmagic;; esac
	@touch $@

# On a GPU host without a CUDA toolkit CUDA_VISIBLE_DEVICES= builds those for the
# CPU. pip would take a wheel without operators from its cache.
mmcv-ops: $(VENV)/installed
	$(PIP) uninstall -q -y mmcv-lite mmcv
	$(PIP) install -q wheel ninja psutil
	CFLAGS=-g0 $(PIP) install -v -c $(CONSTRAINTS) --no-build-isolation \
	    --no-deps --no-cache-dir --no-binary mmcv mmcv
