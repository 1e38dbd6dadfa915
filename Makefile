# Everything runs in .venv, which is made when it is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPP := ssd_core/ops/decode_nms_native.cpp

LISTEN ?= 127.0.0.1:8080

.PHONY: install demo demo-live test test-faults test-newest test-oldest mutants lint lock format bench bench-gpu test-gpu clean

install: $(VENV)/.installed

demo: install
	@mkdir -p demo
	$(BIN)/ssd-worker replay samples/walkway.mp4 --redis-url embedded \
	  --output demo/detections.jsonl --annotate demo/annotated.mp4 --overwrite --restart
	@echo
	@echo "Watch the detections:    demo/annotated.mp4"
	@echo "Read them as JSON Lines: head -n 2 demo/detections.jsonl"
	@echo "Read them from Redis:    $(BIN)/ssd-worker subscribe --replay --from start --count 2"
	@echo "See them on a page:      $(BIN)/ssd-worker dashboard, then http://127.0.0.1:8080/replay/walkway"
	@echo "Do it with a camera:     $(BIN)/ssd-worker run rtsp://USER:PASSWORD@HOST/PATH"

# A worker that watches the sample clip as a camera, and the page that shows it, until Ctrl-C.
demo-live: install
	@$(BIN)/python samples/demo_live.py --listen $(LISTEN)

# Five at a time also on two cores: most tests wait for servers and processes. Threads of PyTorch
# that spin while they wait cost them a third of the processor time (tests/unit/ssd_core on two
# cores: 326 s, 220 s without).
test test-faults test-newest test-oldest: export OMP_WAIT_POLICY = passive
PYTEST = -m pytest --numprocesses 5 --dist worksteal
test: $(VENV)/.installed-dev
	$(BIN)/python $(PYTEST)

# Every fault that is injected into real servers and processes, and all that takes long elsewhere:
# kernels compiled with the other end of Triton's range, too.
test-faults: $(VENV)/.installed-dev .cache/triton-3.6
	HYPOTHESIS_PROFILE=others_each_time $(BIN)/python -m pytest -m "long or not long" tests/faults tests/fuzz
	$(BIN)/python -m pytest -m long tests/unit tests/contract tests/integration tests/browser

# The ends of the ranges in pyproject.toml, each in an environment of its own (6 GB): the newest of
# everything, and the oldest of what is named there with the newest of what that depends on.
# TESTS=tests/unit runs a part.
TESTS ?= tests
COMPILED = -m pytest -m long -k for_gpus --numprocesses 2 tests/unit/ssd_core/ops
test-newest: .venv-newest/.installed .cache/triton-3.6
	.venv-newest/bin/python $(PYTEST) $(TESTS)
	.venv-newest/bin/python $(COMPILED)
test-oldest: .venv-oldest/.installed .cache/triton-3.9
	.venv-oldest/bin/python $(PYTEST) $(TESTS)
	.venv-oldest/bin/python $(COMPILED)

# Which small changes to the code no test notices: some hours on one core. MODULES='worker/sinks/*.py'
# changes a part, TESTS=tests/unit/worker/sinks runs a part of the tests.
mutants: $(VENV)/.installed-mutants
	$(BIN)/python -m tests.mutants

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.lint_deploy
	$(BIN)/python -m tests.lint_audit

# The newest versions that fit every Python, with their hashes, for deployment; and with those, what
# tests, lint and benchmarks add.
LOCK = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 \
	  --fork-strategy fewest --generate-hashes --no-emit-index-url --no-annotate --quiet \
	  --custom-compile-command "make lock"
lock: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCK) --upgrade --output-file requirements.lock
	$(LOCK) --upgrade --constraints requirements.lock --extra train --extra dev --extra bench \
	  --output-file requirements-dev.lock

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# About 9 minutes on two cores. SSD_BENCH_TFLITE names the .tflite file of the LiteRT peer.
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/decode_nms.py
	$(BIN)/python benchmarks/detector.py
	$(BIN)/python benchmarks/end_to_end.py
	$(BIN)/python benchmarks/profile_replay.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/live.py
	$(BIN)/python benchmarks/scaling.py

# About 8 minutes on one GPU. BENCH_PYTHON names a Python that has the packages already:
# make bench-gpu BENCH_PYTHON=python3
BENCH_PYTHON ?=
GPU_PYTHON = PYTHONPATH=$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH} $(or $(BENCH_PYTHON),$(BIN)/python)
bench-gpu: $(if $(BENCH_PYTHON),,$(VENV)/.installed-dev)
	$(GPU_PYTHON) benchmarks/decode_nms.py --device cuda --seconds 0.7
	$(GPU_PYTHON) benchmarks/detector.py --device cuda --growth
	$(GPU_PYTHON) benchmarks/end_to_end.py --device cuda
	$(GPU_PYTHON) benchmarks/live.py --device cuda
	$(GPU_PYTHON) benchmarks/scaling.py --device cuda

# What `make test` runs in the interpreter or skips where there is no GPU: every kernel, the detector
# and, in a process of its own, the decoder, which FFmpeg opens only before PyTorch has. Tests that
# compile "for_gpus" need none. Most of the time goes into compiling, hence several processes, none
# of which may use all cores.
test-gpu: $(if $(BENCH_PYTHON),,$(VENV)/.installed-dev)
	REQUIRE_CUDA=1 OMP_NUM_THREADS=2 $(GPU_PYTHON) -m pytest -m "cuda or kernels" -k "not for_gpus" \
	  --numprocesses auto --maxprocesses 8 --dist worksteal tests/unit/ssd_core
	REQUIRE_CUDA=1 $(GPU_PYTHON) -m pytest -m cuda tests/unit/worker

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest .cache demo build *.egg-info

define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(1) \
	  || { rm -rf $(1); echo "Python cannot make a virtual environment: on Debian and Ubuntu,"; \
	       echo "apt install python3-venv"; exit 1; }
endef
$(VENV)/bin/python:
	$(call make_venv,$(VENV))

# What was tested: exactly the versions of a lock file, where it fits.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK_FITS = $(BIN)/python -c 'import platform, sys; sys.exit((sys.platform, platform.machine()) \
	  != ("linux", "x86_64") or not (3, 11) <= sys.version_info[:2] <= (3, 13))'
define install
	@if $(LOCK_FITS); then \
	  $(PIP_INSTALL) --require-hashes -r $(1) && $(PIP_INSTALL) --no-deps --no-build-isolation -e .; \
	else \
	  echo "$(1) is for Linux on x86_64 with Python 3.11 to 3.13: here come the newest versions"; \
	  echo "that pyproject.toml allows"; \
	  $(PIP_INSTALL) -e '.$(2)'; \
	fi
	@touch $@
endef

$(VENV)/.installed: pyproject.toml setup.py requirements.lock $(CPP) | $(VENV)/bin/python
	@echo "Installing into $(VENV) (PyTorch is about 3 GB: a few minutes)"
	$(call install,requirements.lock,)

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(call install,requirements-dev.lock,[train,dev,bench])

$(VENV)/.installed-mutants: $(VENV)/.installed-dev
	$(PIP_INSTALL) uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --group mutants
	@touch $@

# Always made anew: what is newest changes, and an environment that has a package keeps it.
.venv-newest/.installed: RESOLUTION = highest
.venv-oldest/.installed: RESOLUTION = lowest-direct
.venv-%/.installed: pyproject.toml setup.py $(CPP)
	rm -rf .venv-$*
	$(call make_venv,.venv-$*)
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-$*/bin/python -m uv pip install --python .venv-$*/bin/python --refresh \
	  --resolution $(RESOLUTION) --editable '.[train,dev]'
	@touch $@

# A Triton that kernels are compiled with besides the installed one (650 MB).
.cache/triton-%: | $(VENV)/bin/python
	rm -rf $@.part
	$(PIP_INSTALL) --no-deps --target $@.part 'triton==$*.*'
	mv $@.part $@
