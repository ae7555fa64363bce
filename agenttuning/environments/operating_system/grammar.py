"""The action grammar of the Operating System environment: one thought, one act.

    Think: <thought>                Think: <thought>            Think: <thought>

    Act: bash                       Act: answer(<value>)        Act: finish

    ```bash
    <commands>
    ```

`parse_reply` and `format_reply` are inverse to each other on stripped texts. Nothing is guessed: a reply in another
form is refused with a message that says what was wrong and what is expected.
"""

import re
import string

from agenttuning.environments.base import Parsed
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

BASH_FORM = "Think: <thought>\n\nAct: bash\n\n```bash\n<commands>\n```"
FORMS = f"Write one of:\n{BASH_FORM}\nor\nThink: <thought>\n\nAct: answer(<value>)\nor\nThink: <thought>\n\nAct: finish"

_ACT = re.compile(r"^Act:[ \t]*", re.MULTILINE)
_FENCE = re.compile(r"^```", re.MULTILINE)


def parse_reply(reply: str) -> Parsed:
    """Read a reply.

    Raises:
        MalformedReply: its message tells the model what was wrong and what is expected.
    """
    text = reply.strip().replace("\r\n", "\n")
    match = _ACT.search(text)
    if match is None:
        raise MalformedReply(f"There is no line that starts with `Act:`. {FORMS}")
    thought = _thought(text[: match.start()].strip())
    act = text[match.end() :]
    name = act[: len(act) - len(act.lstrip(string.ascii_letters))]
    rest = act[len(name) :]
    if name == "bash":
        return Parsed(thought, Action(name="bash", arguments={"script": _script(rest)}))
    if name == "answer":
        return Parsed(thought, Action(name="answer", arguments={"answer": _answer(rest)}))
    if name == "finish":
        if rest.strip():
            raise MalformedReply("Nothing may follow `Act: finish`. Write one act and stop.")
        return Parsed(thought, Action(name="finish"))
    shown = act.split("\n", 1)[0][:40]
    raise MalformedReply(f"`{shown}` is not an act. The acts are bash, answer(<value>) and finish. {FORMS}")


def format_reply(thought: str | None, action: Action) -> str:
    """Return the canonical reply.

    Raises:
        ValueError: the texts cannot be written so that they are read back: a line of the thought starts with
            `Act:`, or a line of the script with a code fence.
    """
    head = f"Think: {thought}\n\n" if thought is not None else ""
    if action.name == "bash":
        text = f"{head}Act: bash\n\n```bash\n{action.arguments['script']}\n```"
    elif action.name == "answer":
        text = f"{head}Act: answer({action.arguments['answer']})"
    elif action.name == "finish":
        text = f"{head}Act: finish"
    else:
        raise ValueError(f"os: no act is called {action.name!r}; the acts are bash, answer and finish")
    if (thought and _ACT.search(thought)) or (action.name == "bash" and _FENCE.search(action.arguments["script"])):
        raise ValueError("os: a thought may hold no line `Act:` and a script no code fence")
    return text


def _thought(head: str) -> str | None:
    if not head:
        return None
    if not head.startswith("Think:"):
        raise MalformedReply(f"The reply must start with `Think:`, it starts with `{head[:30]}`. {FORMS}")
    return head.removeprefix("Think:").strip() or None


def _script(rest: str) -> str:
    body = rest.strip()
    if not body.startswith("```bash\n"):
        raise MalformedReply(f"After `Act: bash` a block ```bash must follow. Write:\n{BASH_FORM}")
    lines = body.removeprefix("```bash\n").split("\n")
    ends = [i for i, line in enumerate(lines) if line.startswith("```")]
    if not ends or lines[ends[0]].strip() != "```":
        raise MalformedReply(f"The ```bash block is not closed by a line ```. Write:\n{BASH_FORM}")
    if any(line.strip() for line in lines[ends[0] + 1 :]):
        raise MalformedReply("Nothing may follow the ```bash block. Write one act and stop; the output comes next.")
    script = "\n".join(lines[: ends[0]]).strip()
    if not script:
        raise MalformedReply(f"The ```bash block is empty. Write:\n{BASH_FORM}")
    return script


def _answer(rest: str) -> str:
    body = rest.strip()
    if not (body.startswith("(") and body.endswith(")")):
        raise MalformedReply("The answer stands in brackets and nothing follows it: `Act: answer(<value>)`.")
    answer = body[1:-1].strip()
    if not answer:
        raise MalformedReply("The answer is empty. Write `Act: answer(<value>)` with the value.")
    return answer
