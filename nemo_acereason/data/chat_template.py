"""From a problem to the exact text and tokens the policy sees, and which tokens end its answer.

Two templates: ``chat`` is the tokenizer's own, ``plain`` joins the texts of :class:`PromptFormat`. AceReason 1.0
(DeepSeek-R1 format) and 1.1 (ChatML with a system message) are both settings of these, see the tests. Tokens are
always those of the rendered text: no template text is tokenised apart from the problem.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nemo_acereason.config.schema import PromptFormat
from nemo_acereason.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_END_NAMES = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",  # noqa: RUF001 - DeepSeek writes it with full-width bars
    "<end_of_turn>",
    "</s>",
)
"""End-of-turn and end-of-text tokens of the public families: a policy may emit either kind to finish."""


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face directory, as its ``tokenizer.json`` has it.

    ``AutoTokenizer`` of transformers 5 looks at the model's ``config.json`` first: beside a qwen2 one it replaces
    normaliser, splitting and begin-of-text rule of any tokenizer (R1-Distill-Qwen's too) by Qwen2's. So it is only
    asked where there is no ``tokenizer.json``.

    Raises:
        ConfigError: no tokenizer there, or one that transformers cannot read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

    if not Path(path).is_dir():
        raise ConfigError(
            f"tokenizer {path}: no such directory; want one with tokenizer.json and tokenizer_config.json"
        )
    try:
        reader = PreTrainedTokenizerFast if (Path(path) / "tokenizer.json").is_file() else AutoTokenizer
        tokenizer = reader.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"tokenizer {path}: cannot be read ({reason}); want tokenizer.json and tokenizer_config.json"
        ) from None
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def render_prompt(fmt: PromptFormat, problem: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, tuple[int, ...]]:
    """Text and tokens of one prompt, up to where the response begins.

    ``fmt.response_prefix`` is left out where the chat template has already opened the response with it (templates of
    reasoning models do).

    Raises:
        ConfigError: the chat template is missing or refuses the messages.
    """
    user = problem + fmt.instruction
    if fmt.template == "chat":
        text = _chat_text(tokenizer, fmt.system, user)
    else:
        system = f"{fmt.system}\n\n" if fmt.system else ""
        text = f"{_automatic_bos(tokenizer)}{system}{fmt.user_prefix}{user}{fmt.user_suffix}"
    if not text.endswith(fmt.response_prefix):
        text += fmt.response_prefix
    return text, encode(tokenizer, text)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The tokens of exactly this text: special tokens written in it are recognised, none are added."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def turn_end_id(fmt: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token a worked response is made to end with.

    In a chat that is what the template writes after the assistant's words (a base model's ``eos_token`` may be another
    one), else ``eos_token``.

    Raises:
        ConfigError: the tokenizer has no ``eos_token`` and its template ends turns with none.
    """
    if fmt.template == "chat":
        words = "An answer."
        text = _apply(tokenizer, [_message("user", "A question."), _message("assistant", words)], open_response=False)
        after = encode(tokenizer, text.rpartition(words)[2])
        if after and after[0] in tokenizer.added_tokens_decoder:
            return after[0]
    if not isinstance(tokenizer.eos_token_id, int):
        raise ConfigError("no token ends a response; set eos_token in tokenizer_config.json")
    return tokenizer.eos_token_id


def end_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end a response: ``eos_token`` first, then end-of-turn and end-of-text ones of the vocabulary."""
    added = tokenizer.get_added_vocab()
    ids = [tokenizer.eos_token_id] if isinstance(tokenizer.eos_token_id, int) else []
    ids += [added[name] for name in _END_NAMES if name in added]
    return tuple(dict.fromkeys(ids))


def _automatic_bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """The begin-of-text token, where the tokenizer is one that puts it before every text."""
    bos = tokenizer.bos_token
    return bos if isinstance(bos, str) and tokenizer.bos_token_id in tokenizer("")["input_ids"] else ""


def _chat_text(tokenizer: PreTrainedTokenizerBase, system: str, user: str) -> str:
    if system:
        return _apply(tokenizer, [_message("system", system), _message("user", user)])
    alone = _apply(tokenizer, [_message("user", user)])
    # Qwen2.5, SmolLM2 and others add a system message of their own to a chat without one. A second user turn has
    # none before it, so what it adds to a chat is the turn as it looks without any system message.
    try:
        first = _apply(tokenizer, [_message("user", "A question.")], open_response=False)
        both = _apply(tokenizer, [_message("user", "A question."), _message("user", user)])
    except ConfigError:  # templates that want strictly alternating roles (Mistral, Gemma) add no system message
        return alone
    if not both.startswith(first):
        return alone
    turn = both[len(first) :]
    bos = tokenizer.bos_token
    # a bos that also opens turns (SmolLM2's <|im_start|>) is part of the turn already
    return bos + turn if isinstance(bos, str) and alone.startswith(bos) and not turn.startswith(bos) else turn


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _apply(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], open_response: bool = True) -> str:
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        raise ConfigError(f"tokenizer {tokenizer.name_or_path}: has no chat template; use prompt.template=plain")
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_response)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ConfigError(
            f"tokenizer {tokenizer.name_or_path}: its chat template refuses roles {roles} ({error})"
        ) from None
    assert isinstance(text, str)
    return text
