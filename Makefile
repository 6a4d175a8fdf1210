.PHONY: setup demo test test-long test-slow test-longest check docs clean

PYTHON ?= python3
BIN := .venv/bin

setup: .venv/installed  ## make .venv with all that demo, tests and checks need

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -q -c constraints.txt --group dev --group docs -e ".[verify,lora,onnxruntime,openvino,tensorrt-rtx,ray,dask,serve,video]"
	touch $@

demo: setup  ## the whole path on a shipped pipeline; OUT=demo by default
	$(if $(OUT),,rm -rf demo)
	$(BIN)/stepcarve demo -o $(or $(OUT),demo)

test: setup  ## every test that runs within minutes on two cores
	$(BIN)/python -m pytest

test-long: setup  ## the cases that take seconds each, which make test leaves out
	$(BIN)/python -m pytest -m "long and not slow and not gpu"

test-slow: setup  ## the tests that are too slow for make test
	$(BIN)/python -m pytest -m "slow and not longest and not gpu"

test-longest: setup  ## the few slow cases that take twenty seconds each or more, which .ci/run leaves out
	$(BIN)/python -m pytest -m "slow and longest and not gpu"

check: setup  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup  ## the documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv demo build site *.egg-info
