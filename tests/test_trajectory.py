import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agenttuning.errors import InfrastructureError
from agenttuning.trajectory import Action, Task, Trajectory, Turn, trajectory_id

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(payload=st.dictionaries(st.text(max_size=5), JSON, max_size=3), text=st.text(max_size=40))
def test_trajectories_survive_json(payload: dict[str, object], text: str) -> None:
    task = Task(environment="toy", split="train", instruction=text, payload=payload)
    turns = (
        Turn(role="user", content=text),
        Turn(role="assistant", content=text, loss=True, action=Action(name="go", arguments={"to": text})),
    )
    t = Trajectory(
        id=trajectory_id(task, "p", {}, 0), task=task, attempt=0, turns=turns, reward=1, score=0.5,
        outcome="completed", policy="p", evidence=payload,
    )  # fmt: skip
    assert Trajectory.model_validate_json(t.model_dump_json()) == t


def test_ids_follow_content() -> None:
    a = Task(environment="toy", split="train", instruction="x", payload={"b": 1, "a": 2})
    b = Task(environment="toy", split="train", instruction="x", payload={"a": 2, "b": 1})
    assert a.id == b.id
    assert a.id != Task(environment="toy", split="train", instruction="y").id
    assert trajectory_id(a, "p", {"t": 0}, 0) != trajectory_id(a, "p", {"t": 0}, 1)
    assert trajectory_id(a, "p", {"t": 0}, 0) != trajectory_id(a, "p", {"t": 1}, 0)


def test_infrastructure_errors_cross_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(InfrastructureError("busy", retry_after=3.0)))
    assert (str(error), error.retry_after) == ("busy", 3.0)


def test_a_reward_is_a_finite_number_and_one_that_was_stored_as_null_fails() -> None:
    task = Task(environment="toy", split="train", instruction="x")
    fields = {"id": "a", "task": task, "attempt": 0, "turns": (), "outcome": "completed", "policy": "p"}
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="finite"):
            Trajectory.model_validate({**fields, "reward": wrong, "score": 0.0})
    stored = Trajectory.model_validate({**fields, "reward": 1.0, "score": 1.0}).model_dump(mode="json")
    read = Trajectory.model_validate({**stored, "reward": None, "score": None})
    assert (read.reward, read.score) == (0.0, 0.0)
