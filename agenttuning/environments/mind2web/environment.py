"""The Mind2Web environment: one action on a recorded web page per episode, one choice among five elements per turn."""

import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from xml.etree.ElementTree import Element

from pydantic import Field, model_validator

from agenttuning.environments.base import Environment, EnvironmentSettings, Expert, Grade, Needs, Parsed, Step
from agenttuning.environments.families import chosen_families
from agenttuning.environments.mind2web import dom, expert, grading, ranking, weights
from agenttuning.environments.mind2web.bundle import SCORES, recorded_entries, recorded_fetch, recorded_scores
from agenttuning.environments.mind2web.demonstration import demonstration
from agenttuning.environments.mind2web.grammar import format_reply, parse_reply
from agenttuning.environments.mind2web.protocol import LETTERS, Answer, Rounds, answered
from agenttuning.environments.mind2web.records import Entry, entries, fetch, has_split
from agenttuning.environments.mind2web.tasks import Fetch, draw
from agenttuning.environments.stored import stored_tasks
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Action, Task, Turn

DESCRIPTION = """You carry out a task on a web site. You see a part of the page and some of its elements as choices.
In each turn write a thought, then the letter of the element that the next action of the task acts on, and the action:
Thought: ...
Answer: C.
Action: CLICK, TYPE or SELECT
Value: the text to type, or the option to select; no such line for CLICK
If none of the elements is right, write only `Answer: A.` below the thought. An element that you choose is shown again
among others until one is left; that one is your action."""

SPLITS = ("train", "test", "shifted")


class Mind2WebSettings(EnvironmentSettings):
    """Settings of the Mind2Web environment."""

    source: Literal["recorded", "official"] = "recorded"
    """`recorded`: the tasks that come with the package; `official`: files in Mind2Web's format."""
    path: str | None = None
    """For `source: official`: the folder with `train/`, `test_task/` and so on; None: `mind2web` below `data.root`."""
    test_split: Literal["test_task", "test_website", "test_domain"] = "test_domain"
    """For `source: official`: what `test` draws from. `shifted` is then `test_domain`, unless that is `test`."""
    tasks_file: str | None = None
    """Play the tasks of this file of JSON lines (`agenttuning instructions` writes them) in place of the source's."""
    families: tuple[str, ...] | None = None
    """Draw from the tasks of these web sites alone; None: all of the split."""
    ranker: str = "trained"
    """`trained`, `bm25`, or the path of a file of weights or of scores (see the module `ranker`)."""
    top_k: Annotated[int, Field(ge=1, le=50)] = 10
    """Candidates of the ranker that an action's pool holds."""
    mistake_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.15
    """Share of the demonstrator's episodes with a mistake (never trained) and its recovery, where rounds allow it."""

    @model_validator(mode="after")
    def _no_idle_setting(self) -> Self:
        """Refuse a setting that would do nothing."""
        if self.families is not None and self.tasks_file is not None:
            raise ValueError("families are of the source's tasks, and tasks_file names others; leave one of them out")
        if self.path is not None and self.source != "official":
            raise ValueError("path is for source: official; set source, or leave path out")
        return self


class Mind2Web(Environment):
    """Actions on recorded web pages. One action, `choose` (`letter`, `operation`, `value`)."""

    name: ClassVar[str] = "mind2web"
    version: ClassVar[str] = "2"
    Settings: ClassVar[type[EnvironmentSettings]] = Mind2WebSettings
    isolation: ClassVar[Literal["inline", "process"]] = "inline"
    needs: ClassVar[Needs] = Needs(cpu=0.1, memory_mb=100)
    max_steps: ClassVar[int] = 15
    settings: Mind2WebSettings

    def __init__(self, settings: EnvironmentSettings | None = None, data_root: str | None = None) -> None:
        super().__init__(settings or Mind2WebSettings(), data_root)
        self._task: Task | None = None
        self._page: Element | None = None
        self._rounds = Rounds(())
        self._answers: list[Answer] = []

    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        """Yield actions of the split's web sites; splits share no site.

        Raises:
            ConfigurationError: an unknown split or site, or a source without its files.
            DataError: a file is not as its format says.
        """
        if self.settings.tasks_file is not None:
            yield from stored_tasks(
                self.name, self.settings.tasks_file, split, count, seed, ("page", "sample", "pool", "previous")
            )
            return
        if split not in SPLITS:
            raise ConfigurationError(f"mind2web has the splits {', '.join(SPLITS)}, not {split!r}")
        found, fetch = self._source(split)
        sites = sorted({entry.website for entry in found})
        if sites and self.settings.families is not None:
            chosen = chosen_families(self.name, sites, self.settings.families)
            found = [entry for entry in found if entry.website in chosen]
        origin = "generated" if self.settings.source == "recorded" else "dataset"
        top_k, limit = self.settings.top_k, self.max_steps
        yield from draw(self.name, split, found, fetch, count, seed, self._ranker(), top_k, origin, limit)

    def description(self, task: Task) -> str:
        """Return what is seen, the action grammar, and how choosing goes on."""
        return DESCRIPTION

    def demonstration(self) -> tuple[Turn, ...]:
        """Return one small action in two rounds, on a page that is in no split."""
        return demonstration()

    def reset(self, task: Task) -> str:
        """Return the first group of candidates with the page around them, the task and the actions before."""
        self._task, self._answers = task, []
        self._page = dom.parse(task.payload["page"], task.payload["sample"])
        self._rounds = Rounds(tuple(task.payload["pool"]))
        previous = "\n".join(task.payload["previous"]) or "None"
        shown = shown_round(self._page, self._rounds.group)
        return f"Task: {task.instruction}\nPrevious actions:\n{previous}\n\n{shown}"

    def step(self, action: Action) -> Step:
        """Take the answer to the group that is shown, and show the next, if there is one."""
        if self._task is None or self._page is None:
            raise RuntimeError("mind2web: step needs a reset before it")
        letter, group = action.arguments["letter"], self._rounds.group
        if LETTERS.index(letter) > len(group):
            last = LETTERS[len(group)]
            return Step(f"There is no choice {letter}. Answer with a letter from A to {last}.", error=True)
        answer = Answer(letter, action.arguments["operation"], action.arguments["value"])
        self._rounds = answered(self._rounds, answer)
        self._answers.append(answer)
        if not self._rounds.group:
            return Step("The action was taken.", done=True)
        return Step(shown_round(self._page, self._rounds.group))

    def close(self) -> dict[str, Any]:
        """Return the answers in their order, which are all that grading needs. Safe to call twice."""
        return {"answers": [asdict(answer) for answer in self._answers]}

    @classmethod
    def grade(cls, task: Task, evidence: dict[str, Any]) -> Grade:
        """Play the answers again over the task's pool; see `grading`."""
        return grading.grade_evidence(task.payload, evidence)

    @classmethod
    def metrics(cls, task: Task, evidence: dict[str, Any]) -> dict[str, float]:
        """Return Mind2Web's metrics of one episode: `element_acc`, `action_f1`, `step_sr`, and its rounds."""
        return asdict(grading.measure(task.payload, evidence))

    def parse(self, reply: str) -> Parsed:
        """Read a reply.

        Raises:
            MalformedReply: its message tells the model what was wrong and what is expected.
        """
        return parse_reply(reply)

    def format(self, thought: str | None, action: Action) -> str:
        """Return the canonical reply.

        Raises:
            ValueError: the grammar cannot express the thought or the action.
        """
        return format_reply(thought, action)

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Return the demonstrator, who knows the right element; it also plays official tasks."""
        return expert.play(task.instruction, task.payload, rng, self.settings.mistake_rate)

    def _source(self, split: str) -> tuple[list[Entry], Fetch]:
        if self.settings.source == "recorded":
            return recorded_entries(split), recorded_fetch
        root = self._root()
        folder = {"train": "train", "test": self.settings.test_split, "shifted": "test_domain"}[split]
        if split == "shifted" and (self.settings.test_split == folder or not has_split(root, folder)):
            return [], fetch
        return list(entries(root, folder)), fetch

    def _root(self) -> Path:
        if self.settings.path:
            return Path(self.settings.path)
        if not self.data_root:
            raise ConfigurationError(
                "environments.mind2web.settings.source: official needs the published files; set "
                "environments.mind2web.settings.path or data.root, or source to recorded"
            )
        return Path(self.data_root) / "mind2web"

    def _ranker(self) -> ranking.Ranker:
        if self.settings.ranker == "bm25":
            return ranking.bm25
        if self.settings.ranker != "trained":
            return weights.load_ranker(Path(self.settings.ranker))
        if self.settings.source == "recorded":
            return ranking.from_scores(recorded_scores(), SCORES)
        return weights.trained()


def shown_round(page: Element, group: tuple[str, ...]) -> str:
    """Return what the model sees of one round: the page around the group, and the choices."""
    elements = dom.by_id(page)
    html = dom.render(dom.prune(page, group), {element: number for number, element in enumerate(group)})
    choices = [dom.choice_text(elements[element], number) for number, element in enumerate(group)]
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, ["None of the above", *choices], strict=False)]
    return "\n".join([html, "", "Which element does the next action act on?", *lines])
