"""`build_report`: one self-contained HTML page about a run, at any point of its way.

Style sheet and charts are inline; the page asks nothing of any network and runs no script. Every number on it comes
from files in the run directory, and what has not run yet is said to have not. All stored text is escaped.
"""

from importlib.resources import files

from agenttuning import __version__
from agenttuning.report import views
from agenttuning.report.gather import gather
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
        tiles=views.headline(g),
        verdict=views.verdict(g),
        asked=views.asked(g),
        test=views.scores(g, "test"),
        shifted=views.scores(g, "shifted"),
        general=views.general(g),
        failures=views.failures(g),
        collected=views.collected(g),
        mixture=views.mixture(g),
        training=views.training(g),
        timing=views.timing(g),
        readings=readings(g),
    )
