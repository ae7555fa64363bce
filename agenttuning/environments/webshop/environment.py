"""The web shopping environment: one shop page per turn, a search or a click, and a purchase that ends the episode."""

import random
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from agenttuning.environments.base import Environment, EnvironmentSettings, Expert, Grade, Needs, Parsed, Step
from agenttuning.environments.stored import stored_tasks
from agenttuning.environments.webshop import demonstration
from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.environments.webshop.expert import play
from agenttuning.environments.webshop.generator import SPLITS, generated_catalogue, generated_tasks
from agenttuning.environments.webshop.goals import Asked, official_split
from agenttuning.environments.webshop.grading import grade_evidence
from agenttuning.environments.webshop.grammar import CLICK, SEARCH, format_reply, parse_reply
from agenttuning.environments.webshop.published import SMALL, published_catalogue, published_goals
from agenttuning.environments.webshop.records import Goal
from agenttuning.environments.webshop.shop import Page, Shop, State
from agenttuning.environments.webshop.text import available_actions, observation
from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.trajectory import Action, Task, Turn

DESCRIPTION = """You shop in a web shop for what an instruction asks. Each turn shows a page as text, with the actions \
that it offers. Reply with a thought and one action:
Thought:
what you see and do next

Action:
search[keywords] or click[label]

You can search where there is a search box. A label is one of the clickables: a product's number, an option's value or \
a button. Open a product, choose the options that are asked for, and click[buy now]. The purchase ends the task."""

PUBLISHED = "published"
"""What tasks call the catalogue that `source: official` and `catalogue` name."""


class WebShopSettings(EnvironmentSettings):
    """Settings of the web shopping environment."""

    source: Literal["generated", "official"] = "generated"
    """`generated`: shops from a seed; `official`: WebShop's products and goals, below `data.root` or at `catalogue`."""
    catalogue: str | None = None
    """For `source: official`: directory of the full catalogue in WebShop's files; None: the 1,000 products below
    `data.root`."""
    goals: Literal["synthetic", "human"] = "synthetic"
    """For `source: official`: goals made from attributes and options, or those that people wrote."""
    test_split: Literal["test", "dev"] = "test"
    """For `source: official`: which of WebShop's splits `test` draws from."""
    tasks_file: str | None = None
    """Play the tasks of this file of JSON lines (`agenttuning instructions` writes them) in place of the source's."""
    families: tuple[str, ...] | None = None
    """Draw generated train and test tasks from these departments alone; None: all."""
    show_attributes: bool = False
    """Show a product's list of attributes as a page of its own, which makes the task easier."""
    on_malformed: Literal["correct", "end"] = "end"
    """What a malformed reply costs: the episode (the paper), or a turn with the parser's message."""
    mistake_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.15
    """Share of the demonstrator's episodes with a mistake (never trained) and its recovery."""

    @model_validator(mode="after")
    def _no_idle_setting(self) -> Self:
        """Refuse a setting that would do nothing."""
        if self.families is not None and self.tasks_file is not None:
            raise ValueError("families are of the source's tasks, and tasks_file names others; leave one of them out")
        if self.catalogue is not None and self.source != "official":
            raise ValueError("catalogue is for source: official; set source, or leave catalogue out")
        if self.families is not None and self.source != "generated":
            raise ValueError("families are those of source: generated; leave them out")
        return self


class WebShop(Environment):
    """Shopping on the pages of a web shop. Actions: `search` (`keywords`) and `click` (`label`)."""

    name: ClassVar[str] = "webshop"
    version: ClassVar[str] = "2"
    Settings: ClassVar[type[EnvironmentSettings]] = WebShopSettings
    isolation: ClassVar[Literal["inline", "process"]] = "inline"
    needs: ClassVar[Needs] = Needs(cpu=0.1, memory_mb=20)
    max_steps: ClassVar[int] = 10
    on_malformed: ClassVar[Literal["correct", "end"]] = "end"
    settings: WebShopSettings

    @classmethod
    def preload(cls) -> None:
        """Build the generated catalogues and their search, which all instances of a process share."""
        for split in SPLITS:
            generated_catalogue(split)

    def __init__(self, settings: EnvironmentSettings | None = None, data_root: str | None = None) -> None:
        super().__init__(settings or WebShopSettings(), data_root)
        # The contract reads this of the instance; here it is a setting, whose default is the class' own.
        vars(self)["on_malformed"] = self.settings.on_malformed
        self._shop: Shop | None = None
        self._task: Task | None = None
        self._state = State()
        self._actions = 0
        self._evidence: dict[str, Any] = {}

    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        """Yield tasks of `train`, `test` or `shifted`; an official catalogue's `shifted` are the goals people wrote.

        Raises:
            ConfigurationError: an unknown split, or a catalogue that is not named.
            DataError: a published file is not as its format says.
        """
        if self.settings.tasks_file is not None:
            yield from stored_tasks(self.name, self.settings.tasks_file, split, count, seed, ("catalogue", "goal"))
            return
        if self.settings.source == "generated":
            yield from generated_tasks(self.name, split, count, seed, self.settings.families)
            return
        if split not in SPLITS:
            raise ConfigurationError(f"{self.name} has the splits {', '.join(SPLITS)} (got {split!r})")
        if count == 0 or (split == "shifted" and self.settings.goals == "human"):
            return
        people = split == "shifted" or self.settings.goals == "human"
        asked: Sequence[Asked] = published_goals(self._catalogue(PUBLISHED), people)
        if split != "shifted":
            asked = official_split(asked, self.settings.test_split if split == "test" else split)
        for number in random.Random(seed).sample(range(len(asked)), min(count, len(asked))):
            payload = {"catalogue": PUBLISHED, "goal": asked[number].goal.model_dump(mode="json")}
            yield Task(
                environment=self.name,
                split=split,
                instruction=asked[number].instruction,
                payload=payload,
                family="human" if people else "synthetic",
                origin="dataset",
            )

    def description(self, task: Task) -> str:
        """Return the rules and the action grammar."""
        return DESCRIPTION

    def demonstration(self) -> tuple[Turn, ...]:
        """Return one worked purchase in a shop that no split has."""
        return demonstration.demonstration()

    def reset(self, task: Task) -> str:
        """Open the task's shop and return its first page."""
        self._shop = Shop(self._catalogue(task.payload["catalogue"]), self.settings.show_attributes)
        self._task, self._state, self._actions, self._evidence = task, State(), 0, {}
        return observation(self._page(), task.instruction)

    def step(self, action: Action) -> Step:
        """Search or click. What the page does not offer leaves it as it is and is an error that says why."""
        if self._shop is None or self._task is None:
            raise InfrastructureError("webshop: step before reset; start the episode again")
        self._actions += 1
        page = self._page()
        found = self._led_to(action, page)
        if isinstance(found, str):
            return Step(f"Error: {found}\n\n{available_actions(page)}", error=True)
        self._state = found
        return Step(observation(self._page(), self._task.instruction), done=found.page == "bought")

    def close(self) -> dict[str, Any]:
        """End the episode and return what was bought (or None), with which options. Safe to call twice."""
        if self._shop is not None:
            sold = self._state.page == "bought"
            self._evidence = {
                "bought": self._shop.catalogue[self._state.asin].evidence() if sold else None,
                "options": dict(self._state.chosen) if sold else {},
                "actions": self._actions,
            }
        self._shop = self._task = None
        return self._evidence

    @classmethod
    def grade(cls, task: Task, evidence: dict[str, Any]) -> Grade:
        """Compare what was bought with the goal, by WebShop's reward; nothing bought is 0."""
        return grade_evidence(task.payload, evidence)

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
        """Return the demonstrator, which knows the goal's product and speaks of what is shown.

        Raises:
            ConfigurationError: no episode has begun.
        """
        if self._shop is None:
            raise ConfigurationError("webshop: the expert plays what it is shown; call reset before expert")
        goal = Goal.model_validate(task.payload["goal"])
        return play(
            self._page, self._shop.catalogue, task.instruction, goal, rng, self.settings.mistake_rate, self.max_steps
        )

    def _page(self) -> Page:
        assert self._shop is not None
        return self._shop.page(self._state)

    def _led_to(self, action: Action, page: Page) -> State | str:
        """Return where an action leads, or why it leads nowhere."""
        assert self._shop is not None
        if action.name == SEARCH:
            if page.has_search:
                return self._shop.searched(str(action.arguments["keywords"]))
            return "there is no search box on this page; click[back to search] leads to it"
        if action.name != CLICK:
            return f"unknown action {action.name}; use search[keywords] or click[label]"
        label, clickables = str(action.arguments["label"]).lower(), page.clickables
        if label in clickables:
            return clickables[label]
        if page.has_search and label == "search":
            return "to search, write the words into search[keywords]"
        near = get_close_matches(label, clickables, n=1)
        hint = f"; did you mean click[{near[0]}]?" if near else ""
        return f"there is nothing labelled {label[:80]!r} to click on this page{hint}"

    def _catalogue(self, name: str) -> Catalogue:
        if name != PUBLISHED:
            return generated_catalogue(name.removeprefix("generated/"))
        if self.settings.catalogue is not None:
            return published_catalogue(Path(self.settings.catalogue))
        if self.data_root is None:
            raise ConfigurationError(
                "environments.webshop.settings.source: official needs data.root, the directory of published data, or "
                "environments.webshop.settings.catalogue; set one of them, or source to generated"
            )
        return published_catalogue(Path(self.data_root) / SMALL)
