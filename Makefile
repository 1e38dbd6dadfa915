# Everything runs in .venv, which is made when it is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test lint format bench clean

install: $(VENV)/.installed

demo: install
	@mkdir -p demo
	$(BIN)/ssd-worker replay samples/walkway.mp4 --redis-url embedded \
	  --output demo/detections.jsonl --annotate demo/annotated.mp4 --overwrite --restart
	@echo
	@echo "Watch the detections:    open demo/annotated.mp4"
	@echo "Read them as JSON Lines: head -n 2 demo/detections.jsonl"
	@echo "Read them from Redis:    $(BIN)/ssd-worker subscribe --replay --from start --count 2"
	@echo "Do it with a camera:     $(BIN)/ssd-worker run rtsp://USER:PASSWORD@HOST/PATH"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.lint_deploy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python benchmarks/replay.py

clean:
	rm -rf $(VENV) demo build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "Python cannot make a virtual environment: on Debian and Ubuntu,"; \
	       echo "apt install python3-venv"; exit 1; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) (PyTorch is about 3 GB: a few minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
