"""The published ALFWorld games (json_2.1.1), from the packed tables or from the published directory layout.

Read are, below the data root or its folder `alfworld`:

- `json_2.1.1/<split>/<type>/<trial>/game.tw-pddl`, as `alfworld-download` leaves it;
- `<split>.jsonl.xz`, one game a line: `{game: "<type>/<trial>", goal, walkthrough, pddl_problem}`, with the rules of
  all games in `game_domain.pddl` and `game_grammar.twl2`.

All published games share the rules that the wheel carries (one precondition and the wording of `help` aside), so a
task stores its problem alone, compressed, and needs no file to be played.
"""

import base64
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from pathlib import Path

import orjson

from agenttuning.environments.alfworld.rooms import LOOK, TYPES
from agenttuning.environments.alfworld.scene import MAX_STEPS, Goal
from agenttuning.environments.difficulty import from_steps
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Task, content_hash

LAYOUT = "json_2.1.1"
GAME = "game.tw-pddl"
TEST_ROOMS = 5
"""Of a split by room, one room in so many is `test`."""
_SENTENCE = re.compile(r"Your task is to: (.*?)\.\s*\"")


@dataclass(frozen=True)
class Game:
    """One published game."""

    name: str
    """`<type>-<object>-<movable>-<receptacle or lamp>-<scene>/<trial>`."""
    text: str
    """The goal's sentence."""
    walkthrough: tuple[str, ...]
    problem: str

    @property
    def goal(self) -> Goal:
        """What is to be done, from the game's name.

        Raises:
            DataError: the name does not follow the published pattern.
        """
        parts = self.name.split("/")[0].split("-")
        if len(parts) != 5 or parts[0] not in TYPES:
            raise DataError(
                f"ALFWorld game {self.name!r}: the name must be TYPE-OBJECT-None-PLACE-SCENE/TRIAL with one of the six "
                "types; games with movable receptacles or slicing are not played"
            )
        looking = parts[0] == LOOK
        place, lamp = (None, parts[3]) if looking else (parts[3], None)
        return Goal(type=parts[0], object=parts[1], receptacle=place, lamp=lamp, text=self.text)


def any_game(name: str) -> bool:
    """Keep every game."""
    return True


def of_room_split(split: str) -> Callable[[str], bool]:
    """Return what says of a game's name whether its room (floor plan) belongs to `train` or to `test`."""

    def kept(name: str) -> bool:
        room = name.split("/")[0].rpartition("-")[2]
        return (int(content_hash(["room", room], 8), 16) % TEST_ROOMS == 0) == (split == "test")

    return kept


def published_tasks(
    root: Path,
    source_split: str,
    split: str,
    count: int,
    seed: int,
    name: str,
    kept: Callable[[str], bool] = any_game,
) -> Iterator[Task]:
    """Yield up to `count` tasks from a published split, in an order drawn by `seed`.

    Args:
        root: the data root.
        source_split: `train`, `valid_seen` or `valid_unseen`.
        split: the split that the tasks are said to belong to.
        count: how many.
        seed: draws which and in what order; the same for the same seed.
        name: the environment's name.
        kept: says by its name whether a game may be drawn.

    Raises:
        ConfigurationError: the split is not below the root.
        DataError: a file is torn or of another shape.
    """

    def place(name: str) -> str:
        """Return what a game's name is ordered by."""
        return content_hash([seed, name])

    if (directory := _directory(root, source_split)) is not None:
        # One file of 100 kB a game: only those that are drawn are read.
        drawn: Iterable[Game] = islice(_from_directory(directory, place, kept), count)
    else:
        games = (game for game in read_games(root, source_split) if kept(game.name))
        drawn = nsmallest(count, games, key=lambda game: place(game.name))
    for game in drawn:
        goal = game.goal
        payload = {
            "source": "official",
            "game": game.name,
            "goal": goal.model_dump(),
            "walkthrough": list(game.walkthrough),
            "problem": pack(game.problem),
        }
        yield Task(
            environment=name,
            split=split,
            instruction=game.text,
            payload=payload,
            family=goal.type,
            origin="dataset",
            difficulty=from_steps(len(game.walkthrough), MAX_STEPS),
        )


def has_split(root: Path, source_split: str) -> bool:
    """Say whether a published split is there."""
    return _directory(root, source_split) is not None or _table(root, source_split) is not None


def read_games(root: Path, source_split: str) -> Iterator[Game]:
    """Yield every playable game of a published split, one at a time.

    Raises:
        ConfigurationError: the split is not below the root.
        DataError: a file is torn or of another shape, or its rules are not those that the wheel carries.
    """
    if (directory := _directory(root, source_split)) is not None:
        yield from _from_directory(directory)
    elif (table := _table(root, source_split)) is not None:
        yield from _from_table(table)
    else:
        raise ConfigurationError(
            f"alfworld: source=official needs {LAYOUT}/{source_split}/ or {source_split}.jsonl.xz below data.root, but "
            f"{root} has neither; run `alfworld-download` and set data.root to its directory, or set source=generated"
        )


def pack(problem: str) -> str:
    """Compress a PDDL problem (30 kB to 3 kB) for a task's payload."""
    return base64.b85encode(zlib.compress(problem.encode(), 9)).decode()


def unpack(packed: str) -> str:
    """Return what `pack` compressed."""
    return zlib.decompress(base64.b85decode(packed)).decode()


def _directory(root: Path, source_split: str) -> Path | None:
    candidates = (root / LAYOUT / source_split, root / "alfworld" / LAYOUT / source_split)
    return next((path for path in candidates if path.is_dir()), None)


def _table(root: Path, source_split: str) -> Path | None:
    candidates = (root / f"{source_split}.jsonl.xz", root / "alfworld" / f"{source_split}.jsonl.xz")
    return next((path for path in candidates if path.is_file()), None)


def _check_rules(domain: str, where: Path) -> None:
    """Refuse rules that the wheel does not carry: the game would be played by others than its own."""
    from agenttuning.environments.alfworld.wheel import rules

    if _essence(domain) != _essence(rules()[0]):
        raise DataError(f"{where}: its PDDL domain is not that of ALFWorld's json_2.1.1; use the published games")


def _essence(domain: str) -> str:
    """Return a domain without comments, blanks and the one precondition that the wheel has dropped."""
    words = " ".join(line.split(";", 1)[0] for line in domain.lower().splitlines())
    return " ".join(words.replace("(receptacletype ?r sinktype)", "").split())


def _from_directory(
    directory: Path, order: Callable[[str], str] = str, kept: Callable[[str], bool] = any_game
) -> Iterator[Game]:
    """Yield the playable games of a split's directory whose names are kept, by what `order` makes of the names.

    The published directory also holds games with movable receptacles and with slicing, which ALFWorld does not play.
    """
    paths = {f"{path.parent.parent.name}/{path.parent.name}": path for path in directory.glob(f"*/*/{GAME}")}
    played = [name for name in paths if name.split("-", 1)[0] in TYPES and "Sliced" not in name and kept(name)]
    checked: set[int] = set()
    for name in sorted(played, key=order):
        path = paths[name]
        try:
            data = orjson.loads(path.read_bytes())
            if not data.get("solvable", False) or not data.get("walkthrough"):
                continue
            if (domain := hash(data["pddl_domain"])) not in checked:
                _check_rules(data["pddl_domain"], path)
                checked.add(domain)
            sentence = _SENTENCE.search(data["grammar"])
            game = Game(
                name=name,
                text=sentence[1] if sentence else "",
                walkthrough=tuple(data["walkthrough"]),
                problem=data["pddl_problem"],
            )
        except (orjson.JSONDecodeError, KeyError, OSError) as error:
            raise DataError(f"{path}: not a published ALFWorld game ({error}); download it again") from error
        if game.text:
            yield game


def _from_table(table: Path) -> Iterator[Game]:
    domain = table.parent / "game_domain.pddl"
    if not domain.is_file():
        raise DataError(f"{domain} is missing; the packed games need it beside {table.name}")
    _check_rules(domain.read_text(), domain)
    number = 0
    try:
        with lzma.open(table) as lines:
            for line in lines:
                number += 1
                data = orjson.loads(line)
                yield Game(data["game"], data["goal"], tuple(data["walkthrough"]), data["pddl_problem"])
    except (lzma.LZMAError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"{table}: line {number} is no packed game ({error}); fetch the file again") from error
