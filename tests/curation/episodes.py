"""Small trajectories for the tests of curation."""

from agenttuning.trajectory import Action, Call, Outcome, Task, Trajectory, Turn, trajectory_id

OPENING = (
    Turn(role="user", content="rules"),
    Turn(role="assistant", content="Ok.", loss=False),
    Turn(role="user", content="the task"),
)


def agent(command: str, thought: str | None = "I look.", loss: bool = True, parsed: bool = True) -> Turn:
    action = Action(name="bash", arguments={"command": command}) if parsed else None
    return Turn(role="assistant", content=f"{thought}|{command}", loss=loss, thought=thought, action=action)


def steps(*pairs: tuple[str, str]) -> tuple[Turn, ...]:
    """Turns of (command, observation) pairs, each thought its own."""
    turns = []
    for number, (command, observation) in enumerate(pairs):
        turns += [agent(command, thought=f"Step {number}."), Turn(role="user", content=observation)]
    return tuple(turns)


def trajectory(
    turns: tuple[Turn, ...] = (),
    environment: str = "os",
    number: int = 0,
    attempt: int = 0,
    reward: float = 1.0,
    outcome: Outcome = Outcome.COMPLETED,
    family: str = "files",
    split: str = "train",
    called: bool = True,
    opening: tuple[Turn, ...] = OPENING,
    **more,
) -> Trajectory:
    task = Task(environment=environment, split=split, instruction=f"task {number}", family=family)
    spoken = opening + (turns or (agent(f"solve {number}"),))
    own = [i for i, turn in enumerate(spoken) if turn.role == "assistant" and i >= len(opening)]
    return Trajectory(
        id=trajectory_id(task, "p", {}, attempt),
        task=task,
        attempt=attempt,
        turns=spoken,
        reward=reward,
        score=reward,
        outcome=outcome,
        policy="p",
        calls=tuple(Call(turn=i) for i in own) if called else (),
        **more,
    )
