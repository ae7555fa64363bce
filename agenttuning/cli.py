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
from agenttuning.recipe import Recipe, load_recipe

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
        str, typer.Option(help="trajectories, curated, base, tuned (episodes), or a mixture source for rendered items")
    ] = "trajectories",
    item: Annotated[str | None, typer.Option("--id", help="Id, or a beginning of it; unset: a list.")] = None,
    environment: Annotated[str | None, typer.Option(help="Only this environment.")] = None,
    limit: Annotated[int, typer.Option(help="Rows of the list.")] = 20,
) -> None:
    """Print trajectories of a run, or rendered items with their trained tokens coloured."""
    from agenttuning.show import show_run

    show_run(_load(words, recipe), what, item, environment, limit)


@app.command(epilog=EPILOG)
def doctor(words: Words = None, recipe: RecipeFile = None) -> None:
    """Say what this machine or cluster can run, what is missing, and the cure."""
    from agenttuning.doctor import examine

    if not examine(_load(words, recipe)):
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
