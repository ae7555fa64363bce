"""AgentInstruct, AgentBench's run logs and OpenAI messages become trajectories."""

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agenttuning.conversations.importing import ImportOptions, import_trajectories, known_format, name_of
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.storage import Store
from agenttuning.storage.segments import read_trajectories
from agenttuning.trajectory import Action, Outcome

OS = [
    ("human", None, "You are an assistant. Now, my problem is: how many files are in /etc?"),
    ("gpt", False, "Think: I count.\n\nAct: bash\n\n```bash\nls /etc | wc -l\n```"),
    ("human", None, "The output of the OS:\n220"),
    ("gpt", False, "Think: It is 220.\n\nAct: answer(220)"),
    ("human", None, "Now, I will start a new problem in a new OS. My problem is:\n\nCount the users."),
    ("gpt", True, "Think: I read passwd.\n\nAct: bash\n\n```bash\nwc -l /etc/passwd\n```"),
    ("human", None, "The output of the OS:\n19 /etc/passwd"),
    ("gpt", True, "Think: There are 19.\n\nAct: answer(19)"),
]
WEB = [("human", None, "<html> Task: fly"), ("gpt", True, "Thought: I fly.\nAnswer: B.\nAction: CLICK")]


def agentinstruct(item: str, turns):
    return {"id": item, "conversations": [{"from": f, "loss": x, "value": v} for f, x, v in turns]}


def write_lines(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return str(path)


def imported(path, target, **options):
    store = Store(str(target))
    report = import_trajectories(str(path), store, ImportOptions(**options))
    return report.as_dict(), {t.id: t for t in read_trajectories(store)}


def test_agentinstruct_is_read_from_parquet_and_json(tmp_path):
    records = [agentinstruct("os_3", OS), agentinstruct("mind2web_5", WEB)]
    (tmp_path / "p").mkdir()
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "p" / "os-00000.parquet")
    (tmp_path / "all.json").write_bytes(orjson.dumps(records))
    report, found = imported(tmp_path / "p", tmp_path / "a")
    assert report == {
        "trajectories": 2,
        "environments": {"os": 1, "mind2web": 1},
        "formats": {"agentinstruct": 2},
        "without_reward": 0,
        "failed": {},
    }
    assert imported(tmp_path / "all.json", tmp_path / "b")[1] == found
    os_3 = found["os_3"]
    assert [(t.role, t.loss, t.content) for t in os_3.turns[::-1][:2]] == [
        ("assistant", True, OS[7][2]), ("user", None, OS[6][2]),
    ]  # fmt: skip
    assert os_3.task.instruction == OS[4][2]
    assert (os_3.reward, os_3.outcome, os_3.steps) == (1.0, Outcome.COMPLETED, 2)
    assert os_3.diagnostics == {"imported": "agentinstruct", "reward_from": "published as kept"}
    assert os_3.turns[5].action == Action(name="bash", arguments={"script": "wc -l /etc/passwd"})
    assert os_3.turns[5].thought == "I read passwd."
    assert os_3.turns[1].action is None, "a demonstration is not the agent's own"
    clicked = {"letter": "B", "operation": "CLICK", "value": ""}
    assert found["mind2web_5"].turns[1].action == Action(name="choose", arguments=clicked)


def test_options_say_what_the_records_do_not(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", agentinstruct("mine", WEB))
    with pytest.raises(DataError, match=r"x\.jsonl, line 1: item 'mine'.*--environment"):
        imported(path, tmp_path / "a")
    options = {"environment": "web", "policy": "gpt-4", "reward": 0.5, "licence": "MIT", "teacher_terms": "none"}
    t = imported(path, tmp_path / "b", **options)[1]["mine"]
    assert (t.task.environment, t.policy, t.reward) == ("web", "gpt-4", 0.5)
    assert (t.diagnostics["licence"], t.diagnostics["teacher_terms"]) == ("MIT", "none")


def run(index: int, history, **output):
    return {"index": index, "error": None, "output": {"index": index, "history": history, **output}}


HISTORY = [
    {"role": "user", "content": "Rules of the database."},
    {"role": "agent", "content": "Ok."},
    {"role": "user", "content": "How many rows?"},
    {"role": "agent", "content": "I count.\nAction: Operation\n```sql\nSELECT COUNT(*) FROM t\n```"},
    {"role": "user", "content": "[(3,)]"},
    {"role": "agent", "content": 'There are 3.\nAction: Answer\nFinal Answer: ["3"]'},
]


def test_agentbench_logs_say_who_what_and_how_it_ended(tmp_path):
    runs = [
        run(0, HISTORY, status="completed", result={"is_correct": True}),
        run(1, HISTORY, status="task limit reached", result={"is_correct": False}),
        run(2, HISTORY, status="completed", result=None),
    ]
    write_lines(tmp_path / "logs" / "gpt-4" / "dbbench-train" / "runs.jsonl", *runs)
    write_lines(tmp_path / "logs" / "llama" / "dbbench-train" / "runs.jsonl", runs[1])
    report, found = imported(tmp_path / "logs", tmp_path / "a")
    assert (report["environments"], report["formats"], report["without_reward"]) == ({"db": 4}, {"agentbench": 4}, 1)
    won, lost, unknown = (found[f"gpt-4_dbbench-train_{n}"] for n in range(3))
    assert (won.reward, won.outcome, won.policy) == (1.0, Outcome.COMPLETED, "gpt-4")
    assert (lost.reward, lost.outcome) == (0.0, Outcome.STEP_LIMIT)
    assert (unknown.reward, unknown.diagnostics["reward_from"]) == (0.0, "unknown")
    assert [t.loss for t in won.turns] == [None, False, None, True, None, True]
    assert won.turns[3].action == Action(name="operation", arguments={"sql": "SELECT COUNT(*) FROM t"})
    assert won.turns[5].action == Action(name="answer", arguments={"values": ["3"]})
    assert won.task.instruction == "How many rows?"
    assert found["llama_dbbench-train_1"].task.id == lost.task.id, "two agents' attempts at one task"


def test_a_worked_example_in_a_log_is_not_trained(tmp_path):
    roles = {"human": "user", "gpt": "agent"}
    history = [{"role": roles[f], "content": v} for f, _, v in OS]
    write_lines(tmp_path / "a" / "os-train" / "runs.jsonl", run(0, history, status="completed", result=True))
    (t,) = imported(tmp_path / "a", tmp_path / "b")[1].values()
    assert [turn.loss for turn in t.turns] == [loss for _, loss, _ in OS]


def test_logs_of_function_calls_have_their_rewards_between_the_turns(tmp_path):
    call = {"id": "c", "type": "function", "function": {"name": "bash_action", "arguments": '{"script": "ls"}'}}
    history = [
        {"role": "system", "content": "Rules."},
        {"role": "user", "content": "List."},
        {"role": "assistant", "content": "I list.", "tool_calls": [call]},
        {"role": "tool", "content": "a", "tool_call_id": "c"},
        {"reward": 1, "score": 0.5, "metrics": {}},
    ]
    write_lines(tmp_path / "a" / "os-train" / "runs.jsonl", run(0, history, status="completed", result={}))
    (t,) = imported(tmp_path / "a", tmp_path / "b")[1].values()
    assert (t.reward, len(t.turns)) == (1.0, 4)
    assert t.turns[2].action == Action(name="bash_action", arguments={"script": "ls"})


def test_a_directory_of_logs_counts_the_runs_that_failed(tmp_path, capfd):
    log = tmp_path / "gpt-4" / "os-train"
    write_lines(log / "runs.jsonl", run(0, HISTORY, status="completed", result=True))
    error = {"error": "AGENT_ERROR", "info": "timed out", "output": None}
    torn = {**run(3, HISTORY, status="unknown", result=None), "error": "NETWORK_ERROR"}
    write_lines(log / "error.jsonl", {"index": 1, **error}, {"index": 2, **error}, torn)
    (log / "overall.json").write_text('{"total": 4, "validation": {"running": 0.0}, "custom": {}}')
    report, found = imported(tmp_path, tmp_path / "a")
    assert list(found) == ["gpt-4_os-train_0"]
    assert report["failed"] == {"AGENT_ERROR": 2, "NETWORK_ERROR": 1}
    assert "3 runs failed and are left out: AGENT_ERROR 2, NETWORK_ERROR 1" in "".join(capfd.readouterr())
    with pytest.raises(DataError, match=r"runs that failed alone \(AGENT_ERROR 2, NETWORK_ERROR 1\)"):
        imported(log / "error.jsonl", tmp_path / "b")


def test_a_developers_message_is_the_systems(tmp_path):
    said = [{"role": "developer", "content": "You search."}, *MESSAGES[1:]]
    path = write_lines(tmp_path / "x.jsonl", {"messages": said, "id": "a", "environment": "x", "reward": 1})
    assert imported(path, tmp_path / "t")[1]["a"].turns[0].role == "system"


def test_a_log_of_an_evaluation_task_is_not_learned_from(tmp_path):
    write_lines(tmp_path / "gpt-4" / "dbbench-std" / "runs.jsonl", run(0, HISTORY, status="completed", result=1))
    with pytest.raises(ConfigurationError, match=r"'dbbench-std', an evaluation task.*--split test"):
        imported(tmp_path, tmp_path / "a")
    (t,) = imported(tmp_path / "gpt-4", tmp_path / "b", split="test")[1].values()
    assert t.task.split == "test"


CALL = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}}
MESSAGES = [
    {"role": "system", "content": "You search."},
    {"role": "user", "content": "Find x."},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "x is here"},
    {"role": "assistant", "content": "Here it is."},
]


def test_openai_messages_with_tool_calls(tmp_path):
    tools = [{"type": "function", "function": {"name": "search", "parameters": {}}}]
    record = {"messages": MESSAGES, "tools": tools, "id": "a", "environment": "shop", "reward": 1, "model": "m"}
    broken = {"id": "2", "type": "function", "function": {"name": "search", "arguments": '{"q":'}}
    torn = [*MESSAGES[:2], {"role": "assistant", "content": "", "tool_calls": [broken]}]
    path = write_lines(tmp_path / "x.jsonl", record, {"messages": torn, "id": "b"}, {**record, "reward": True})
    report, found = imported(path, tmp_path / "t", environment="shop")
    assert (report["trajectories"], report["without_reward"]) == (3, 1)
    t = found["a"]
    assert (t.policy, t.reward, t.tools) == ("m", 1.0, tuple(tools))
    assert t.turns[2].action == Action(name="search", arguments={"q": "x"})
    assert t.turns[2].tool_calls[0].arguments == '{"q": "x"}'
    assert t.turns[4].action == Action(name="message", arguments={"text": "Here it is."})
    assert found["b"].turns[2].action is None
    assert set(found) == {"a", "a-2", "b"}


def test_errors_name_file_place_and_cure(tmp_path):
    strange = write_lines(tmp_path / "s.jsonl", {"text": "x"})
    with pytest.raises(DataError, match=r"s\.jsonl, line 1: no known format: the keys are text"):
        imported(strange, tmp_path / "a")
    failed = write_lines(tmp_path / "g" / "os-train" / "runs.jsonl", {"index": 7, "error": None, "output": None})
    with pytest.raises(DataError, match=r"run 7: has neither a history nor an error.*delete that line"):
        imported(failed, tmp_path / "b")
    ended = write_lines(tmp_path / "e.jsonl", {"messages": MESSAGES, "id": "a", "environment": "x", "outcome": "won"})
    with pytest.raises(DataError, match=r"e\.jsonl, line 1: outcome 'won': write one of completed, "):
        imported(ended, tmp_path / "d")
    with pytest.raises(ConfigurationError, match=r"import.*no file or directory"):
        imported(tmp_path / "none.jsonl", tmp_path / "c")
    with pytest.raises(ConfigurationError, match=r"--format must be one of auto, .*'csv'"):
        known_format("csv")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/AgentInstruct/", "AgentInstruct"),
        ("x/os-00000.parquet", "os-00000"),
        ("s3://b/k/runs.jsonl", "runs"),
        ("THUDM/AgentInstruct#os", "AgentInstruct-os"),
        (".", "."),
    ],
)
def test_what_is_imported_has_a_name(path, name):
    assert name_of(path) == name
