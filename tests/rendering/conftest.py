"""Small tokenizers trained on a few lines, with the chat templates of the families as their models publish them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "You are a helpful assistant. List the files in the folder and tell me how many there are.",
    "Think: I should look at the table first.\n\nAct: bash\n\n```bash\nls -la | wc -l\n```",
    "[INST] <<SYS>> question answer [/INST] SELECT name FROM users WHERE id = 3;\n\n\n",
    "system user assistant tool café naïve 数学   spaces    and\ttabs\n",
] * 4

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TOOLS = (
    "{{ bos_token }}{% if tools %}{{ '<|role|>tools\n' + (tools | tojson) + '<|end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|role|>' + m.role + '\n' }}"
    "{% if m.reasoning_content %}{{ '<|think|>' + m.reasoning_content + '<|/think|>' }}{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<|call|>' + (c.function | tojson) }}{% endfor %}{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|role|>assistant\n' }}{% endif %}"
)
FORGETFUL = TOOLS.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] if not loop.last else m.content }}")


LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(
    template: str, specials: list[str], bos: str | None, eos: str, words: str | None = None
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if words:
        split = pre_tokenizers.Split(Regex(words), behavior="isolated")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=eos)
    fast.add_special_tokens({"additional_special_tokens": specials})
    fast.chat_template = template
    return fast


def sentencepiece(template: str, legacy: bool) -> PreTrainedTokenizerFast:
    """A Llama-2 tokenizer: BPE with byte fallback. `legacy` puts a space after every control token, else only first."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>"]))
    state = json.loads(trained.to_str())["model"]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *state["vocab"]]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(
        models.BPE(vocab, [tuple(m) for m in state["merges"]], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    return fast


@pytest.fixture(scope="session")
def tokenizers_by_name() -> dict[str, Any]:
    llama3 = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    tools = ["<|bos|>", "<|role|>", "<|end|>", "<|think|>", "<|/think|>", "<|call|>"]
    return {
        "chatml": byte_level(CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_start|>", "<|im_end|>"),
        "llama-2-legacy": sentencepiece(LLAMA2, legacy=True),
        "llama-2-new": sentencepiece(LLAMA2, legacy=False),
        "llama-3": byte_level(LLAMA3, llama3, "<|begin_of_text|>", "<|eot_id|>", LLAMA3_WORDS),
        "template": byte_level(TOOLS, tools, "<|bos|>", "<|end|>"),
        "forgetful": byte_level(FORGETFUL, tools, "<|bos|>", "<|end|>"),
    }


@pytest.fixture(scope="session")
def renderer_of(tokenizers_by_name: dict[str, Any]) -> Callable[[str], Any]:
    from agenttuning.rendering import renderer_for

    built: dict[str, Any] = {}

    def get(name: str) -> Any:
        return built.setdefault(name, built.get(name) or renderer_for(tokenizers_by_name[name]))

    return get
