# `make train` reproduces the report; `make test` checks everything. Both set themselves up.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: train test bench clean

train: $(VENV)/.ready
	$(BIN)/python train.py

test: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

bench: $(VENV)-bench/.ready
	$(VENV)-bench/bin/python -m benchmarks $(CASES)

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -e ".[test]"
	touch $@

$(VENV)-bench/.ready: requirements.txt benchmarks/requirements.txt
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements.txt -r benchmarks/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-bench build dist *.egg-info
