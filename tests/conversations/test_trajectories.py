"""A trajectory as the text that was played, and as function calls."""

import orjson

from agenttuning.conversations.agentinstruct import to_agentinstruct
from agenttuning.conversations.openai_messages import from_messages
from agenttuning.conversations.trajectories import (
    conversation_from_trajectory,
    messages_with_tool_calls,
    tool_call_conversation,
)
from agenttuning.trajectory import Action, Outcome, Task, Trajectory, Turn

TURNS = (
    Turn(role="user", content="rules"),
    Turn(role="assistant", content="Ok.", loss=False),
    Turn(role="user", content="task"),
    Turn(
        role="assistant",
        content="Think: look\nAct: bash ls",
        loss=True,
        thought="look",
        action=Action(name="bash", arguments={"command": "ls"}),
    ),
    Turn(role="user", content="a.txt"),
    Turn(role="assistant", content="Act: ???", loss=False),
    Turn(role="user", content="That is no action."),
    Turn(role="assistant", content="Think: done\nAct: finish", loss=True, thought="done", action=Action(name="finish")),
)
TRAJECTORY = Trajectory(
    id="os_1",
    task=Task(environment="os", split="train", instruction="task", family="files"),
    attempt=0,
    turns=TURNS,
    reward=1.0,
    score=1.0,
    outcome=Outcome.COMPLETED,
    policy="expert",
)


def test_the_conversation_has_every_turn_as_played_and_says_where_it_is_from():
    c = conversation_from_trajectory(TRAJECTORY, source="agent")
    assert [(t.role, t.content, t.loss) for t in c.turns] == [(t.role, t.content, t.loss) for t in TURNS]
    assert (c.id, c.source) == ("os_1", "agent")
    assert (c.meta["environment"], c.meta["family"], c.meta["reward"]) == ("os", "files", 1.0)
    assert to_agentinstruct(c)["conversations"][3] == {"from": "gpt", "loss": True, "value": TURNS[3].content}


def test_actions_become_calls_and_the_turn_after_a_call_answers_it():
    record = messages_with_tool_calls(TRAJECTORY)
    assert [m["role"] for m in record["messages"]] == [
        "user", "assistant", "user", "assistant", "tool", "assistant", "user", "assistant",
    ]  # fmt: skip
    call, answer = record["messages"][3], record["messages"][4]
    assert call["content"] == "look"
    assert call["tool_calls"][0]["function"] == {"name": "bash", "arguments": '{"command":"ls"}'}
    assert answer == {"role": "tool", "content": "a.txt", "tool_call_id": call["tool_calls"][0]["id"]}
    assert record["messages"][5] == {"role": "assistant", "content": "Act: ???", "loss": False}
    assert record["messages"][7]["loss"] is True


def test_the_record_reads_back_as_the_same_conversation():
    tools = [{"type": "function", "function": {"name": "bash"}}]
    c = tool_call_conversation(TRAJECTORY, source="agent", tools=tools)
    record = messages_with_tool_calls(TRAJECTORY, tools=tools)
    assert from_messages(orjson.loads(orjson.dumps(record)), "agent") == c
    assert list(c.tools) == tools
