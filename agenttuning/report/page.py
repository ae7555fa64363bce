"""`build_report`: one self-contained HTML page about a run, at any point of its way.

Style sheet and charts are inline; the page asks nothing of any network and runs no script. Every number on it comes
from files in the run directory, and what has not run yet is said to have not. All stored text is escaped.
"""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from agenttuning import __version__
from agenttuning.report import rollouts, views
from agenttuning.report.gather import Gathered, gather
from agenttuning.report.reading import readings
from agenttuning.storage import Store


def build_report(run: Store) -> str:
    """Return the report of a run directory as HTML.

    Args:
        run: the run's directory; its parts are described in `agenttuning.report.gather`.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    templates = files("agenttuning.report").joinpath("templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: templates.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    g = gather(run)
    return environment.get_template("report.html").render(
        style=Markup(templates.joinpath("report.css").read_text(encoding="utf-8")),
        version=__version__,
        g=g,
        **{name: _view(g, name, view) for name, view in _VIEWS.items()},
    )


_VIEWS: dict[str, Callable[[Gathered], Any]] = {
    "tiles": views.headline,
    "verdict": views.verdict,
    "asked": views.asked,
    "test": lambda g: views.scores(g, "test"),
    "shifted": lambda g: views.scores(g, "shifted"),
    "general": views.general,
    "failures": views.failures,
    "collected": views.collected,
    "costs": rollouts.costs,
    "attempts": rollouts.attempts,
    "retried": rollouts.retried,
    "mixture": views.mixture,
    "training": views.training,
    "timing": views.timing,
    "readings": readings,
}


def _view(g: Gathered, name: str, view: Callable[[Gathered], Any]) -> Any:
    """Return a view, or None where a stored file has another shape than its stage writes, which the page then says."""
    try:
        return view(g)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        g.problems.append(f"what the section {name!r} needs: {type(error).__name__} {error}")
        return None
