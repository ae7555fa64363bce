"""Hypothesis strategies for the conversations each format can express."""

from hypothesis import strategies as st

from agenttuning.conversations.value_turns import RESERVED
from agenttuning.trajectory import Conversation, ToolCall, Turn

texts = st.text(max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
metas = st.dictionaries(texts.filter(lambda k: k not in RESERVED), json_values, max_size=3)


def plain_turns(trained_only: bool):
    loss = st.just(True) if trained_only else st.booleans()
    spoken = st.builds(Turn, role=st.just("assistant"), content=texts, loss=loss)
    asked = st.builds(Turn, role=st.sampled_from(["system", "user"]), content=texts)
    return st.lists(spoken | asked, min_size=1, max_size=6).map(tuple)


def plain_conversations(trained_only: bool = False):
    return st.builds(Conversation, id=texts, source=st.just("s"), turns=plain_turns(trained_only), meta=metas)


_calls = st.lists(st.builds(ToolCall, id=texts, name=texts, arguments=texts), max_size=2).map(tuple)
_spoken = st.builds(
    Turn,
    role=st.just("assistant"),
    content=texts,
    loss=st.booleans(),
    reasoning=st.none() | texts,
    tool_calls=_calls,
    name=st.none() | texts,
)
_asked = st.builds(Turn, role=st.sampled_from(["system", "user"]), content=texts, name=st.none() | texts)
_answered = st.builds(Turn, role=st.just("tool"), content=texts, tool_call_id=st.none() | texts, name=st.none() | texts)
message_conversations = st.builds(
    Conversation,
    id=texts,
    source=st.just("s"),
    turns=st.lists(_spoken | _asked | _answered, min_size=1, max_size=6).map(tuple),
    tools=st.lists(st.dictionaries(texts, json_values, max_size=3), max_size=2).map(tuple),
    meta=metas,
)
