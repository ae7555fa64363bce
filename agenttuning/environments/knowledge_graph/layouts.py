"""Where the published files lie: packed below `data.root/knowledgegraph`, or as their authors published them.

- AgentBench's questions: `agentbench_kg_{kg_rl_all,dev,std}.json`, or `{kg_rl_all,dev,std}.json` there or in
  `data/knowledgegraph` as in its repository.
- Freebase's schema: `fb_roles.txt.xz`, or `fb_roles` there or in `src/server/tasks/knowledgegraph/ontology`, as in
  AgentBench's repository.
- FB15k-237: `fb15k237_triples.tsv.xz`, or `FB15k-237/{train,valid,test}.txt` there or below the root.
- MetaQA: `metaqa_kb.tsv.xz` and `metaqa_questions.jsonl.xz`, or `MetaQA/` there or below the root, with `kb.txt`,
  `<n>-hop/vanilla/qa_{dev,test}.txt` and `<n>-hop/qa_{dev,test}_qtype.txt`.

A packed file goes before a published one. FB15k-237's names, numbers and reverse relations are read packed alone.
"""

import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agenttuning.errors import DataError

TRIPLES, ROLES = "fb15k237_triples.tsv.xz", "fb_roles.txt.xz"
METAQA_KB, METAQA_QUESTIONS = "metaqa_kb.tsv.xz", "metaqa_questions.jsonl.xz"
AGENTBENCH = {"train": "kg_rl_all.json", "dev": "dev.json", "std": "std.json"}
_TOPIC = re.compile(r"\[(.+?)\]")
"""How MetaQA marks the entity that a question starts from."""


def roles_file(folder: Path) -> Path:
    """Return the file of domains and ranges; the packed name where none is there."""
    ontology = Path("src") / "server" / "tasks" / "knowledgegraph" / "ontology"
    return _first(folder / ROLES, folder / "fb_roles", folder.parent / ontology / "fb_roles")


def agentbench_file(folder: Path, part: str) -> Path:
    """Return AgentBench's file of `train`, `dev` or `std`; the packed name where none is there."""
    name = AGENTBENCH[part]
    return _first(folder / f"agentbench_kg_{name}", folder / name, folder.parent / "data" / "knowledgegraph" / name)


def triple_files(folder: Path) -> list[Path]:
    """Return the files of FB15k-237's facts."""
    published = _below(folder, TRIPLES, "FB15k-237", "train.txt")
    return [folder / TRIPLES] if published is None else [published / f"{n}.txt" for n in ("train", "valid", "test")]


def metaqa_facts_file(folder: Path) -> Path:
    """Return the file of MetaQA's facts."""
    published = _below(folder, METAQA_KB, "MetaQA", "kb.txt")
    return folder / METAQA_KB if published is None else published / "kb.txt"


def metaqa_facts(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield head, relation and tail of MetaQA's facts, relations in words (`directed by`).

    Raises:
        DataError: missing, torn or not as published.
    """
    path = metaqa_facts_file(folder)
    if path.suffix == ".xz":
        yield from rows(path, 3)
    else:
        for head, relation, tail in rows(path, 3, "|"):
            yield head, relation.replace("_", " "), tail


def metaqa_questions(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield MetaQA's questions: split, type, question, entity and answers; packed ones also `minus_start`.

    Raises:
        DataError: missing, torn or not as published.
    """
    published = _below(folder, METAQA_KB, "MetaQA", "kb.txt")
    if published is None:
        path = folder / METAQA_QUESTIONS
        for number, line in enumerate(read_lines(path), start=1):
            try:
                record = json.loads(line)
                yield {**record, "entity": str(record["entity"])}
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}:{number}: not as published ({error!r})") from error
        return
    for hops in (1, 2, 3):
        for split in ("dev", "test"):
            asked = published / f"{hops}-hop" / "vanilla" / f"qa_{split}.txt"
            kinds = list(read_lines(published / f"{hops}-hop" / f"qa_{split}_qtype.txt"))
            found = list(rows(asked, 2))
            if len(kinds) != len(found):
                raise DataError(f"{asked}: {len(found)} questions, and {len(kinds)} types beside them; fetch it again")
            for (text, answers), kind in zip(found, kinds, strict=True):
                if (topic := _TOPIC.search(text)) is None:
                    raise DataError(f"{asked}: the question {text!r:.100} marks no entity")
                yield {
                    "split": split,
                    "type": kind.strip(),
                    "question": _TOPIC.sub(r"\1", text),
                    "entity": topic[1],
                    "answers": answers.split("|"),
                }


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, packed or not.

    Raises:
        DataError: missing, torn or empty.
    """
    empty = True
    opener = lzma.open if path.suffix == ".xz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                empty = False
                yield line.rstrip("\r\n")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; data.root must hold knowledgegraph/{path.name}") from error
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error}); fetch it again") from error
    if empty:
        raise DataError(f"{path}: the file is empty; fetch it again")


def rows(path: Path, width: int, separator: str = "\t") -> Iterator[tuple[str, ...]]:
    """Yield the fields of each line.

    Raises:
        DataError: as `read_lines`, or a line has another number of fields.
    """
    named = {"\t": "tabs", "|": "bars"}[separator]
    for number, line in enumerate(read_lines(path), start=1):
        fields = tuple(line.split(separator))
        if len(fields) != width:
            raise DataError(f"{path}:{number}: needs {width} fields apart by {named}, has {len(fields)}")
        yield fields


def _below(folder: Path, packed: str, name: str, file: str) -> Path | None:
    """Return the directory of a published layout, where the packed file is not there and it is."""
    if (folder / packed).is_file():
        return None
    return next((top / name for top in (folder, folder.parent) if (top / name / file).is_file()), None)


def _first(packed: Path, *published: Path) -> Path:
    return next((path for path in (packed, *published) if path.is_file()), packed)
