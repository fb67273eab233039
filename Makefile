# make demo: a whole experiment on five hosts made on this machine. make test: all tests.
# Both set up what they need in .venv first; needed are Python 3.11 or newer, with venv and pip
# or with uv. Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test setup clean

demo: $(VENV)/ready
	@$(BIN)/fab demo

test: $(VENV)/ready-dev
	@$(BIN)/fab dev.check dev.test

setup: $(VENV)/ready-dev

$(VENV)/ready: pyproject.toml
	@sh scripts/setup.sh $(PYTHON) $(VENV) .
	@touch $@

$(VENV)/ready-dev: pyproject.toml
	@sh scripts/setup.sh $(PYTHON) $(VENV) '.[dev]'
	@touch $@ $(VENV)/ready

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .hypothesis
