.PHONY: demo test check setup clean bench-training bench-rollouts bench-environments bench-curation bench-endpoint
SHELL := /bin/bash

demo: ## the whole loop on the embedded defaults: about 15 minutes on two cores after installation
	bash cluster/setup.sh serve-cpu
	.venv/bin/agenttuning run --recipe configs/demo.yaml

setup: ## install system and Python packages, for running and for developing
	bash cluster/setup.sh serve-cpu,dev

HEAVY := ray or serve or model or e2e or browser or server

test: setup check ## lint, types and all tests
	.venv/bin/python -m pytest -n 2 -m "not ($(HEAVY))"
	.venv/bin/python -m pytest -n 2 --dist worksteal -m "$(HEAVY)"

check: ## lint, format and strict types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench-training: ## on an idle machine, as all of these: supervised tokens per second against TRL and the Hugging Face Trainer
	.venv/bin/python -m pip install -q --disable-pip-version-check -c cluster/constraints.txt trl
	.venv/bin/python benchmarks/training.py

bench-rollouts: ## against other schedules, under faults; 100,000 episodes
	.venv/bin/python benchmarks/rollouts.py --vllm

bench-environments: ## steps and episodes per second, start-up and memory of every environment
	.venv/bin/python benchmarks/environments.py

bench-curation: ## 100,000 trajectories
	.venv/bin/python benchmarks/curation.py

bench-endpoint: ## own overhead per step at 1,000 episodes in flight
	.venv/bin/python benchmarks/endpoint_overhead.py

clean: ## remove caches; runs and .venv stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache build *.egg-info
