"""The page docs/your-own-environment.md shows a complete environment: it must work as printed."""

import random
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from agenttuning.environments import base
from agenttuning.errors import ConfigurationError, MalformedReply

PAGE = Path(__file__).parents[2] / "docs/your-own-environment.md"


def example(without: str = "") -> type[base.Environment]:
    """Return the page's class, as printed, or without some of its lines."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) < 100
    assert without in code[1]
    space: dict[str, Any] = {}
    exec(compile(code[1].replace(without, ""), "guess.py", "exec"), space)
    found: type[base.Environment] = space["Guess"]
    return found


@pytest.fixture
def guess() -> base.Environment:
    return example()(base.EnvironmentSettings())


def test_its_expert_wins_and_doing_nothing_fails(guess: base.Environment) -> None:
    for task in guess.tasks("train", 20, seed=1):
        guess.reset(task)
        expert = guess.expert(task, random.Random(0))
        move, done = next(expert), False
        for _ in range(guess.max_steps):
            parsed = guess.parse(guess.format(move.thought, move.action))
            assert parsed == base.Parsed(move.thought, move.action)
            step = guess.step(parsed.action)
            done = step.done
            if done:
                break
            move = expert.send(step)
        assert done
        assert guess.grade(task, guess.close()).reward == 1.0
        guess.reset(task)
        assert guess.grade(task, guess.close()).reward == 0.0


def test_its_parser_says_what_is_wrong(guess: base.Environment) -> None:
    with pytest.raises(MalformedReply, match="Guess: N"):
        guess.parse("I would say 7.")


def test_its_project_file_registers_the_class_as_it_is_called() -> None:
    shown = re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown is not None
    project = tomllib.loads(shown[1])
    (module, found), *_ = (v.split(":") for v in project["project"]["entry-points"][base.ENTRY_POINTS].values())
    assert project["tool"]["setuptools"]["py-modules"] == [module] == [project["project"]["name"]]
    assert found == example().__name__
    assert list(project["project"]["entry-points"][base.ENTRY_POINTS]) == [example().name]


def test_the_registry_names_what_it_knows_and_refuses_unknown_settings() -> None:
    assert {"os", "db", "alfworld"} <= set(base.registered())
    with pytest.raises(ConfigurationError, match=r"'nosuch' is not registered; known: .*alfworld"):
        base.make_environment("nosuch")
    with pytest.raises(ConfigurationError, match=r"environments\.db\.settings\.colour"):
        base.make_environment("db", {"colour": 1})
