"""ALFWorld: households in text, in the real engine; generated games by default, published ones where they are given.

Payloads: a generated task holds its scene and goal, a published one its compressed PDDL problem and walkthrough.
Where things lie is part of both, so a payload is for this module alone and never for a policy.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from agenttuning.environments.alfworld.conditions import conditions
from agenttuning.environments.alfworld.demonstration import demonstration
from agenttuning.environments.alfworld.expert import explore, guide
from agenttuning.environments.alfworld.generator import generated_tasks
from agenttuning.environments.alfworld.grammar import command_text, format_reply, nearest, parse_reply
from agenttuning.environments.alfworld.published import any_game, has_split, of_room_split, published_tasks, unpack
from agenttuning.environments.alfworld.scene import MAX_STEPS, Goal, Scene, problem
from agenttuning.environments.alfworld.wheel import NOTHING
from agenttuning.environments.base import Environment, EnvironmentSettings, Expert, Grade, Needs, Parsed, Step
from agenttuning.environments.stored import stored_tasks
from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.trajectory import Action, Task, Turn

if TYPE_CHECKING:
    from agenttuning.environments.alfworld.engine import Engine, View

RULES = """\
You act in a household that is described in text. In each turn write one thought and one action:
THOUGHT: what you know and do next
ACTION: one command
Commands: go to R, open R, close R, take O from R, {put}, use O, clean O with R, heat O with R, cool O with R, \
examine X, look, inventory. R is a place such as "shelf 1", O an object such as "mug 1". You carry one object at a \
time. Open a closed place to see what is in it."""


class ALFWorldSettings(EnvironmentSettings):
    """Settings of `environments.alfworld.settings`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    source: Literal["generated", "official"] = "generated"
    """`generated`: small games from a seed; `official`: the published games below `data.root`."""
    tasks_file: str | None = None
    """Play the tasks of this file of JSON lines (`agenttuning instructions` writes them) in place of the source's."""
    families: tuple[str, ...] | None = None
    """Draw generated tasks from these task types alone; None: all."""
    test_split: Literal["valid_unseen", "valid_seen", "room"] | None = None
    """For `source: official`: what `test` draws from: rooms that train does not have (`valid_unseen`; or `room`, a part
    of the train games that is then no part of `train`), or train's own rooms (`valid_seen`). None: `valid_unseen` where
    it is there, else `room`. `shifted` is valid_unseen, if it is there and not `test`."""
    wording: Literal["put", "move"] = "put"
    """`put X in/on Y` as in the paper, or `move X to Y` as in newer ALFWorld."""
    on_inadmissible: Literal["nearest", "nothing"] = "nearest"
    """What an inadmissible command does: the nearest admissible one is carried out (the paper), or nothing happens."""
    available_actions: bool = False
    """Append the admissible commands to each observation."""
    mistake_rate: float = Field(default=0.15, ge=0.0, le=1.0)
    """Share of the expert's games in which it tries one mistake; the mistake is never trained."""
    expert: Literal["walkthrough", "explorer"] = "walkthrough"
    """For `source: official`: follow the stored walkthrough, or search like one who does not know the game."""

    @model_validator(mode="after")
    def _no_idle_setting(self) -> Self:
        """Refuse a setting that would do nothing."""
        if self.families is not None and self.tasks_file is not None:
            raise ValueError("families are of the source's tasks, and tasks_file names others; leave one of them out")
        if self.families is not None and self.source != "generated":
            raise ValueError("families are those of source: generated; leave them out")
        return self


class ALFWorld(Environment):
    """Household tasks in TextWorld. One object plays one game at a time."""

    name: ClassVar[str] = "alfworld"
    version: ClassVar[str] = "2"
    Settings: ClassVar[type[EnvironmentSettings]] = ALFWorldSettings
    isolation: ClassVar[Literal["inline", "process"]] = "process"
    needs: ClassVar[Needs] = Needs(cpu=0.1, memory_mb=150)
    max_steps: ClassVar[int] = MAX_STEPS
    on_malformed: ClassVar[Literal["correct", "end"]] = "correct"

    @classmethod
    def preload(cls) -> None:
        """Import the engine and parse its grammar: a second of work that a process which forks instances does once."""
        from agenttuning.environments.alfworld.engine import game_logic

        game_logic("put")
        nearest("look", ("look",))

    def __init__(self, settings: EnvironmentSettings, data_root: str | None = None) -> None:
        super().__init__(settings, data_root)
        self.options = ALFWorldSettings.model_validate(settings.model_dump())
        self._engine: Engine | None = None
        self._view: View | None = None
        self._task: Task | None = None
        self._commands = 0
        self._evidence: dict[str, Any] = {"won": False, "commands": 0, "conditions": {}}

    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        """Yield tasks; see `generator` for generated and `published` for published games.

        Raises:
            ConfigurationError: an unknown split, or published games that are not there.
        """
        if self.options.tasks_file is not None:
            yield from stored_tasks(self.name, self.options.tasks_file, split, count, seed, ("source", "goal"))
            return
        if self.options.source == "generated":
            yield from generated_tasks(split, count, seed, self.name, self.options.families)
            return
        root = self._root()
        unseen = has_split(root, "valid_unseen")
        test = self.options.test_split or ("valid_unseen" if unseen else "room")
        names = {"train": "train", "test": "train" if test == "room" else test, "shifted": "valid_unseen"}
        if split not in names:
            raise ConfigurationError(f"alfworld has the splits train, test and shifted, not {split!r}")
        if split == "shifted" and (test == "valid_unseen" or not unseen):
            return
        kept = of_room_split(split) if test == "room" and split != "shifted" else any_game
        yield from published_tasks(root, names[split], split, count, seed, self.name, kept)

    def description(self, task: Task) -> str:
        """Return the rules and the command forms, in the wording of the settings."""
        return RULES.format(put="put O in/on R" if self.options.wording == "put" else "move O to R")

    def demonstration(self) -> tuple[Turn, ...]:
        """Return one worked game in a room that is in no split."""
        return demonstration(self.options.wording)

    def reset(self, task: Task) -> str:
        """Load the task's game and return the room sentence and the task sentence.

        Raises:
            InfrastructureError: the planning library cannot be loaded.
        """
        from agenttuning.environments.alfworld.engine import Engine

        goal = Goal.model_validate(task.payload["goal"])
        if task.payload["source"] == "generated":
            text = problem(Scene.model_validate(task.payload["scene"]), goal)
        else:
            text = unpack(task.payload["problem"])
        try:
            self._engine = self._engine or Engine()
            self._view = self._engine.start(text, goal.text, self.options.wording)
        except OSError as error:
            raise InfrastructureError(f"alfworld: the game engine does not start ({error})") from error
        self._task, self._commands = task, 0
        self._evidence = {"won": False, "commands": 0, "conditions": {}}
        return self._shown(self._view)

    def step(self, action: Action) -> Step:
        """Carry out a command, or what the settings say for one that is not admissible.

        `note["replaced_by"]` names the command that was carried out instead.
        """
        if self._engine is None or self._view is None:
            raise InfrastructureError("alfworld: step before reset; start the episode again")
        command, note = command_text(action), {}
        inadmissible = command not in self._view.admissible
        self._commands += 1
        if inadmissible:
            found = nearest(command, self._view.admissible) if self.options.on_inadmissible == "nearest" else None
            if found is None:
                return Step(self._shown(self._view, NOTHING), error=True)
            command, note = found, {"replaced_by": found}
        self._view = self._engine.act(command)
        return Step(self._shown(self._view), done=self._view.won, error=inadmissible, note=note)

    def close(self) -> dict[str, Any]:
        """End the game and return `{"won", "commands", "conditions"}` as the engine has them."""
        if self._engine is not None and self._view is not None and self._task is not None:
            goal = Goal.model_validate(self._task.payload["goal"])
            self._evidence = {
                "won": self._view.won,
                "commands": self._commands,
                "conditions": conditions(self._engine.facts(), goal),
            }
        self._view = self._task = None
        return dict(self._evidence)

    @classmethod
    def grade(cls, task: Task, evidence: dict[str, Any]) -> Grade:
        """Return 1 for a won game and 0 for any other, as the benchmark does."""
        won = 1.0 if evidence.get("won") is True else 0.0
        return Grade(reward=won, score=won)

    def parse(self, reply: str) -> Parsed:
        """Read `THOUGHT: ...` (optional) and `ACTION: ...`; see `grammar`."""
        return parse_reply(reply)

    def format(self, thought: str | None, action: Action) -> str:
        """Return the canonical reply."""
        return format_reply(thought, action)

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Return the explorer of a game, or, as the settings say, the guide through a published one."""
        if self._view is None:
            raise ConfigurationError("alfworld: the expert plays what it is shown; call reset before expert")
        goal, wording = Goal.model_validate(task.payload["goal"]), self.options.wording
        rate = self.options.mistake_rate
        if task.payload["source"] == "official" and self.options.expert == "walkthrough":
            return guide(self._view.text, goal, wording, task.payload["walkthrough"], rng, rate)
        return explore(self._view.text, goal, wording, rng, rate)

    def shutdown(self) -> None:
        """End the game and free the planning library."""
        self.close()
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _root(self) -> Path:
        if not self.data_root:
            raise ConfigurationError(
                "environments.alfworld.settings.source: official needs data.root, the directory of the published "
                "games; set data.root, or source to generated"
            )
        return Path(self.data_root)

    def _shown(self, view: "View", text: str | None = None) -> str:
        text = view.text if text is None else text
        if not self.options.available_actions:
            return text
        return f"{text}\nAVAILABLE ACTIONS: {', '.join(view.admissible)}"
