# ruff: noqa: RUF001 - DeepSeek's special tokens are written with full-width bars
"""Prompts token for token: the formats of AceReason 1.0 and 1.1, and templates with ideas of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from nemo_acereason.config.schema import PromptFormat
from nemo_acereason.data.byte_tokenizer import write_byte_tokenizer
from nemo_acereason.data.chat_template import encode, end_token_ids, load_tokenizer, render_prompt, turn_end_id
from nemo_acereason.errors import ConfigError

ACEREASON_1_0 = PromptFormat(
    template="plain",
    user_prefix="<｜User｜>",
    instruction="\nPlease reason step by step, and put your final answer within \\boxed{}.",
    user_suffix="<｜Assistant｜>",
    response_prefix="<think>\n",
)
ACEREASON_1_1 = PromptFormat(
    system="You are a helpful and harmless assistant. You should think step-by-step.",
    instruction="\n\nPlease place your final answer inside \\boxed{}.",
    response_prefix="<think>\n",
)
R1_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")


@pytest.fixture
def r1_tokenizer(tmp_path: Path) -> PreTrainedTokenizerBase:
    """DeepSeek-R1's special tokens (261..264) and its begin-of-text rule, over bytes."""
    core = Tokenizer.from_file(str(write_byte_tokenizer(tmp_path) / "tokenizer.json"))
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in R1_TOKENS])
    core.post_processor = TemplateProcessing(single=f"{R1_TOKENS[0]} $A", special_tokens=[(R1_TOKENS[0], 261)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=R1_TOKENS[0],
        eos_token=R1_TOKENS[1],
        chat_template="{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<｜User｜>{{ m['content'] }}"
        "{% else %}<｜Assistant｜>{{ m['content'] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}",
    )


def with_template(tokenizer: PreTrainedTokenizerBase, directory: Path, template: str | None) -> PreTrainedTokenizerBase:
    tokenizer.save_pretrained(directory)
    copy = load_tokenizer(directory)
    copy.chat_template = template
    return copy


def test_acereason_1_0_prompt_is_token_exact(r1_tokenizer: PreTrainedTokenizerBase) -> None:
    text, token_ids = render_prompt(ACEREASON_1_0, "1+1?", r1_tokenizer)
    instruction = "\nPlease reason step by step, and put your final answer within \\boxed{}."
    assert text == f"<｜begin▁of▁sentence｜><｜User｜>1+1?{instruction}<｜Assistant｜><think>\n"
    assert token_ids == (261, 263, *b"1+1?", *instruction.encode(), 264, 259, 10)
    assert r1_tokenizer(text.removeprefix(R1_TOKENS[0]))["input_ids"] == list(token_ids)


def test_template_that_opens_the_thinking_itself_is_not_opened_twice(r1_tokenizer: PreTrainedTokenizerBase) -> None:
    chat = PromptFormat(instruction=ACEREASON_1_0.instruction, response_prefix="<think>\n")
    assert render_prompt(chat, "1+1?", r1_tokenizer) == render_prompt(ACEREASON_1_0, "1+1?", r1_tokenizer)


def test_acereason_1_1_prompt_is_token_exact(qwen_tokenizer: PreTrainedTokenizerBase, shared_dir: Path) -> None:
    text, token_ids = render_prompt(ACEREASON_1_1, "What is 1+1?", qwen_tokenizer)
    assert text == (
        "<|im_start|>system\nYou are a helpful and harmless assistant. You should think step-by-step.<|im_end|>\n"
        "<|im_start|>user\nWhat is 1+1?\n\nPlease place your final answer inside \\boxed{}.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )
    core = Tokenizer.from_file(str(shared_dir / "data/tokenizers/qwen2.5/tokenizer.json"))
    assert token_ids == tuple(core.encode(text, add_special_tokens=False).ids)
    assert token_ids[:3] == (151644, 8948, 198)
    assert token_ids[-6:] == (151644, 77091, 198, 13708, 766, 397)


def test_empty_system_leaves_out_the_templates_own_message(qwen_tokenizer: PreTrainedTokenizerBase) -> None:
    own = qwen_tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert "You are Qwen" in own
    text, token_ids = render_prompt(PromptFormat(), "Hi", qwen_tokenizer)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert token_ids == (151644, 872, 198, 13048, 151645, 198, 151644, 77091, 198)


def test_bos_of_a_template_with_its_own_system_message_is_kept(
    byte_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    template = (
        "{{ bos_token }}{% if messages[0]['role'] != 'system' %}[system: be nice]{% endif %}"
        "{% for m in messages %}[{{ m['role'] }}: {{ m['content'] }}]{% endfor %}"
    )
    tokenizer = with_template(byte_tokenizer, tmp_path, template)
    tokenizer.bos_token = "<pad>"
    assert render_prompt(PromptFormat(), "Hi", tokenizer)[0] == "<pad>[user: Hi]"
    assert render_prompt(PromptFormat(system="Be brief."), "Hi", tokenizer)[0] == "<pad>[system: Be brief.][user: Hi]"


def test_template_with_strictly_alternating_roles_renders(
    byte_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    template = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}[INST]{{ m['content'] }}[/INST]{% endfor %}"
    )
    tokenizer = with_template(byte_tokenizer, tmp_path, template)
    assert render_prompt(PromptFormat(), "Hi", tokenizer)[0] == "[INST]Hi[/INST]"
    with pytest.raises(ConfigError, match=r"chat template refuses roles system, user \(roles must alternate\)"):
        render_prompt(PromptFormat(system="Be brief."), "Hi", tokenizer)


def test_braces_and_template_code_in_a_problem_stay_as_they_are(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    problem = "{{ 1 }} {% if x %} \\frac{1}{2}  \n"
    text, token_ids = render_prompt(PromptFormat(), problem, byte_tokenizer)
    assert text == f"<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"
    assert byte_tokenizer.decode(token_ids) == text


def test_plain_template_puts_the_system_text_first(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    fmt = PromptFormat(template="plain", system="Sums.", user_prefix="Q: ", instruction=" Think.", user_suffix="\nA:")
    assert render_prompt(fmt, "1+1?", byte_tokenizer)[0] == "Sums.\n\nQ: 1+1? Think.\nA:"


def test_missing_chat_template_is_refused(byte_tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    tokenizer = with_template(byte_tokenizer, tmp_path, None)
    with pytest.raises(ConfigError, match=r"no chat template; use prompt\.template=plain"):
        render_prompt(PromptFormat(), "Hi", tokenizer)


def test_end_tokens_are_those_of_turn_and_text(
    qwen_tokenizer: PreTrainedTokenizerBase, byte_tokenizer: PreTrainedTokenizerBase
) -> None:
    assert end_token_ids(qwen_tokenizer) == (151645, 151643)
    assert end_token_ids(byte_tokenizer) == (258, 256)


def test_deepseek_end_token_is_known(r1_tokenizer: PreTrainedTokenizerBase) -> None:
    assert end_token_ids(r1_tokenizer)[0] == 262
    assert turn_end_id(PromptFormat(), r1_tokenizer) == 262
    assert turn_end_id(ACEREASON_1_0, r1_tokenizer) == 262


def test_turn_ends_as_the_template_has_it_even_when_eos_is_another_token(
    qwen_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    qwen_tokenizer.save_pretrained(tmp_path)
    base = load_tokenizer(tmp_path)
    base.eos_token = "<|endoftext|>"
    assert turn_end_id(PromptFormat(), base) == 151645
    assert turn_end_id(PromptFormat(template="plain"), base) == 151643
    assert end_token_ids(base) == (151643, 151645)


def test_encode_adds_no_special_token(r1_tokenizer: PreTrainedTokenizerBase) -> None:
    assert encode(r1_tokenizer, "ab") == tuple(b"ab")


def test_tokenizer_beside_a_qwen2_config_stays_as_written(
    r1_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    r1_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    tokenizer = load_tokenizer(tmp_path)
    decomposed = "e\u0301"
    assert encode(tokenizer, decomposed) == tuple(decomposed.encode())
    assert tokenizer("1")["input_ids"] == [261, ord("1")]
    assert len(tokenizer) == 265


def test_qwen_tokens_are_those_of_transformers_own_class(
    qwen_tokenizer: PreTrainedTokenizerBase, shared_dir: Path
) -> None:
    own = Qwen2Tokenizer.from_pretrained(shared_dir / "data" / "tokenizers" / "qwen2.5")
    text = "Let $x=\\frac{12345}{678}$.\n\n  It's e\u0301 \u4f60\u597d<|im_end|>\n<think>"
    assert list(encode(qwen_tokenizer, text)) == own(text)["input_ids"]


def test_missing_tokenizer_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such directory"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
