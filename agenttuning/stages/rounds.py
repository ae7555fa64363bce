"""Rounds of rejection sampling: generate, curate, mix, train, export, and again with what was learned.

A recipe of N rounds is N runs. The last is the run itself; the others lie below it, as `rounds/<name>-1`, `-2`, ...,
each a whole run directory for `agenttuning show` and the rest. A round plays new tasks with the recipe's policy and
with the model of the round before; it learns from what all rounds so far collected, always from the base model, as
AgentEvol does (Xi et al. 2024, section 4).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from agenttuning.progress import say
from agenttuning.recipe import PolicySpec, Recipe
from agenttuning.servers import Servers
from agenttuning.session import Session, exported_model, run_store
from agenttuning.stages.common import done_key
from agenttuning.storage import Store

ROUNDS = "rounds"


def round_recipes(recipe: Recipe, store: Store) -> list[Recipe]:
    """Return the recipes of the rounds before the run's own, the first one first.

    Args:
        recipe: of the run.
        store: its run directory.
    """
    root = store.child(ROUNDS).uri
    earlier = list(recipe.rollout.earlier)
    found: list[Recipe] = []
    for number in range(1, recipe.rollout.rounds):
        run = recipe.run.model_copy(update={"name": f"{recipe.run.name}-{number}", "root": root})
        rollout = recipe.rollout.model_copy(update={"rounds": 1, "earlier": tuple(earlier)})
        tracking = recipe.tracking.model_copy(update={"group": recipe.tracking.group or recipe.run.name})
        found.append(recipe.model_copy(update={"run": run, "rollout": rollout, "tracking": tracking}))
        earlier.append(run_store(found[-1]).uri)
    return found


def own_rounds(session: Session) -> list[Store]:
    """Return the run directories of the rounds that the run itself plays before its own, the oldest first."""
    return [run_store(recipe) for recipe in round_recipes(session.recipe, session.store)]


def earlier_rounds(session: Session) -> list[Store]:
    """Return the run directories of all rounds before, those of other runs too, the oldest first."""
    return [*(Store(uri) for uri in session.recipe.rollout.earlier), *own_rounds(session)]


def play_rounds(session: Session) -> None:
    """Run the rounds before the run's own, as far as they are not done."""
    from agenttuning.stages import curate, export, generate, mix, train

    recipes = round_recipes(session.recipe, session.store)
    every = [*own_rounds(session), session.store]
    for number, recipe in enumerate(recipes, start=1):
        say(f"round {number} of {len(recipes) + 1}: {run_store(recipe).uri}")
        session.ray()
        with Session(recipe, f"a round of {session.recipe.run.name}") as of_round, Servers(of_round) as servers:
            with of_round.timed("generate"):
                generate(of_round, servers, [run for run in every if run.uri != of_round.store.uri])
            with of_round.timed("curate"):
                curate(of_round)
            with of_round.timed("mix"):
                mix(of_round, servers)
            servers.stop()
            with of_round.timed("train"):
                train(of_round)
            with of_round.timed("export"):
                export(of_round)


def model_key(run: Store) -> str:
    """Return the fingerprint of the model that a run exported.

    Raises:
        ConfigurationError: it has not exported one.
    """
    return done_key(run.child("export"), "export")


@contextmanager
def earlier_model(session: Session, run: Store) -> Iterator[PolicySpec]:
    """Serve the model that an earlier round exported, and give it as a policy that samples as the recipe's does."""
    from agenttuning.policies.serving import served

    recipe = session.recipe
    name = f"{run.uri.partition('?')[0].rsplit('/', 1)[-1]}-{model_key(run)[:8]}"
    say(f"serving the model of {run.uri} with vLLM behind Ray Serve")
    session.ray()
    with served(exported_model(run), recipe.serving, name, recipe.model.trust_remote_code) as endpoint:
        # Prices, budget, key and concurrency are of the recipe's own endpoint; this one is on the run's own machines.
        as_theirs = {"temperature", "top_p", "max_tokens", "request_timeout_s", "patience_s", "drop_slow"}
        yield PolicySpec(
            kind="endpoint",
            base_url=endpoint.base_url,
            model=endpoint.model,
            send_seed=endpoint.takes_seed,
            **recipe.policy.model_dump(include=as_theirs),
        )
