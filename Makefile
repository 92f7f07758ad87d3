# One word, one line each. The first call makes .venv; later ones reuse it until the declared dependencies change.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/ready
TESTED := .venv/tested
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup ask test check readme pictures bench scenes train clean

help: ## list these words
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or run make PYTHON=/path/to/python3"; exit 2; }
	@echo "making .venv and installing what constraints.txt pins (PyTorch among it: this can take minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,viz]'
	@touch $(READY)

$(TESTED): $(READY) requirements-lmms.txt
	@echo "adding what the tests of Ray, lmms-eval, data set copies and pages in a browser need"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,viz,eval,train,ray,browser]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement requirements-lmms.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps lmms-eval
	@touch $(TESTED)

setup: $(READY) ## make the virtual environment

ask: $(READY) ## ask the bundled model about the bundled image, with and without simignore; writes out/kept.png
	$(BIN)/simignore ask example --answer-as text --keep 0.25 --out out/kept.png

test: $(TESTED) ## run the tests, a worker for each core
	@$(BIN)/python -m pytest --numprocesses logical --dist worksteal

check: $(READY) ## lint, format, types, import direction, generated tables
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_layers.py
	@$(BIN)/python scripts/readme.py --check

readme: $(READY) ## write the generated parts of the README and the model card anew
	@$(BIN)/python scripts/readme.py

pictures: $(TESTED) ## draw the README's pictures and the model card's curves anew
	@$(BIN)/simignore ask example --answer-as text --keep 0.25 --runs 1 --out docs/kept.png
	@$(BIN)/python scripts/curves.py
	@$(BIN)/python scripts/accuracy_plot.py
	@$(BIN)/python scripts/explain_picture.py

bench: $(READY) ## measure prefill, decoding and memory on this machine; writes out/prefill.json
	@$(BIN)/python -m benchmarks.prefill --json out/prefill.json

scenes: $(READY) ## measure accuracy with fewer image tokens on held-out scenes (about an hour); writes out/scenes.json
	@$(BIN)/python -m benchmarks.scenes --json out/scenes.json

train: $(READY) ## train the bundled model from the seed into runs/tiny/exported (took two hours on 2 cores that did other work as well)
	@$(BIN)/python -m simignore.tiny.train --out runs/tiny
	@$(BIN)/python -m simignore.tiny.export --run runs/tiny --to runs/tiny/exported

clean: ## remove the virtual environment and what tools left behind
	rm -rf .venv out .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info
