"""Published records with labels, as trajectories, and precision and recall on them.

Nobody wrote a record for a rule: all are of the published AgentInstruct (Apache-2.0), typed in from what public
projects show of it. The prompts that open a record are left out (this project's own stand in); some long observations
and queries are abridged. Every trained turn has a label, and `labelled_by` says whose it is:

- `facts` (published_samples.jsonl): Mind2Web samples that others published as wrong, and those that they found right
  beside them. Labels that owe nothing to the rule's author.
- `reading` (published_samples.jsonl): by reading the record, by the rule's author, before the rule was written.
- `second reader` (second_reader.jsonl): eleven records that the rule's author never saw, labelled by someone else
  before the rules ran on them. One change followed from them: the words of an action that the environment answered
  count as shown. Before it, misalignment objected to 3 of their 48 turns, since then to 1.

- `blind reader` (blind_reader.jsonl): thirty Database records at places of the published data that were chosen before
  they were read, none of them among the author's 26, labelled for hindsight by someone who had not seen the rule. The
  labels were committed before the rule ran on them. One change followed from them: an average, a sum and the like count
  as results too. Before it the rule found 16 of their 19 bad turns, since then 17.

`swapped` makes more misaligned thoughts without writing any: the first thought of one record in place of another's.
Many first thoughts fit more than one Operating System task (`I list the files of the current directory`), so each of
those pairs has a label too, by a third reader, given before the rule ran on the pairs (os_first_thoughts.json: the
other tasks that a record's first thought fits, or may fit; it is bad for the rest). `os_pairs` gives them in two halves
of the records: the rule was developed on the first and is reported on the second.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path

from agenttuning.conversations.replies import split_turn
from agenttuning.environments.base import make_environment, registered
from agenttuning.trajectory import Outcome, Task, Trajectory, Turn

DATA = Path(__file__).parent / "data"
FILES = ("published_samples.jsonl", "second_reader.jsonl")
BLIND = ("blind_reader.jsonl",)
HINDSIGHT = ("expected", "unshown", "premature")


@dataclass(frozen=True)
class Labelled:
    trajectory: Trajectory
    labels: dict[int, str]
    """Label by turn: `good`, `bad` or `doubtful` (misalignment); `expected`, `unshown`, `premature` (hindsight)."""
    rule: str
    by: str


@cache
def labelled(names: tuple[str, ...] = FILES) -> tuple[Labelled, ...]:
    return tuple(_read(json.loads(line)) for name in names for line in (DATA / name).read_text().splitlines())


def swapped() -> Iterator[tuple[str, Trajectory, int]]:
    """Environment, a record with the first thought of another one of its environment, and the turn that has it."""
    return ((trajectory.task.environment, trajectory, turn) for _, _, trajectory, turn in _swapped())


def _swapped() -> Iterator[tuple[str, str, Trajectory, int]]:
    """The ids of a record and of the one whose first thought it has, the record with it, and the turn."""
    good = [r for r in labelled() if not {"bad", "doubtful"} & set(r.labels.values())]
    for mine, other in permutations(good, 2):
        if mine.trajectory.task.environment == other.trajectory.task.environment:
            place = min(mine.labels)
            turns = list(mine.trajectory.turns)
            strange = other.trajectory.turns[min(other.labels)]
            turns[place] = turns[place].model_copy(update={"thought": strange.thought, "content": strange.content})
            swapped = mine.trajectory.model_copy(update={"turns": tuple(turns)})
            yield mine.trajectory.id, other.trajectory.id, swapped, place


def os_pairs(half: int) -> Iterator[tuple[Trajectory, int, str]]:
    """Swapped Operating System records of one half, the turn that has a strange thought, and the pair's label."""
    fits = json.loads((DATA / "os_first_thoughts.json").read_text())
    records = sorted({r.trajectory.id for r in labelled() if r.trajectory.task.environment == "os"})[half::2]
    for mine, other, trajectory, turn in _swapped():
        if mine in records and other in records:
            known = fits.get(other, {})
            yield trajectory, turn, next((label for label in known if mine in known[label]), "bad")


def _read(record) -> Labelled:
    turns = list(opening(record["environment"]))
    for sender, text in record["conversations"]:
        turn = Turn(role="user" if sender == "human" else "assistant", content=text, loss=sender == "gpt" or None)
        turns.append(split_turn(record["environment"], turn))
    own = [i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.loss]
    task = Task(environment=record["environment"], split="train", instruction=record["conversations"][0][1])
    trajectory = Trajectory(
        id=record["id"], task=task, attempt=0, turns=tuple(turns), reward=1.0, score=1.0,
        outcome=Outcome.COMPLETED, policy="published",
    )  # fmt: skip
    return Labelled(trajectory, dict(zip(own, record["labels"], strict=True)), record["rule"], record["labelled_by"])


@cache
def opening(environment: str) -> tuple[Turn, ...]:
    """This project's own description of the environment, in place of the published one."""
    if environment not in registered() or environment == "mind2web":
        return ()
    task = Task(environment=environment, split="train", instruction="x")
    with make_environment(environment) as built:
        text = built.description(task)
    return Turn(role="user", content=text), Turn(role="assistant", content="Ok.", loss=False)


@dataclass
class Counts:
    """Turns by what the rule found and what the label says."""

    true: int = 0
    false: int = 0
    missed: int = 0
    passed: int = 0

    def add(self, found: bool, real: bool) -> None:
        if found:
            self.true, self.false = self.true + real, self.false + (not real)
        else:
            self.missed, self.passed = self.missed + real, self.passed + (not real)

    @property
    def precision(self) -> float:
        return self.true / (self.true + self.false) if self.true + self.false else float("nan")

    @property
    def recall(self) -> float:
        return self.true / (self.true + self.missed) if self.true + self.missed else float("nan")
