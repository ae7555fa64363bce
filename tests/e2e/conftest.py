from pathlib import Path
from typing import Any

import pytest
import yaml

GENERAL = [
    {"id": f"g{i}", "conversations": [{"from": "human", "value": f"Say {w}."}, {"from": "gpt", "value": f"{w}!"}]}
    for i, w in enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight"] * 4)
]


@pytest.fixture
def small_recipe(tiny_model: Path, tmp_path: Path) -> Any:
    """Write a recipe of a few minutes of work at most, with a random model; returns a function of overrides."""
    import orjson

    general = tmp_path / "general.json"
    general.write_bytes(orjson.dumps(GENERAL))

    def write(root: str, **changes: Any) -> Path:
        raw: dict[str, Any] = {
            "run": {"name": "small", "root": root, "seed": 3},
            "model": {"path": str(tiny_model)},
            "environments": {
                "db": {"train_tasks": 6, "test_tasks": 2, "shifted_tasks": 1, "max_steps": 6},
                "os": {"train_tasks": 4, "test_tasks": 2, "shifted_tasks": 1, "max_steps": 4},
            },
            "rollout": {"actors": [1, 1], "actor_cpus": 0.25, "episodes_in_flight": 4},
            "mixture": {
                "max_length": 2048,
                "sources": {
                    "agent": {"kind": "trajectories", "weight": 0.5},
                    "general": {"kind": "sharegpt", "path": str(general), "weight": 0.5},
                },
            },
            "training": {"steps": 4, "items_per_step": 4, "cpus_per_worker": 1, "checkpoint_every": 2},
            "serving": {"max_model_len": 2048, "kv_cache_gib": 1, "max_num_seqs": 8},
            "evaluation": {"max_tokens": 16, "general_dialogues": 4, "general_instructions": 4},
            **changes,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(raw))
        return path

    return write
