"""Games in the real TextWorld engine, loaded and stepped at a fraction of the usual cost.

Planning library, grounding, rules, texts and names are those of TextWorld and of the `alfworld` wheel. Three habits of
`PddlEnv` are changed, in subclasses and without patching anything:

- It grounds a game four times (for play and for a planner, at load and again at reset). Here a game is grounded once,
  for play; nothing in this project asks the planner.
- It parses the text grammar for every game and every template at every use. Here that happens once for a process.
- Its translator overwrites `sys.argv`. Here that is put back.

An `Engine` holds one copy of the planning library and plays one game at a time. A closed one frees its game and leaves
the library, some hundred kilobytes of code, to the next engine of the process: unloading it twice crashes at exit.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agenttuning.environments.alfworld.text import Renderer
from agenttuning.environments.alfworld.wheel import NOTHING, quiet_home, rules, worded

with quiet_home():
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl import PddlEnv
    from textworld.envs.pddl import logic as pddl_logic
    from textworld.logic import Proposition, Variable

fast_downward = pddl_logic.fast_downward
GO = "go to [{r.name | receptacleatlocation(r:receptacle, lend:location)}]"
"""The grammar's only template with a query. Where `r` is bound, as in every grounded action, it means `go to {r}`."""


_idle: list[Any] = []
"""Loaded planning libraries that no engine of this process uses at the moment."""


@contextmanager
def _arguments_kept() -> Iterator[None]:
    before = sys.argv
    try:
        yield
    finally:
        sys.argv = before


@lru_cache(maxsize=4)
def game_logic(wording: str) -> Any:
    """Return the parsed rules and grammar of ALFWorld in a wording (`put` or `move`); parsing takes half a second."""
    domain, grammar = rules()
    return pddl_logic.GameLogic(domain=domain, grammar=worded(grammar, wording).replace(GO, "go to {r}"))


class PlayState(pddl_logic.PddlState):  # type: ignore[misc]
    """A game's state, grounded once and without the planner's second copy."""

    def __init__(self, library: Any, problem: str, logic: Any) -> None:
        textworld.logic.State.__init__(self, textworld.logic.GameLogic())
        self._logic = logic
        self.downward_lib = library
        with _arguments_kept():
            self.task, sas = fast_downward.pddl2sas(logic.domain, problem)
        self._actions = {action.name: action for action in self.task.actions}
        self.name2type = {thing.name: thing.type_name for thing in self.task.objects}
        for kind in self.task.types:
            if kind.name not in {known.name for known in logic.types}:
                logic.types.add(textworld.logic.Type(kind.name, kind.supertype_names))
        library.load_sas(sas.encode())
        atom_type = fast_downward.translate.pddl.conditions.Atom
        for atom in self.task.init:
            if isinstance(atom, atom_type) and atom.predicate != "=":
                self.add_fact(Proposition(atom.predicate, [Variable(name, self.name2type[name]) for name in atom.args]))
        atoms = (pddl_logic.Atom * library.get_state_size())()
        library.get_state(atoms)
        facts = [atom.get_fact(self.name2type) for atom in atoms]
        self.add_facts(fact for fact in facts if not fact.is_negation)


class PlayEnv(PddlEnv):  # type: ignore[misc]
    """`PddlEnv` with the cheap state, and with texts and commands from parsed templates."""

    def __init__(self) -> None:
        textworld.Environment.__init__(self, textworld.EnvInfos(admissible_commands=True))
        self.downward_lib = _idle.pop() if _idle else fast_downward.load_lib()

    def load(self, data: dict[str, str]) -> None:
        """Ground a game: `{"wording", "goal", "problem"}`, the problem as PDDL."""
        self._logic = game_logic(data["wording"])
        self._goal = data["goal"]
        self._pddl_state = PlayState(self.downward_lib, data["problem"], self._logic)
        self._entity_infos = self._get_entity_infos()

    def reset(self) -> Any:
        """Begin the loaded game. Its state is the one that `load` grounded, so a game is reset once."""
        self._renderer = Renderer(self._logic.grammar._rules, self._pddl_state, self._entity_infos)
        self.state = textworld.GameState()
        self.state["feedback"] = f"{self._renderer.render('look.feedback', {})}\nYour task is to: {self._goal}."
        self._gather_infos()
        return self.state

    def step(self, command: str) -> tuple[Any, int, bool]:
        """Carry out a command; the state holds `feedback`, `won` and `admissible_commands`."""
        action = self.state["_actions"].get(command)
        self.state = textworld.GameState()
        self.state["feedback"] = NOTHING
        if action is not None:
            self._pddl_state.apply(action)
            self.state["feedback"] = self._renderer.render(action.feedback_rule.strip("#"), action.mapping)
        self._gather_infos()
        return self.state, int(self.state["won"]), bool(self.state["won"])

    def _gather_infos(self) -> None:
        actions: dict[str, Any] = {}
        for action in self._pddl_state.all_applicable_actions():
            names = {slot.name: self._entity_infos[value.name].name for slot, value in action.mapping.items()}
            actions.setdefault(action.command_template.format(**names), action)
        self.state["_actions"] = actions
        self.state["admissible_commands"] = sorted(actions)
        self.state["won"] = self._pddl_state.check_goal()


@dataclass(frozen=True)
class View:
    """What a game shows after a command."""

    text: str
    won: bool
    admissible: tuple[str, ...]
    """Every command that the engine carries out now, sorted."""


class Engine:
    """One process' engine: `start` a game, `act` in it, read its `facts`, `close`."""

    def __init__(self) -> None:
        self._env: Any = AlfredDemangler(PlayEnv())

    def start(self, problem: str, goal: str, wording: str) -> View:
        """Load and begin a game.

        Args:
            problem: the game's PDDL problem.
            goal: the goal's sentence, without its full stop.
            wording: `put` or `move`.
        """
        self._env.load({"wording": wording, "goal": goal, "problem": problem})
        return self._view(self._env.reset())

    def act(self, command: str) -> View:
        """Carry out a command; one that is not admissible changes nothing and shows `NOTHING`."""
        return self._view(self._env.step(command)[0])

    def facts(self) -> list[tuple[str, ...]]:
        """Return what is true now, as (predicate, name, ...) with lower-cased PDDL names, sorted."""
        state = self._env._pddl_state
        return sorted((fact.name, *(value.name for value in fact.arguments)) for fact in state.facts)

    def close(self) -> None:
        """Free the game and give the planning library back. Safe to call twice."""
        if self._env is not None:
            self._env.downward_lib.cleanup()
            _idle.append(self._env.downward_lib)
            self._env = None

    def _view(self, state: Any) -> View:
        return View(
            text=state["feedback"].strip(), won=bool(state["won"]), admissible=tuple(state["admissible_commands"])
        )
