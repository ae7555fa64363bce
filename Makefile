.PHONY: demo test check setup clean
SHELL := /bin/bash

demo: ## the whole loop on the embedded defaults: about 15 minutes on two cores after installation
	bash cluster/setup.sh serve-cpu
	.venv/bin/agenttuning run --recipe configs/demo.yaml

setup: ## install system and Python packages, for running and for developing
	bash cluster/setup.sh serve-cpu,dev

test: setup check ## lint, types and all tests
	.venv/bin/python -m pytest

check: ## lint, format and strict types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean: ## remove caches; runs and .venv stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache build *.egg-info
