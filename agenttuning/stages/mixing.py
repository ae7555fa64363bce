"""The mixture: what is learned, from all its sources, encoded with its loss masks."""

from typing import Any

from agenttuning.errors import DataError
from agenttuning.progress import Progress, say
from agenttuning.recipe import Recipe
from agenttuning.rendering.renderer import Renderer
from agenttuning.rollout.attempts import best_attempts
from agenttuning.servers import Servers
from agenttuning.session import Session
from agenttuning.stages.common import already, done_key
from agenttuning.stages.rounds import earlier_rounds
from agenttuning.storage import Store
from agenttuning.storage.manifest import MANIFEST, begin_stage, finish_stage
from agenttuning.trajectory import Conversation, Trajectory, Turn

ANSWERS = "self-answers.json"
CHECKED = 200
"""Conversations of a source that are compared, token by token, with what the model's own chat template gives."""


def mix(session: Session, servers: Servers) -> dict[str, Any]:
    """Collect every source's conversations and encode them with their loss masks."""
    from agenttuning.models import model_fingerprint

    recipe, store = session.recipe, session.store.child("mixture")
    sources = recipe.mixture.sources
    uses_run = any(s.kind == "trajectories" and not s.path for s in sources.values())
    model_dir = session.model_dir()
    key: dict[str, Any] = {
        "mixture": recipe.mixture.model_dump(mode="json"),
        "model": model_fingerprint(model_dir),
        "curated": done_key(session.store.child("curated"), "curate") if uses_run else None,
        "seed": recipe.run.seed,
    }
    if recipe.rollout.learn_from != "all":
        key["learn_from"] = recipe.rollout.learn_from
    check_mixture(session)
    state = begin_stage(store, "mix", key)
    if state.done:
        return already("mix", state)
    from transformers import AutoTokenizer

    from agenttuning.conversations.terms import count_terms, terms_table
    from agenttuning.rendering.renderer import renderer_for
    from agenttuning.training.encode import encode_conversations, fingerprint

    tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=recipe.model.trust_remote_code)
    renderer = renderer_for(tokenizer, str(model_dir))
    info: dict[str, Any] = {"sources": {}}
    for name in sources:
        if store.exists(f"items/{name}.parquet") and store.exists(f"items/{name}.json"):
            info["sources"][name] = store.read_json(f"items/{name}.json")
            continue
        conversations = _conversations(session, servers, name)
        checked = _check_rendering(name, renderer, tokenizer, conversations[:CHECKED])
        table, report = encode_conversations(
            conversations, renderer, recipe.mixture.max_length, recipe.mixture.too_long
        )
        if table.num_rows == 0:
            raise DataError(f"mixture.sources.{name}: no item is left to train on; dropped: {dict(report.dropped)}")
        store.write_table(f"items/{name}.parquet", table)
        terms = terms_table(conversations)
        store.write_table(f"items/{name}.terms.parquet", terms)
        described = {**report.to_dict(), "fingerprint": fingerprint(table), "terms": count_terms(terms)}
        described["rendering"] = checked
        store.write_json(f"items/{name}.json", described)
        info["sources"][name] = described
        say(f"mix: {name}: {report.items} items, {report.tokens} tokens, {report.supervised} supervised; {checked}")
    store.write_json("report.json", info)
    finish_stage(store, "mix", key, info)
    return info


def _check_rendering(name: str, renderer: Renderer, tokenizer: Any, conversations: list[Conversation]) -> str:
    from agenttuning.rendering.check import check_renderer

    checked = check_renderer(renderer, tokenizer, conversations)
    if checked.different:
        identity, place = checked.different[0]
        raise DataError(
            f"mixture.sources.{name}: {len(checked.different)} of {len(conversations)} conversations are rendered "
            f"otherwise than by the model's own chat template, {identity} from token {place} on; what would be learned "
            "is not what is served. Please report it with the model's tokenizer_config.json"
        )
    return f"{renderer.family.name}: {checked}"


def check_mixture(session: Session) -> None:
    """Find the model and read the sources that are files through, unless the mixture is begun already.

    Hours of episodes should not end at a mistyped path, nor should a directory be begun under one.

    Raises:
        ConfigurationError: no such model or place.
        DataError: an empty, torn or malformed file.
    """
    from agenttuning.conversations.sources import load_conversations

    if session.store.child("mixture").exists(MANIFEST):
        return
    session.model_dir()
    for name, source in session.recipe.mixture.sources.items():
        if source.kind not in ("trajectories", "self"):
            for _ in load_conversations(source.kind, str(source.path), name, source.limit):
                pass


def _conversations(session: Session, servers: Servers, name: str) -> list[Conversation]:
    from agenttuning.conversations.sources import load_conversations
    from agenttuning.conversations.trajectories import conversation_from_trajectory
    from agenttuning.curation.run import KEPT
    from agenttuning.storage.segments import table_trajectories

    recipe = session.recipe
    source = recipe.mixture.sources[name]
    if source.kind == "trajectories":
        store = Store(source.path) if source.path else session.store.child("curated")
        found = [
            conversation_from_trajectory(t) for t in _learned(list(table_trajectories(store.read_table(KEPT))), recipe)
        ]
    elif source.kind == "self":
        found = self_answered(session, servers)
    else:
        found = list(load_conversations(source.kind, str(source.path), name, source.limit))
    return found[: source.limit] if source.limit else found


def _learned(kept: list[Trajectory], recipe: Recipe) -> list[Trajectory]:
    """Return the trajectories that are learned from: all, or the best attempt at each task (`rollout.learn_from`)."""
    if recipe.rollout.learn_from == "all":
        return kept
    best = best_attempts({t.id: (t.task.id, (t.reward, t.score), t.attempt) for t in kept})
    say(f"mix: the best of the attempts at each task: {len(best)} of {len(kept)} trajectories")
    return [t for t in kept if t.id in best]


def _answers_of_earlier_rounds(session: Session, store: Store) -> list[dict[str, Any]] | None:
    """Return the base model's answers where an earlier round asked for the same, else None."""
    mine = store.read_json(MANIFEST)["key"]
    for before in earlier_rounds(session):
        mixture = before.child("mixture")
        if not mixture.exists(ANSWERS):
            continue
        theirs = mixture.read_json(MANIFEST)["key"]
        asked = [(key["mixture"]["self_answers"], key["model"], key["seed"]) for key in (mine, theirs)]
        if asked[0] == asked[1]:
            found: list[dict[str, Any]] = mixture.read_json(ANSWERS)
            return found
    return None


def self_answered(session: Session, servers: Servers) -> list[Conversation]:
    """Let the base model answer the bundled instructions, or read its answers where it has."""
    from agenttuning.conversations.bundled import bundled_instructions
    from agenttuning.conversations.openai_messages import from_messages, to_messages
    from agenttuning.rollout.answers import self_answers

    recipe, store = session.recipe, session.store.child("mixture")
    if not store.exists(ANSWERS) and (answered := _answers_of_earlier_rounds(session, store)) is not None:
        store.write_json(ANSWERS, answered)
    if not store.exists(ANSWERS):
        spec = recipe.mixture.self_answers
        asked = [
            Conversation(
                id=i.id if number == 1 else f"{i.id}-{number}",
                source="self",
                turns=tuple(Turn(role="user", content=text) for text in i.turns),
                meta={"category": i.category},
            )
            for number in range(1, spec.samples + 1)
            for i in bundled_instructions(spec.count, recipe.run.seed)
        ]
        session.ray()
        endpoint = servers.base()
        with Progress("self-answers", len(asked), "conversations") as bar:
            answers = sorted(self_answers(endpoint, asked, spec, recipe.run.seed, bar.update), key=lambda c: c.id)
        store.write_json(ANSWERS, [to_messages(c) for c in answers])
    records = store.read_json(ANSWERS)
    return [from_messages(r, "self") for r in records]
