"""Turns to token ids and loss mask, in one pass, for the tokenizer's own chat template.

`renderer_for` finds the family whose text and tokens equal the template's on probe conversations, so a family is
never guessed from a name. Control tokens become ids only where the template puts them; the same letters inside a
content stay text. What follows a generation prompt is tokenised apart from it, as at inference: the prompt of a reply
is always a prefix of the rendered conversation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agenttuning.errors import ConfigurationError, DataError
from agenttuning.rendering import chatml, llama2, llama3
from agenttuning.rendering.pieces import Family, Piece, Rendered, check_loss, message, needs_template
from agenttuning.rendering.template import Template, apply, find_end
from agenttuning.trajectory import Turn, content_hash

PROBES: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "Who are you?"), ("assistant", "A model.")),
    (("system", "Be brief."), ("user", "List a file."), ("assistant", "Act: bash\n\n```bash\nls\n```")),
    (("user", "One"), ("assistant", "Ok."), ("user", "Two\n\nThree: café, 数"), ("assistant", "Four."), ("user", "?")),
    (("user", "  padded \n"), ("assistant", "kept \n")),
    (("user", "a"), ("assistant", "<think>b</think>\nc"), ("user", "d"), ("assistant", "e")),
)
"""Conversations on which a family must equal the template: with and without a system turn, several turns, padding,
and thoughts, which some templates strip."""


class Renderer:
    """Renders conversations for one tokenizer. Build it with `renderer_for`.

    Attributes:
        family: how plain conversations are written.
        end_id: id of the token that ends an assistant turn; generation must stop at it.
    """

    def __init__(self, tokenizer: Any, family: Family, template: Template | None = None) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = tokenizer
        self.family = family
        self._template = template
        self._plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain.no_padding()
        self._plain.no_truncation()
        self._plain.encode_special_tokens = True
        self._controls: dict[str, int] = {}
        self._prefixes = self._encode("a")[0] != self._encode("\na")[-1]
        self.end_id = self._control(family.end)
        parsed = tokenizer.backend_tokenizer.encode(family.end + "a b", add_special_tokens=False).ids[1:]
        self._prefix_after_control = parsed == self._encode("a b")

    @property
    def fingerprint(self) -> str:
        """Hash of the template and the tokenizer: equal fingerprints render equal ids."""
        return content_hash([self.tokenizer.chat_template, self._plain.to_str()])

    def render(self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] = ()) -> Rendered:
        """Return ids int32 [T] and mask bool [T] of a conversation.

        Trained are the text and the end token of assistant turns with `loss=True`, and nothing else.

        Raises:
            DataError: the template cannot express a turn, or a turn that is not the assistant's asks for loss.
        """
        check_loss(turns)
        return self._tokenise(self._writer(turns, tools).pieces(turns, tools))

    def prompt(self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] = ()) -> npt.NDArray[np.int32]:
        """Return ids int32 [T] of a conversation up to where the assistant's next reply begins.

        Raises:
            DataError: the template cannot express a turn.
        """
        return self._tokenise(self._writer(turns, tools).pieces(turns, tools, generate=True)).ids

    def _writer(self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]]) -> Family:
        beyond = needs_template(turns, tools)
        if beyond is None:
            return self.family
        words = "reasoning" if "reasoning" in beyond else "name" if "name" in beyond else "tool"
        if self._template is None or words not in str(self.tokenizer.chat_template):
            raise DataError(
                f"{beyond}, which the model's chat template ({self.family.name}) cannot express; write it into the "
                "content of the turns, or choose a model whose template has it"
            )
        return self._template

    def _tokenise(self, pieces: Sequence[Piece]) -> Rendered:
        ids: list[int] = []
        mask: list[bool] = []
        run: list[Piece] = []

        def flush() -> None:
            for tokens, trained in self._run(run, after_control=bool(ids)):
                ids.extend(tokens)
                mask.extend([trained] * len(tokens))
            run.clear()

        for piece in pieces:
            if piece.control:
                flush()
                ids.append(self._control(piece.text))
                mask.append(piece.trained)
            elif run and not piece.cut and piece.trained == run[-1].trained:
                run[-1] = Piece(run[-1].text + piece.text, trained=piece.trained)
            else:
                run.append(piece)
        flush()
        return Rendered(np.asarray(ids, np.int32), np.asarray(mask, np.bool_))

    def _run(self, run: Sequence[Piece], after_control: bool) -> list[tuple[list[int], bool]]:
        """Tokenise plain text between two control tokens: as a whole where its parts fall on token borders."""
        out: list[tuple[list[int], bool]] = []
        text, done = "", list[int]()
        for piece in run:
            text += piece.text
            whole = self._text(text, after_control)
            fits = whole[: len(done)] == done
            tokens = whole[len(done) :] if fits else self._text(piece.text, after_control, within=True)
            done = done + tokens
            out.append((tokens, piece.trained))
        return out

    def _text(self, text: str, after_control: bool, within: bool = False) -> list[int]:
        """Tokenise text as it is at its place.

        SentencePiece puts a space before a text's first word, in some versions also after control tokens, but never
        within a text: there it is tokenised behind an anchor.
        """
        if not self._prefixes or not (within or (after_control and not self._prefix_after_control)):
            return self._encode(text)
        for anchor in ("\n", "]", ":"):
            head, whole = self._encode(anchor), self._encode(anchor + text)
            if whole[: len(head)] == head:
                return whole[len(head) :]
        raise DataError(f"the tokenizer joins {text[:40]!r} with whatever stands before it; drop this item")

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def _control(self, text: str) -> int:
        if text not in self._controls:
            known = self.tokenizer.get_vocab().get(text)
            if known is None or self._encode(text) == [known]:
                raise ConfigurationError(
                    f"{text!r} must be a special token of the tokenizer, so that it can be told from the same letters "
                    "in a content; declare it in tokenizer_config.json"
                )
            self._controls[text] = int(known)
        return self._controls[text]


def renderer_for(tokenizer: Any, model_path: str | None = None) -> Renderer:
    """Return the renderer of a tokenizer's chat template.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        model_path: where it came from, for messages.

    Raises:
        ConfigurationError: no chat template, or one whose rendering cannot be proven equal.
    """
    who = f"model {model_path or getattr(tokenizer, 'name_or_path', '') or 'without a path'}"
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigurationError(f"{who}: needs a fast tokenizer (tokenizer.json); save it with `tokenizers` first")
    if not isinstance(tokenizer.chat_template, str):
        raise ConfigurationError(f"{who}: its tokenizer has no single chat template; use the chat version of the model")
    template = None
    try:
        template = Template(tokenizer, find_end(tokenizer))
        opening = apply(tokenizer, [{"role": "user", "content": "x"}], (), False)
        reason = "its tokens differ from the template's"
        for family in [*_candidates(tokenizer, opening), template]:
            renderer = Renderer(tokenizer, family, template)
            differs = _first_difference(renderer)
            if differs is None:
                return renderer
            reason = differs
    except (ConfigurationError, DataError) as error:
        raise ConfigurationError(f"{who}: its chat template cannot be rendered: {error}") from error
    raise ConfigurationError(
        f"{who}: its chat template cannot be rendered with a provable loss mask: {reason}. Choose a model with a "
        "template of the ChatML, Llama-2 or Llama-3 kind"
    )


def _candidates(tokenizer: Any, opening: str) -> list[Family]:
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    return [
        *chatml.candidates(opening, bos),
        *llama2.candidates(opening, bos, eos),
        *llama3.candidates(opening, bos),
    ]


def _first_difference(renderer: Renderer) -> str | None:
    """Compare with the template on the probes it accepts itself, with and without the generation prompt."""
    accepted = 0
    for probe in PROBES:
        turns = [Turn.model_validate({"role": role, "content": content}) for role, content in probe]
        for generate in (False, True) if turns[-1].role == "user" else (False,):
            try:
                text = apply(renderer.tokenizer, [message(t) for t in turns], (), generate)
            except DataError:
                continue
            ids = renderer.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
            try:
                ours = renderer.prompt(turns) if generate else renderer.render(turns).ids
            except DataError as error:
                if isinstance(renderer.family, Template):
                    continue  # It proves every item by itself, and refuses this one.
                return str(error)
            accepted += 1
            if ours.tolist() != ids:
                return (
                    f"the probe {[t.content for t in turns]} gives other tokens than the template, which writes "
                    "thoughts or padding differently, or joins a reply with its generation prompt"
                )
    return None if accepted else "the template accepts none of the probe conversations"
