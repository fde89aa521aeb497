# `make train` trains the preset mlp_mnist. `make test` runs the checks of CI. `make test-all` adds the
# slow tests, and `make test-lowest` runs a selection on the lowest supported versions. `make serve`
# exports a preset and serves it with TF Serving, the binary or Docker. `make docs` builds the site and
# runs its notebooks. `make bench` runs the benchmarks. `make clean` removes what the targets made,
# except runs. Each target sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PRESET ?= mlp_mnist

.PHONY: train serve test test-all test-lowest docs bench clean

train: $(VENV)/.ready
	$(BIN)/python train.py

# The export is made anew, so that it is never older than the weights or the code. Stop the server
# first: all versions of the preset are removed.
serve: $(VENV)/.ready
	rm -rf "serving/models/$(PRESET)"
	$(BIN)/python -m vae_keras export --preset "$(PRESET)" --to "serving/models/$(PRESET)" --version 1
	serving/serve.sh "$(PRESET)"

test: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.run -m "not slow"

test-all: $(VENV)/.ready-test-all
	$(BIN)/python -m tests.run

docs: $(VENV)/.ready-docs
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going docs docs/_build/html

test-lowest: $(VENV)-lowest/.ready
	$(VENV)-lowest/bin/python -m pytest -m "not slow" tests/conformance tests/trainer \
	  tests/test_model.py tests/test_objectives.py tests/test_distributions.py

bench: $(VENV)-bench/.ready
	$(VENV)-bench/bin/python -m benchmarks $(CASES)

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -e ".[test]"
	touch $@

$(VENV)/.ready-docs: $(VENV)/.ready pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -e ".[docs]"
	touch $@

$(VENV)/.ready-test-all: $(VENV)/.ready-test pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt \
	  -e ".[docs,ecosystem]"
	touch $@

# `lowest-direct` takes the lower bounds of pyproject.toml.
$(VENV)-lowest/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python \
	  --resolution lowest-direct -e . "pytest>=9" "hypothesis>=6.100"
	touch $@

$(VENV)-bench/.ready: requirements.txt benchmarks/requirements.txt
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements.txt -r benchmarks/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-bench $(VENV)-lowest build dist *.egg-info \
	  serving/models docs/_build docs/zoo
