import pytest

from agenttuning.trajectory import Action, Call, Outcome, Task, Trajectory, Turn


@pytest.fixture
def make_task():
    def make(environment="os", split="test", family="count files", number=0):
        return Task(
            environment=environment, split=split, family=family, instruction=f"task {number}", payload={"n": number}
        )

    return make


@pytest.fixture
def make_trajectory(make_task):
    def make(replies=(), *, task=None, reward=0.0, outcome=Outcome.COMPLETED, attempt=0, calls=True, **diagnostics):
        """Build an episode from replies: `(content, observation)`, with an action unless the content starts with ?."""
        task = task or make_task()
        turns = [Turn(role="user", content="rules"), Turn(role="assistant", content="Ok.", loss=False)]
        turns.append(Turn(role="user", content=task.instruction))
        made = []
        malformed = 0
        for content, observation, *finish in replies:
            action = None if content.startswith("?") else Action(name="bash", arguments={"command": content})
            malformed += action is None
            made.append(Call(turn=len(turns), finish_reason=finish[0] if finish else "stop"))
            turns.append(Turn(role="assistant", content=content, loss=action is not None, action=action))
            if observation is not None:
                turns.append(Turn(role="user", content=observation))
        return Trajectory(
            id=f"{task.id}-{attempt}",
            task=task,
            attempt=attempt,
            turns=tuple(turns),
            reward=reward,
            score=reward,
            outcome=outcome,
            policy="model",
            steps=len(replies),
            calls=tuple(made) if calls else (),
            diagnostics={"malformed": malformed, **diagnostics},
        )

    return make
