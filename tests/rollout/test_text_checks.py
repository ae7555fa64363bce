import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.rollout.text_checks import is_degenerate, is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I can\u2019t assist with this.",
        "I cannot assist with this request.",
        "As an AI language model, I cannot know.",
        "Sorry, I am unable to complete this task.",
        "Unfortunately, I am not able to provide that.",
        "I will not answer that.",
        "  **I can't help you with this.**",
    ],
)
def test_refusals(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Think: I cannot help but look again.\nAct: look",
        "I cannot see the file yet, so I list the directory.",
        "The file cannot be opened.",
        "I am sorry to hear that. Try again tomorrow.",
        "I can help with that!",
        "Here is what I found. I can't help with the rest.",
    ],
)
def test_no_refusals(text):
    assert not is_refusal(text)


def test_running_in_circles():
    assert is_degenerate("the cat sat on the mat and " * 10)
    assert is_degenerate("Count the apples.\n" * 4)
    assert not is_degenerate("yes\n" * 10)
    assert not is_degenerate("A short answer.")
    assert not is_degenerate(" ".join(f"word{i}" for i in range(200)))
    assert not is_degenerate("- a\n- b\n- c\n- a\n- b\n- c\n- a\n- b\n- c")


@given(st.text(max_size=400))
def test_any_text_can_be_judged(text):
    assert is_refusal(text) in (True, False)
    assert is_degenerate(text + "\n" + "one and the same line\n" * 4)
