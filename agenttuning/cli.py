"""The command line: verbs only. Every verb takes `--recipe FILE`, dotted overrides and `--dry-run`.

Errors that a user can cure are printed as one message with an exit status of their kind; only a bug of this project
shows a traceback.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from agenttuning import __version__, pipeline
from agenttuning.errors import AgentTuningError, ConfigurationError
from agenttuning.progress import say
from agenttuning.recipe import PAPER_THRESHOLDS, EnvironmentSpec, Recipe, load_recipe

EPILOG = (
    "Overrides are written section.key=value, for example training.learning_rate=2e-5. Run again, a verb continues "
    "where it stopped, or says that all is done."
)

INTERRUPTED = 130
"""Exit status after Ctrl-C; typer turns the interrupt into it."""

app = typer.Typer(
    help="Turn a chat model into an agent: trajectories, mixture, fine-tuning, evaluation, on Ray.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
environment_app = typer.Typer(help="What is wrong with an environment.", no_args_is_help=False, rich_markup_mode=None)
app.add_typer(environment_app, name="environment")

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="RECIPE.yaml|section.key=value", help="The recipe (as --recipe) and overrides."),
]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="YAML recipe; unset: the embedded defaults.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and what would be done.")]


def _load(words: Sequence[str] | None, recipe: Path | None) -> Recipe:
    overrides = [w for w in words or () if "=" in w]
    files = [w for w in words or () if "=" not in w]
    if recipe is not None:
        files.append(str(recipe))
    if len(files) > 1:
        raise ConfigurationError(f"one recipe at a time, got {', '.join(files)}; overrides are written key=value")
    return load_recipe(files[0] if files else None, overrides)


def _run(words: Sequence[str] | None, recipe: Path | None, dry_run: bool, only: tuple[str, ...]) -> Recipe:
    loaded = _load(words, recipe)
    if dry_run:
        say(pipeline.describe(loaded, only))
        pipeline.check_fit(loaded, only)
    else:
        pipeline.check_environments(loaded)
        pipeline.run(loaded, only)
    return loaded


@app.command(epilog=EPILOG)
def run(words: Words = None, recipe: RecipeFile = None, dry_run: DryRun = False) -> None:
    """Run every stage in order, and end with the table of base and tuned model."""
    loaded = _run(words, recipe, dry_run, pipeline.STAGES)
    if not dry_run:
        say("\n" + pipeline.closing_words(loaded))


@app.command(epilog=EPILOG)
def generate(words: Words = None, recipe: RecipeFile = None, dry_run: DryRun = False) -> None:
    """Build the train tasks and play them: trajectories."""
    _run(words, recipe, dry_run, ("generate",))


@app.command("import", epilog=EPILOG)
def import_(
    path: Annotated[str, typer.Argument(metavar="PATH", help="File, directory, URI or hub id of the records.")],
    words: Words = None,
    recipe: RecipeFile = None,
    form: Annotated[str, typer.Option("--format", help="auto, agentinstruct, agentbench or messages")] = "auto",
    environment: Annotated[str | None, typer.Option(help="Where all of it was played; unset: by id or path.")] = None,
    name: Annotated[str | None, typer.Option(help="Directory below imported/; unset: by the path.")] = None,
    policy: Annotated[str | None, typer.Option(help="Who played it.")] = None,
    reward: Annotated[float | None, typer.Option(help="Reward of records that have none.")] = None,
    split: Annotated[str, typer.Option(help="Split of its tasks; only train is learned from.")] = "train",
    licence: Annotated[str | None, typer.Option(help="Licence of its text.")] = None,
    teacher_terms: Annotated[str | None, typer.Option(help="Terms under which it may be trained on.")] = None,
) -> None:
    """Take in recorded trajectories: AgentInstruct, AgentBench run logs, OpenAI messages with tool calls."""
    from agenttuning.conversations.importing import ImportOptions, known_format
    from agenttuning.session import Session
    from agenttuning.stages import import_data

    options = ImportOptions(known_format(form), environment, split, policy, reward, licence, teacher_terms)
    with Session(_load(words, recipe), "import") as session:
        info = import_data(session, path, name, options)
        found = ", ".join(f"{count} of {where}" for where, count in info["environments"].items())
        say(f"import: {info['trajectories']} trajectories ({found}); `agenttuning curate` reads them")


@app.command(epilog=EPILOG)
def instructions(
    what: Annotated[str, typer.Argument(metavar="propose|derive|prove|rate", help="What to do.")],
    environment: Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="Name of the environment.")],
    words: Words = None,
    recipe: RecipeFile = None,
    count: Annotated[int, typer.Option(help="Tasks to keep (propose, rate) or to try (derive, prove).")] = 100,
    split: Annotated[str, typer.Option(help="For prove, and derive --tasks-only: the tasks' split.")] = "train",
    questions: Annotated[str | None, typer.Option("--from", help="For derive: questions with gold programs.")] = None,
    tasks_only: Annotated[bool, typer.Option("--tasks-only", help="For derive: tasks, and no trajectories.")] = False,
) -> None:
    """Let a policy propose tasks, derive from gold programs, prove tasks by running them, or rate those played."""
    from agenttuning.instructions.command import derive, propose, prove, rate
    from agenttuning.instructions.self_instruct import Plan
    from agenttuning.session import Session

    if what not in (known := ("propose", "derive", "prove", "rate")):
        raise ConfigurationError(f"instructions: the first word must be one of {', '.join(known)} (got {what!r})")
    if what != "derive" and (questions is not None or tasks_only):
        raise ConfigurationError(f"instructions {what}: --from and --tasks-only are for derive")
    with Session(_load(words, recipe), f"instructions {what}") as session:
        if what == "propose":
            made = propose(session.recipe, environment, session.store, Plan(count=count, seed=session.recipe.run.seed))
            say(f"instructions: {len(made.tasks)} tasks kept of {made.proposals} proposals; {made.counts}")
        elif what == "derive":
            told = derive(
                session.recipe,
                environment,
                session.store,
                count,
                questions=questions,
                tasks_only=tasks_only,
                split=split,
            )
            say(f"instructions: {told['counts']}")
        elif what == "rate":
            rated = rate(session.recipe, environment, session.store, count)
            hard = sum((task.difficulty or 0.0) > 0.5 for task in rated)
            say(f"instructions: {len(rated)} tasks, {hard} of them solved in less than half of the attempts")
        else:
            found = prove(session.recipe, environment, session.store, split, count)
            say("\n".join(f"{source}: {counted}" for source, counted in found["counts"].items()))


@app.command(epilog=EPILOG)
def curate(words: Words = None, recipe: RecipeFile = None, dry_run: DryRun = False) -> None:
    """Keep the trajectories worth learning from; say why the others were dropped."""
    _run(words, recipe, dry_run, ("curate",))


@app.command(epilog=EPILOG)
def mix(words: Words = None, recipe: RecipeFile = None, dry_run: DryRun = False) -> None:
    """Collect agent and general items and encode them with their loss masks."""
    _run(words, recipe, dry_run, ("mix",))


@app.command(epilog=EPILOG)
def train(words: Words = None, recipe: RecipeFile = None, dry_run: DryRun = False) -> None:
    """Fine-tune on the mixture with Ray Train; --dry-run prints memory, steps, tokens and epochs."""
    _run(words, recipe, dry_run, ("train",))


@app.command(epilog=EPILOG)
def export(words: Words = None, recipe: RecipeFile = None, dry_run: DryRun = False) -> None:
    """Write the tuned model: safetensors, tokenizer, chat template, model card."""
    _run(words, recipe, dry_run, ("export",))


@app.command(epilog=EPILOG)
def evaluate(
    words: Words = None,
    recipe: RecipeFile = None,
    dry_run: DryRun = False,
    model: Annotated[str, typer.Option(help="base, tuned or both")] = "both",
) -> None:
    """Play the test tasks and the general probe with base and tuned model under the same rules."""
    chosen = {"base": ("evaluate base",), "tuned": ("evaluate tuned",), "both": ("evaluate base", "evaluate tuned")}
    if model not in chosen:
        raise ConfigurationError(f"--model must be base, tuned or both (got {model!r})")
    _run(words, recipe, dry_run, chosen[model])


@app.command(epilog=EPILOG)
def report(words: Words = None, recipe: RecipeFile = None, dry_run: DryRun = False) -> None:
    """Write summary.json and the HTML report from what is in the run directory."""
    loaded = _run(words, recipe, dry_run, ("report",))
    if not dry_run:
        say("\n" + pipeline.closing_words(loaded))


@app.command(epilog=EPILOG)
def show(
    words: Words = None,
    recipe: RecipeFile = None,
    what: Annotated[
        str,
        typer.Option(help="trajectories, curated, base, tuned (episodes), progress, or a mixture source for its items"),
    ] = "trajectories",
    item: Annotated[str | None, typer.Option("--id", help="Id, or a beginning of it; unset: a list.")] = None,
    environment: Annotated[str | None, typer.Option(help="Only this environment.")] = None,
    limit: Annotated[int, typer.Option(help="Rows of the list.")] = 20,
) -> None:
    """Print trajectories of a run, or rendered items with their trained tokens coloured."""
    from agenttuning.show import show_run

    show_run(_load(words, recipe), what, item, environment, limit)


@app.command(epilog=EPILOG)
def rescore(words: Words = None, recipe: RecipeFile = None, dry_run: DryRun = False) -> None:
    """Run the graders again over stored trajectories; no inference. --dry-run only says what would change."""
    from agenttuning.session import Session
    from agenttuning.stages import rescore as grade_again

    say("\n".join(grade_again(Session(_load(words, recipe)), write=not dry_run)))


@app.command(epilog=EPILOG)
def replay(
    words: Words = None,
    recipe: RecipeFile = None,
    environment: Annotated[str | None, typer.Option(help="Only this environment.")] = None,
    limit: Annotated[int, typer.Option(help="Episodes of each environment.")] = 20,
) -> None:
    """Play stored replies against their environments again; say where an episode goes another way."""
    from agenttuning.session import Session
    from agenttuning.show import replay_text
    from agenttuning.stages import replay as play_again

    replayed = play_again(Session(_load(words, recipe)), environment, limit)
    say(replay_text(replayed))
    if any(r.verdict != "same" for r in replayed):
        raise typer.Exit(1)


@app.command(epilog=EPILOG)
def doctor(words: Words = None, recipe: RecipeFile = None) -> None:
    """Say what this machine or cluster can run, what is missing, and the cure."""
    from agenttuning.doctor import examine

    if not examine(_load(words, recipe)):
        raise typer.Exit(1)


@environment_app.command("check", epilog=EPILOG)
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An environment, as it is registered.")],
    words: Words = None,
    recipe: RecipeFile = None,
    tasks: Annotated[int, typer.Option(help="Tasks to sample of each split.")] = 20,
    seed: Annotated[int, typer.Option(help="Decides the tasks and the expert's choices.")] = 0,
    limit: Annotated[float, typer.Option(help="Seconds after which a call counts as hanging.")] = 120.0,
) -> None:
    """Say what is wrong with an environment: contract, determinism, leaks, splits, rewards, expert.

    Settings and reward_threshold of the recipe's environments.NAME apply, and its data.root.
    """
    from agenttuning.environments.checking import check_environment

    loaded = _load(words, recipe)
    unnamed = EnvironmentSpec(reward_threshold=PAPER_THRESHOLDS.get(name, 1.0))
    spec = loaded.environments.get(name, unnamed)
    root, least = loaded.data.root, spec.reward_threshold
    failed = 0
    for found in check_environment(
        name, count=tasks, settings=spec.settings, data_root=root, seed=seed, reward=least, limit_s=limit
    ):
        say(str(found))
        failed += found.state == "failed"
    if failed:
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    say(__version__)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with 0, the status of the error's kind, or 130 after Ctrl-C."""
    command = typer.main.get_command(app)
    if arguments is None:
        arguments = sys.argv[1:] or ["--help"]
    try:
        status = command.main(args=arguments, prog_name="agenttuning", standalone_mode=False)
    except AgentTuningError as error:
        sys.stdout.flush()
        print(f"agenttuning: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except TyperException as error:
        print(f"agenttuning: {error}; `agenttuning --help` lists the verbs and their options", file=sys.stderr)
        sys.exit(2)
    if status == INTERRUPTED:
        print("\nagenttuning: interrupted. What was finished is stored; run the same command again.", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
