"""Shapes of decoder models in the Llama form: what memory and arithmetic depend on.

Read from a model's `config.json`. The shapes of the shipped recipes' models are embedded, so that a recipe can be sized
without its model at hand.
"""

from dataclasses import dataclass
from typing import Any

from agenttuning.errors import ConfigurationError


def _llama(
    hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int = 32000, tied: bool = False
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }


known_architectures: dict[str, dict[str, Any]] = {
    "llama-2-7b-chat-hf": _llama(4096, 32, 32, 32, 11008),
    "llama-2-13b-chat-hf": _llama(5120, 40, 40, 40, 13824),
    "llama-2-70b-chat-hf": _llama(8192, 80, 64, 8, 28672),
    "smollm2-135m": _llama(576, 30, 9, 3, 1536, vocab=49152, tied=True),
}
"""The keys of `config.json` that sizing reads, by the last part of a model's path in lower case."""


def known_architecture(path: str) -> dict[str, Any] | None:
    """Return the embedded configuration of a model path or id, or None where there is none."""
    return known_architectures.get(path.rstrip("/").rsplit("/", 1)[-1].lower())


@dataclass(frozen=True)
class Shape:
    """A decoder's dimensions.

    Attributes:
        hidden: width of the residual stream.
        layers: number of blocks.
        heads: query heads.
        query: width of all queries (heads x head size).
        key_value: width of all keys.
        inner: width of the gated feed-forward layer.
        vocab: size of the vocabulary.
        tied: whether the output shares the input's embedding.
    """

    hidden: int
    layers: int
    heads: int
    query: int
    key_value: int
    inner: int
    vocab: int
    tied: bool

    @property
    def layer_parameters(self) -> int:
        """Parameters of one block."""
        attention = 2 * self.hidden * self.query + 2 * self.hidden * self.key_value
        return attention + 3 * self.hidden * self.inner + 2 * self.hidden

    @property
    def embeddings(self) -> int:
        """Parameters of the token embeddings and the output head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.embeddings + self.layers * self.layer_parameters + self.hidden

    @property
    def multiplied(self) -> int:
        """Parameters that every token is multiplied with: all but the input's embedding."""
        return self.layers * self.layer_parameters + self.vocab * self.hidden

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a block's linear layers by name."""
        return {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key_value),
            "v_proj": (self.hidden, self.key_value),
            "o_proj": (self.query, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }

    def adapted(self, targets: tuple[str, ...] | None) -> list[tuple[int, int]]:
        """Return inputs and outputs of the linear layers of a block that get low-rank adapters; None is all."""
        return [size for name, size in self.linears.items() if targets is None or name.endswith(targets)]

    def adapter_parameters(self, rank: int, targets: tuple[str, ...] | None = None) -> int:
        """Return the parameters of low-rank adapters on the linear layers of the blocks, or on those named."""
        return self.layers * rank * sum(sum(size) for size in self.adapted(targets))

    def saved_bytes(self, element: int) -> int:
        """Return the bytes per token that autograd keeps of one block without checkpointing.

        Per norm an fp32 copy, the normalised and the weighted values; queries, keys, values, the attention's output
        and its log-sum-exp; gate, its activation, up and their product. `element` is 2 for bf16 and 4 for fp32.
        """
        norms = 2 * (4 * self.hidden + 2 * element * self.hidden + 4)
        attention = element * 2 * (self.query + self.key_value) + 4 * self.heads
        return norms + attention + element * 4 * self.inner


def shape_of(config: dict[str, Any]) -> Shape:
    """Read a model's `config.json`.

    Raises:
        ConfigurationError: a dimension is missing; the message names it.
    """
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    missing = [key for key in needed if not isinstance(config.get(key), int)]
    if missing:
        raise ConfigurationError(
            f"the model's config.json lacks {', '.join(missing)}: only decoders in the Llama form can be sized"
        )
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    return Shape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        query=heads * head,
        key_value=(config.get("num_key_value_heads") or heads) * head,
        inner=config["intermediate_size"],
        vocab=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
    )
