"""The worked example: choosing the surname field of a small form, in two rounds, on a page that is in no split."""

from agenttuning.environments.mind2web.grammar import choose, format_reply
from agenttuning.trajectory import Action, Turn

_FIRST = """Task: Book a table for Vera Holm.
Previous actions:
[input]  First name -> TYPE: Vera

<html> <form> <button id=0 button> Opening hours </button> <button id=1 button> Our menu </button> <label id=2> Guests \
</label> <a id=3> Imprint </a> <a id=4> Contact </a> </form> </html>

Which element does the next action act on?
A. None of the above
B. <button id=0 button> Opening hours </button>
C. <button id=1 button> Our menu </button>
D. <label id=2> Guests </label>
E. <a id=3> Imprint </a>
F. <a id=4> Contact </a>"""

_SECOND = """<html> <form> <input id=0 text Surname /> <button id=1 submit> Book </button> </form> </html>

Which element does the next action act on?
A. None of the above
B. <input id=0 text Surname />
C. <button id=1 submit> Book </button>"""


def demonstration() -> tuple[Turn, ...]:
    """Return the example as turns."""
    return (
        Turn(role="user", content=_FIRST),
        _shown("The first name is in. These are buttons and links; none of them takes the surname Holm.", choose("A")),
        Turn(role="user", content=_SECOND),
        _shown("B is the field Surname, and the surname is Holm.", choose("B", "TYPE", "Holm")),
    )


def _shown(thought: str, action: Action) -> Turn:
    content = format_reply(thought, action)
    return Turn(role="assistant", content=content, loss=False, thought=thought, action=action)
