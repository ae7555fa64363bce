"""A chat endpoint proposes real shell tasks; what is kept was run in the real box, and a cut-off run goes on."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fake_endpoint import FakeEndpoint, Fault, Script, fake_endpoint

from agenttuning.environments.base import make_environment
from agenttuning.environments.database.environment import Database
from agenttuning.environments.operating_system import OperatingSystem, OperatingSystemSettings
from agenttuning.environments.sandbox import sandbox_problem
from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.instructions.proposals import Refused, read_list
from agenttuning.instructions.self_instruct import Made, Plan, self_instruct
from agenttuning.instructions.shell_proposals import EXAMPLES as SHELL_EXAMPLES
from agenttuning.instructions.shell_proposals import ShellProposals
from agenttuning.instructions.sql_proposals import EXAMPLES as SQL_EXAMPLES
from agenttuning.instructions.sql_proposals import SqlProposals
from agenttuning.instructions.validation import validate
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.storage.store import Store
from agenttuning.trajectory import Turn

PROBLEM = sandbox_problem()
needs_box = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
WORDS = ("apples", "boats", "clocks", "drums", "eels", "flutes", "goats", "hats", "ink", "jars", "kites", "lamps")
ASKS = (
    "How many lines of /srv/{0}/list.txt name {0}?",
    "In /srv/{0}/list.txt the word {0} stands on some lines; tell me their number.",
    "Someone keeps {0} in /srv/{0}/list.txt. Report how often a line has them.",
)


def good(number: int) -> dict[str, Any]:
    word, ask = WORDS[number % len(WORDS)], ASKS[number % len(ASKS)]
    lines = "\\n".join([word] * (3 + number) + ["none"])
    return {
        "instruction": ask.format(word),
        "setup": f"mkdir -p /srv/{word}\nprintf '{lines}\\n' > /srv/{word}/list.txt",
        "reference": f"grep -c {word} /srv/{word}/list.txt",
        "check": {"rule": "integer-match"},
    }


def plays(script: Script, tmp_path: Path, plan: Plan, *, solver: bool = False, patience_s: float = 5.0) -> Made:
    """Run self-instruct against a fake endpoint with the real box."""

    async def run(fake: FakeEndpoint) -> Made:
        policy = EndpointPolicy(fake.base_url, "toy-model", patience_s=patience_s)
        try:
            with OperatingSystem(OperatingSystemSettings()) as environment:
                proposals, store = ShellProposals(environment), Store(str(tmp_path / "run"))
                return await self_instruct(proposals, policy, store, plan, policy if solver else None)
        finally:
            await policy.aclose()

    with fake_endpoint(script) as fake:
        return asyncio.run(run(fake))


def asked(body: dict[str, Any]) -> str:
    content: str = body["messages"][-1]["content"]
    return content


@needs_box
def test_good_proposals_are_kept_and_the_others_counted_by_reason(tmp_path: Path) -> None:
    bad = [
        {"instruction": "no reference", "setup": "", "check": {"rule": "integer-match"}},
        {**good(5), "check": {"rule": "looks-good"}},
        {**good(6), "instruction": good(0)["instruction"].replace("lines", "LINES")},
        {**good(7), "setup": "exit 1"},
        {**good(8), "reference": "echo hello"},
        {
            **good(9),
            "setup": "mkdir -p /srv/jars; touch /srv/jars/list.txt",
            "reference": "grep -c jars /srv/jars/list.txt",
        },
        {**good(10), "instruction": "Lines of /srv/kites/list.txt that name kites: I think 13. How many?"},
        {**good(11), "check": {"files": {"lamps.txt": "x"}}},
    ]

    def script(body: dict[str, Any], number: int) -> str:
        if number == 0:
            return "Here are tasks:\n```json\n" + json.dumps([good(0), good(1), *bad[:2]]) + "\n```"
        if number == 1:
            return json.dumps(bad[2:6])
        return "I have no idea." if number == 2 else json.dumps([*bad[6:], good(2)])

    made = plays(script, tmp_path, Plan(count=3, parallel=1))
    assert made.complete
    assert [task.instruction for task in made.tasks] == [good(n)["instruction"] for n in (0, 1, 2)]
    assert {task.origin for task in made.tasks} == {"self-instructed"}
    assert made.counts == {
        "kept": 3, "missing_reference": 1, "unknown_rule": 1, "duplicate": 1, "setup_fails": 1, "reference_fails": 1,
        "nothing_passes": 1, "no_json": 1, "answer_in_instruction": 1, "wrong_path": 1,
    }  # fmt: skip
    stored = (tmp_path / "run" / "tasks.jsonl").read_text().splitlines()
    assert [json.loads(line)["instruction"] for line in stored] == [task.instruction for task in made.tasks]
    assert json.loads((tmp_path / "run" / "report.json").read_text())["counts"] == made.counts


@needs_box
def test_a_run_that_was_cut_off_goes_on_and_asks_no_request_twice(tmp_path: Path) -> None:
    numbers: list[int] = []

    def script(fails_from: int) -> Script:
        def answer(body: dict[str, Any], _: int) -> Any:
            seed = body["seed"]
            numbers.append(seed)
            if seed >= fails_from:
                return Fault(500)
            return json.dumps([good(2 * seed), good(2 * seed + 1)])

        return answer

    plan = Plan(count=4, per_request=2, parallel=1)
    with pytest.raises(InfrastructureError):
        plays(script(1), tmp_path, plan, patience_s=0.3)
    assert len(list((tmp_path / "run" / "requests").iterdir())) == 1
    numbers.clear()
    whole = plays(script(100), tmp_path, plan)
    assert set(numbers) == {1}
    assert len(whole.tasks) == 4
    assert whole == plays(script(100), tmp_path / "anew", plan)
    more = plays(script(100), tmp_path, Plan(count=5, per_request=2, parallel=1))
    assert more.tasks[:4] == whole.tasks
    with pytest.raises(ConfigurationError, match="per_request"):
        plays(script(100), tmp_path, Plan(count=4, per_request=3, parallel=1))


@needs_box
def test_a_second_policy_must_agree(tmp_path: Path) -> None:
    def script(body: dict[str, Any], number: int) -> str:
        text = asked(body)
        if "JSON list" in text:
            return json.dumps([good(0), good(1), good(2)])
        path = re.search(r"/srv/\w+/list.txt", text.split("The task:")[1])
        assert path is not None
        assert "grep -c" not in text
        if "apples" in text:
            return f"```bash\nawk '/apples/' {path[0]} | wc -l\n```"
        return f"```bash\nwc -l < {path[0]}\n```" if "boats" in text else "I would count them."

    made = plays(script, tmp_path, Plan(count=3, per_request=3, parallel=1, barren_rounds=1), solver=True)
    assert not made.complete
    assert [task.instruction for task in made.tasks] == [good(0)["instruction"]]
    assert made.tasks[0].payload["alternatives"] == ["awk '/apples/' /srv/apples/list.txt | wc -l"]
    assert made.counts == {"kept": 1, "solutions_disagree": 1, "no_second_solution": 1, "duplicate": 1} | {
        key: value for key, value in made.counts.items() if key not in ("kept", "duplicate")
    }


@needs_box
def test_a_policy_that_repeats_itself_ends_the_run(tmp_path: Path) -> None:
    made = plays(lambda body, n: json.dumps([good(0)]), tmp_path, Plan(count=5, parallel=2, barren_rounds=2))
    assert (len(made.tasks), made.complete) == (1, False)
    assert made.requests == 6
    assert made.counts == {"duplicate": 5, "kept": 1}


@needs_box
def test_the_shell_examples_are_themselves_proven() -> None:
    with OperatingSystem(OperatingSystemSettings()) as environment:
        proposals = ShellProposals(environment)
        verdicts = [validate(proposals.task(example), proposals.trials) for example in SHELL_EXAMPLES]
    assert [verdict.reason for verdict in verdicts] == [None] * len(SHELL_EXAMPLES), verdicts


def test_the_database_examples_are_themselves_proven() -> None:
    with make_environment("db") as environment:
        assert isinstance(environment, Database)
        proposals = SqlProposals(environment)
        verdicts = [validate(proposals.task(example), proposals.trials) for example in SQL_EXAMPLES]
    assert [verdict.reason for verdict in verdicts] == [None] * len(SQL_EXAMPLES), verdicts


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sql": "DROP TABLE boats"}, "wrong_sql"),
        ({"sql": "SELECT nothing FROM boats"}, "sql_fails"),
        ({"sql": "SELECT name FROM boats WHERE passengers > 1000"}, "empty_answer"),
        ({"tables": []}, "missing_tables"),
        ({"tables": [{"name": "boats", "columns": ["a"], "types": ["text"], "rows": [["x", "y"]]}]}, "wrong_tables"),
        ({"tables": [{"name": "boats", "columns": ["a"], "types": ["json"], "rows": [["x"]]}]}, "wrong_tables"),
        (
            {"tables": [{"name": "b", "columns": ["name", "Name"], "types": ["text"] * 2, "rows": [["x", "y"]]}]},
            "wrong_tables",
        ),
        ({"tables": [{"name": "boats", "columns": ["name"], "types": ["int"], "rows": [[10**20]]}]}, "wrong_tables"),
        ({"sql": "("}, "wrong_sql"),
        ({"instruction": 5}, "wrong_instruction"),
        ({"instruction": "x" * 2000}, "long_instruction"),
    ],
)
def test_a_malformed_database_proposal_is_refused_by_name(change: dict[str, Any], reason: str) -> None:
    with make_environment("db") as environment:
        assert isinstance(environment, Database)
        with pytest.raises(Refused) as refused:
            SqlProposals(environment).task({**SQL_EXAMPLES[0], **change})
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("reply", "count"),
    [
        ('[{"a": 1}, {"a": 2}]', 2),
        ('Sure [1]:\n{"a": [1]}', 1),
        ('```json\n[{"a": "x\ny"}]\n```', 1),
        ('[{"a": 1}, {"a": [2]}, {"a": ', 2),
    ],
)
def test_json_is_found_in_a_reply(reply: str, count: int) -> None:
    assert len(read_list(reply)) == count


@pytest.mark.parametrize("reply", ["", "none", "[1, 2]", '[{"a": 1', "[]"])
def test_a_reply_without_a_list_is_refused(reply: str) -> None:
    with pytest.raises(Refused, match="no JSON list"):
        read_list(reply)


def test_requests_show_rules_and_examples(tmp_path: Path) -> None:
    seen: list[str] = []

    class Recorder:
        name = "recorder"
        settings: ClassVar[dict[str, Any]] = {}

        async def act(self, turns: tuple[Turn, ...], seed: int) -> Any:
            seen.append(turns[-1].content)
            raise InfrastructureError("enough")

        async def aclose(self) -> None: ...

    with make_environment("db") as environment:
        assert isinstance(environment, Database)
        with pytest.raises(InfrastructureError):
            asyncio.run(self_instruct(SqlProposals(environment), Recorder(), Store(str(tmp_path)), Plan(count=1)))
    assert "MySQL" in seen[0]
    assert "Tromso" in seen[0] or "teas" in seen[0]
