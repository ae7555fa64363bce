"""The demonstrator: carries out a task's gold calls, each from what the tools have shown so far.

It follows a relation only when a listing shows it, and ends early where an observation is nothing that it can go on
from. In a share of its episodes it makes one plausible mistake, which is never trained, and recovers from it.
"""

import random
import re
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from agenttuning.environments.base import Expert, Move, Step
from agenttuning.environments.knowledge_graph import thoughts
from agenttuning.environments.knowledge_graph.grammar import answer, call
from agenttuning.environments.knowledge_graph.plans import names_of, parse_calls
from agenttuning.trajectory import Action

_MADE = re.compile(r"variable (#\d+), which (?:are instances of (.+)|is a number)")
Exchange = Generator[Move, Step, Step]
LISTINGS = {"get_relations": "relation", "get_attributes": "attribute"}
MISTAKES = ("misspelt", "unlisted", "shortened", "wrong_way", "entity_for_variable")


def play(payload: dict[str, Any], rng: random.Random, mistake_rate: float) -> Expert:
    """Return the demonstrator of a task.

    Args:
        payload: the task's: `actions` (the gold calls, with ids in place of names), `entities` (name to id), and for a
            generated question `phrases` (its words for each variable).
        rng: chooses words and mistakes.
        mistake_rate: share of the episodes with a mistake.
    """
    slip = rng.random() < mistake_rate
    names = {entity: name for name, entity in payload["entities"].items()}
    return _Player(parse_calls(payload["actions"]), names, payload.get("phrases", []), rng, slip).play()


@dataclass
class _Player:
    """What the demonstrator remembers: its variables with their types, and what was listed."""

    actions: list[Action]
    names: dict[str, str]
    """Id to name of what the question names."""
    phrases: list[str]
    rng: random.Random
    slip: bool
    made: list[str] = field(default_factory=list)
    """The variables that the gold calls made, by the calls' own numbers; mistakes make further ones."""
    kinds: dict[str, str] = field(default_factory=dict)
    listings: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def play(self) -> Expert:
        at, mistake = self._plan_mistake()
        for index, gold in enumerate(self.actions):
            action = self._resolved(gold)
            thought = self._thought(action, index)
            if index == at:
                step, thought = yield from self._mistaken(mistake, action, thought)
                if step is None:
                    return
            if not self._shown(action):
                return
            step = yield Move(thought, action)
            if step.error:
                return
            self._remember(action, step, gold=True)
        if self.made:
            last = self.made[-1]
            tool = self.actions[-1].name
            yield Move(thoughts.conclude(last, self.kinds[last], tool, self.rng), answer(last))

    def _resolved(self, gold: Action) -> Action:
        """Return a gold call with the names that this episode has for its variables and entities."""
        arguments = {key: self._name(key, value) for key, value in gold.arguments.items()}
        return gold.model_copy(update={"arguments": arguments})

    def _name(self, key: str, value: str) -> str:
        if not key.startswith("variable"):
            return value
        if value.startswith("#"):
            return self.made[int(value[1:])]
        return self.names[value]

    def _shown(self, action: Action) -> bool:
        for tool, key in LISTINGS.items():
            if key in action.arguments:
                return action.arguments[key] in self.listings.get((tool, action.arguments["variable"]), [])
        return True

    def _remember(self, action: Action, step: Step, gold: bool) -> str:
        """Keep what an observation showed; return the variable that it made, if any."""
        if action.name in LISTINGS:
            self.listings[action.name, action.arguments["variable"]] = names_of(step.observation)
            return ""
        found = _MADE.search(step.observation)
        assert found is not None
        name, kind = found.group(1), found.group(2) or "number"
        self.kinds[name] = kind
        if gold:
            self.made.append(name)
        return name

    def _thought(self, action: Action, index: int) -> str:
        rng = self.rng
        if action.name == "intersection":
            first, second = action.arguments.values()
            return thoughts.both(first, second, self.kinds[first], rng)
        name = action.arguments["variable"]
        kind = self.kinds.get(name)
        match action.name:
            case "get_relations" if kind is not None:
                return thoughts.go_on(name, kind, rng)
            case "get_relations" if self.made:
                return thoughts.turn_to(name, self.made[-1], self.kinds[self.made[-1]], rng)
            case "get_relations":
                return thoughts.start(name, len(self.names) - 1, rng)
            case "get_neighbors":
                listed = self.listings.get(("get_relations", name), [])
                phrase = self.phrases[len(self.made)] if self.phrases else ""
                return thoughts.follow(name, action.arguments["relation"], len(listed), phrase, rng)
            case "get_attributes":
                later = next((a.name for a in self.actions[index:] if a.name in ("argmax", "argmin")), "argmax")
                return thoughts.attributes(name, kind, later == "argmax", rng)
            case "argmax" | "argmin":
                return thoughts.extreme(name, action.arguments["attribute"], action.name == "argmax", rng)
        return thoughts.number(name, kind, rng)

    def _plan_mistake(self) -> tuple[int, str]:
        """Choose a gold call and the mistake before it; index -1 where none is made."""
        fits = [(index, kind) for index in range(len(self.actions)) for kind in MISTAKES if self._fits(index, kind)]
        return self.rng.choice(fits) if self.slip and fits else (-1, "")

    def _fits(self, index: int, mistake: str) -> bool:
        gold = self.actions[index]
        first = gold.arguments.get("variable", "")
        match mistake:
            case "misspelt":
                return (
                    gold.name == "get_relations"
                    and first in self.names
                    and self._misspelt(self.names[first]) is not None
                )
            case "unlisted":
                return gold.name in LISTINGS
            case "shortened" | "wrong_way":
                return gold.name == "get_neighbors"
        return gold.name == "get_relations" and index > 0 and not first.startswith("#")

    def _mistaken(self, mistake: str, action: Action, thought: str) -> Generator[Move, Step, tuple[Step | None, str]]:
        """Make a mistake before `action`; return its observation and the thought that mends it.

        No observation means that nothing can go on from what happened. Where the mistake does not fit what was shown,
        none is made.
        """
        rng, name = self.rng, action.arguments["variable"]
        wrong, said, mended = action, thought, thought
        match mistake:
            case "misspelt":
                wrong = call("get_relations", self._misspelt(name) or name)
                said, mended = thought.replace(name, wrong.arguments["variable"]), thoughts.right_spelling(name, rng)
            case "unlisted":
                wrong = self._unlisted(action)
                said, mended = thoughts.guess(name, [*wrong.arguments.values()][1], rng), thoughts.list_first(name, rng)
            case "shortened":
                relation = action.arguments["relation"]
                short = relation.rpartition(".")[2]
                wrong = call("get_neighbors", name, short)
                said, mended = thoughts.guess(name, short, rng), thoughts.full_name(relation, short, rng)
            case "wrong_way":
                return (yield from self._wrong_way(action, thought))
            case "entity_for_variable":
                wrong = call("intersection", self.made[-1], name)
                said, mended = thoughts.too_early(self.made[-1], name, rng), thoughts.not_yet(name, rng)
        step = yield Move(said, wrong, loss=False)
        return (step if step.error else None), mended

    def _wrong_way(self, action: Action, thought: str) -> Generator[Move, Step, tuple[Step | None, str]]:
        """Follow another listed relation, and turn back."""
        name, relation = action.arguments["variable"], action.arguments["relation"]
        others = [other for other in self.listings.get(("get_relations", name), []) if other != relation]
        if not others:
            return Step(""), thought
        wrong = self.rng.choice(others)
        listed = len(others) + 1
        move = Move(thoughts.follow(name, wrong, listed, "", self.rng), call("get_neighbors", name, wrong), loss=False)
        step = yield move
        if step.error:
            return None, thought
        made = self._remember(move.action, step, gold=False)
        return step, thoughts.wrong_way(made, wrong, name, relation, self.rng)

    def _unlisted(self, action: Action) -> Action:
        """Return a call that uses a guessed name before the listing that `action` asks for."""
        name = action.arguments["variable"]
        if action.name == "get_attributes":
            return call(self.rng.choice(["argmax", "argmin"]), name, self.rng.choice(["value", "size", "rank"]))
        return call("get_neighbors", name, self.rng.choice(["related_to", "members", "has", "part_of"]))

    def _misspelt(self, name: str) -> str | None:
        """Return a name in small letters, where that is another one that nothing is called."""
        small = name.lower()
        return small if small != name and small not in self.names.values() else None
