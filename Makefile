# Two commands do everything: `make demo` and `make test`. Both leave .venv reusable.
PYTHON ?= python3
BIN := .venv/bin
TORCH ?= torch==2.13.0

.PHONY: demo test lint types ops wheel check-wheel clean

.venv/.base: setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip "setuptools>=77" wheel
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q --no-build-isolation -e .
	touch $@

.venv/.dev: .venv/.base
	$(BIN)/pip install -q --no-build-isolation -e ".[dev]"
	touch $@

ops: .venv/.base
	$(BIN)/python -m suite3d.ops.build

demo: .venv/.base ops
	$(BIN)/suite3d demo

# One thread a worker: workers of several threads each would wait for one another. Tests that need threads ask for them.
test: .venv/.dev ops lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/mypy

wheel: .venv/.base
	rm -rf build/lib build/bdist*
	$(BIN)/pip wheel -q --no-build-isolation --no-deps -w dist .

# Not part of `make test`: it downloads gigabytes (torch 2.10 and the newest torch, with the CUDA packages that they ask for).
# SUITE3D_BUILD_CUDA=1 puts the CUDA library into the wheel where nvcc is found beside a CPU torch.
check-wheel: wheel
	$(BIN)/python .ci/check_wheel.py $$(ls -t dist/*.whl | head -1)

clean:
	rm -rf .venv build dist *.egg-info ops/lib
