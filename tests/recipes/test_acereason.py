"""The papers' recipes: the facts of the reference as assertions, a source for every number, and the plans as files.

Make the golden files again with ``python tests/recipes/remake_golden.py`` after reading what changed.
"""

from __future__ import annotations

import functools
import importlib
import math
from pathlib import Path

import pytest
from remake_golden import GOLDEN, RECIPES, printed_plan
from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nemo_acereason.algorithm.pack import pack
from nemo_acereason.config.cluster import load_cluster
from nemo_acereason.config.fields import check_bounds
from nemo_acereason.config.known_models import planned_arch
from nemo_acereason.config.load import for_stage, import_function, load_plan, recipe_names, wanted_inputs
from nemo_acereason.config.schema import GrpoStage, Plan, SftStage
from nemo_acereason.config.sources import list_settings
from nemo_acereason.data.chat_template import load_tokenizer, render_prompt
from nemo_acereason.data.sft_dataset import SftStream
from nemo_acereason.data.transforms import code_problem
from nemo_acereason.launch.capacity_checks import check_capacity
from nemo_acereason.loops.rules import StageRules

CODE_FORMAT = "Please place the solution code in the following format:\n```python\n# Your solution code here\n```"


@functools.cache
def recipe(name: str) -> Plan:
    return load_plan(name, needs_inputs=False)


def rl(plan: Plan, name: str) -> GrpoStage:
    stage = plan.stages[name]
    assert isinstance(stage, GrpoStage)
    return stage


def test_all_shipped_recipes_of_the_papers_are_looked_at_here() -> None:
    assert {name for name in recipe_names() if name.startswith(("acereason", "cascade"))} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_has_a_source_of_a_known_kind(name: str) -> None:
    for setting in list_settings(recipe(name)):
        where = f"{setting.stage} {setting.name}={setting.value!r}: {setting.source!r}"
        if setting.is_default:
            assert setting.source.startswith(("[", "ours: ", "default")), where
        else:
            assert setting.source.startswith(("[", "ours: ")), where


@pytest.mark.parametrize("name", RECIPES)
def test_every_number_of_a_stage_has_a_reason(name: str) -> None:
    for setting in list_settings(recipe(name)):
        if setting.stage and isinstance(setting.value, int | float):
            assert len(setting.source.removeprefix("default").strip(": ")) > 2, f"{setting.name} of {name}"


@pytest.mark.parametrize("name", RECIPES)
def test_rules_rewards_and_transforms_exist_and_take_their_options(name: str) -> None:
    plan = recipe(name)
    check_bounds(plan)
    for key, stage in plan.stages.items():
        if stage.data.transform:
            import_function(stage.data.transform, key)
        if isinstance(stage, GrpoStage):
            import_function(stage.reward.function, key)
            StageRules(key, stage)


@pytest.mark.parametrize("name", RECIPES)
def test_layout_fills_the_papers_cluster(name: str) -> None:
    plan = recipe(name)
    trainer = plan.trainer
    assert trainer.tensor_parallel * trainer.pipeline_parallel * trainer.data_parallel == 128
    assert plan.rollout.tensor_parallel * plan.rollout.num_engines == 128
    for stage in plan.stages.values():
        if isinstance(stage, GrpoStage):
            assert stage.prompts_per_step * stage.num_samples % trainer.data_parallel == 0


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "cascade_8b_math"])
def test_layout_fits_the_papers_cluster(name: str) -> None:
    plan = recipe(name)
    check_capacity(plan, planned_arch(plan.model), load_cluster("h100_16x8"))


@pytest.mark.parametrize("name", RECIPES)
def test_printed_plan_is_the_one_reviewed(name: str) -> None:
    assert printed_plan(name) == (GOLDEN / f"plan_{name}.txt").read_text(), "read the change, then remake_golden.py"


def test_dotted_size_is_the_same_recipe() -> None:
    assert recipe("acereason_1_0_1.5b") == recipe("acereason_1_0_1_5b")


@pytest.mark.parametrize("name", ["acereason_1_0_1_5b", "acereason_1_0_7b", "acereason_1_0_14b"])
def test_1_0_has_the_stages_and_numbers_of_the_paper(name: str) -> None:
    plan = recipe(name)
    facts = {  # reference 5.1: length, G, learning rate
        "math_8k": ("math", 8192, 8, 1e-6),
        "math_16k": ("math", 16384, 16, 1e-6),
        "math_24k": ("math", 24576, 16, 1e-6),
        "code_24k": ("code", 24000, 8, 5e-6),
        "code_32k": ("code", 32768, 8, 5e-6),
        "math_32k": ("math", 32768, 16, 1e-6),
    }
    assert list(plan.stages) == list(facts)
    for key, wanted in facts.items():
        stage = rl(plan, key)
        assert (stage.domain, stage.max_response_tokens, stage.num_samples, stage.optimizer.learning_rate) == wanted
        assert (stage.prompts_per_step, stage.top_p, stage.overlong_filter) == (128, 1.0, False)
    for key in ("math_24k", "math_32k"):
        chosen = rl(plan, key).prompt_filter
        assert (chosen.keep.options, chosen.num_samples, chosen.file) == ({"share": 0.375}, 16, "")
    for key in ("math_8k", "math_16k", "code_32k"):
        assert rl(plan, key).prompt_filter.keep.function == ""
    assert rl(plan, "code_24k").prompt_filter.keep.options == {"level": 7 if "14b" in name else 5}
    assert rl(plan, "code_24k").temperature == 0.6
    last = rl(plan, "code_32k")
    assert (last.num_samples_by_epoch[0], last.num_samples_by_epoch[-1]) == (8, 16)
    temperatures = last.temperature_rule.options["values"]
    assert (temperatures[0], temperatures[-1], len(temperatures)) == (0.6, 1.0, last.num_epochs)
    assert len(last.num_samples_by_epoch) == last.num_epochs
    assert last.epoch_filter.drop_solved
    assert not last.epoch_filter.drop_unsolved


def test_1_0_32b_is_math_only() -> None:
    assert list(recipe("acereason_1_0_32b").stages) == ["math_8k", "math_16k", "math_24k", "math_32k"]


def test_1_1_is_sft_then_six_stages_with_the_over_long_filter_of_the_study() -> None:
    plan = recipe("acereason_1_1_7b")
    first, *rest = plan.stages.values()
    assert isinstance(first, SftStage)
    assert plan.model.config_changes == {"rope_theta": 1_000_000, "max_position_embeddings": 131072}
    assert [stage.overlong_filter for stage in rest if isinstance(stage, GrpoStage)] == [True, True] + [False] * 4
    math_stages = [stage for stage in rest if isinstance(stage, GrpoStage) and stage.domain == "math"]
    assert [stage.max_response_tokens for stage in math_stages] == [8192, 16384, 24576, 32768]
    for stage in math_stages:
        assert stage.temperature == 0.85
        assert stage.temperature_rule.options["target"] == 0.3
    assert first.num_steps == math.ceil(6 * 3_970_332 / 256)


def test_cascade_has_its_two_sided_filter_and_table() -> None:
    stages = [stage for stage in recipe("cascade_8b_math").stages.values() if isinstance(stage, GrpoStage)]
    rows = [(s.max_response_tokens, s.num_steps, s.temperature, s.overlong_filter) for s in stages]
    assert rows == [(24576, 190, 1.0, True), (32768, 240, 1.0, False), (40960, 70, 0.8, False)]
    for stage in stages:
        chosen = stage.epoch_filter
        assert (chosen.drop_solved, chosen.readmit_solved) == (True, 0.01)
        assert (chosen.drop_unsolved, chosen.readmit_unsolved) == (True, 0.1)
        assert (stage.optimizer.beta1, stage.optimizer.beta2, stage.optimizer.learning_rate) == (0.9, 0.95, 2e-6)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "acereason_1_0_7b",
            ["stages.code_24k.data.source", "stages.code_32k.data.source", "evaluations.lcb_v5.data.source"],
        ),
        ("cascade_8b_math", ["model.path", "evaluations.lcb_v5.data.source"]),
    ],
)
def test_what_is_not_public_is_wanted_of_the_user(name: str, wanted: list[str]) -> None:
    assert list(wanted_inputs(recipe(name))) == wanted


R1_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")  # noqa: RUF001


@pytest.fixture(scope="module")
def r1_tokenizer(shared_dir: Path) -> PreTrainedTokenizerBase:
    """Qwen2.5's tokens with DeepSeek-R1's special ones added, and its begin-of-text rule.

    R1-Distill-Qwen's own tokenizer cannot be had here: same vocabulary, other numbers for the special tokens.
    """
    core = Tokenizer.from_file(str(shared_dir / "data/tokenizers/qwen2.5/tokenizer.json"))
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in R1_TOKENS])
    bos = core.token_to_id(R1_TOKENS[0])
    core.post_processor = TemplateProcessing(single=f"{R1_TOKENS[0]} $A", special_tokens=[(R1_TOKENS[0], bos)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=R1_TOKENS[0], eos_token=R1_TOKENS[1])


@pytest.fixture(scope="module")
def qwen_tokenizer(shared_dir: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(shared_dir / "data" / "tokenizers" / "qwen2.5")


def test_1_0_prompts_are_those_of_the_model_card(r1_tokenizer: PreTrainedTokenizerBase) -> None:
    plan = recipe("acereason_1_0_7b")
    text, token_ids = render_prompt(for_stage(plan, "math_8k").prompt, "1+1?", r1_tokenizer)
    assert text == (
        "<｜begin▁of▁sentence｜><｜User｜>1+1?\n"  # noqa: RUF001
        "Please reason step by step, and put your final answer within \\boxed{}.<｜Assistant｜><think>\n"  # noqa: RUF001
    )
    special = [r1_tokenizer.convert_tokens_to_ids(name) for name in (R1_TOKENS[0], *R1_TOKENS[2:])]
    assert [token for token in token_ids if token in special] == special
    problem = code_problem({"problem": "Add.", "starter_code": "def add(a, b):"})["problem"]
    for stage in ("code_24k", "code_32k"):
        assert render_prompt(for_stage(plan, stage).prompt, problem, r1_tokenizer)[0] == (
            "<｜begin▁of▁sentence｜><｜User｜>Add.\n\n"  # noqa: RUF001
            "Solve the problem starting with the provided function header.\n\nFunction header:\n```\ndef add(a, b):\n"
            f"```\n\n{CODE_FORMAT}<｜Assistant｜><think>\n"  # noqa: RUF001
        )


def test_1_1_prompts_are_those_of_the_model_card(qwen_tokenizer: PreTrainedTokenizerBase) -> None:
    plan = recipe("acereason_1_1_7b")
    system = "You are a helpful and harmless assistant. You should think step-by-step."
    head = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
    tail = "<|im_end|>\n<|im_start|>assistant\n<think>\n"
    text, token_ids = render_prompt(for_stage(plan, "math_8k").prompt, "1+1?", qwen_tokenizer)
    assert text == f"{head}1+1?\n\nPlease place your final answer inside \\boxed{{}}.{tail}"
    assert token_ids[:3] == (151644, 8948, 198)
    problem = code_problem({"problem": "Add."})["problem"]
    for stage in ("code_24k", "code_32k"):
        text, _ = render_prompt(for_stage(plan, stage).prompt, problem, qwen_tokenizer)
        assert text == f"{head}Add.\n\nWrite Python code to solve the problem. {CODE_FORMAT}{tail}"
    sft = for_stage(plan, "sft").prompt
    transform = import_function(plan.stages["sft"].data.transform, "sft")
    row = transform({"category": "math", "input": "1+1?", "output": "<think>\ntwo\n</think>\n\\boxed{2}"})
    math_text, _ = render_prompt(for_stage(plan, "math_8k").prompt, "1+1?", qwen_tokenizer)
    assert render_prompt(sft, row["problem"], qwen_tokenizer)[0] == math_text, "RL asks as SFT did"


def test_1_1_sft_learns_from_the_first_token_after_the_opened_thinking(qwen_tokenizer: PreTrainedTokenizerBase) -> None:
    plan = recipe("acereason_1_1_7b")
    stage = plan.stages["sft"]
    transform = import_function(stage.data.transform, "sft")
    rows = [transform({"category": "math", "input": "1+1?", "output": "<think>\ntwo\n</think>\n\\boxed{2}"})]
    stream = SftStream(
        rows, stage.data, for_stage(plan, "sft").prompt, qwen_tokenizer,
        seed=1, max_prompt_tokens=stage.max_prompt_tokens, max_response_tokens=stage.max_response_tokens,
    )  # fmt: skip
    (row,) = pack(stream.take(1), 64)
    # the ids of Qwen2.5's own tokenizer: im_start, im_end are 151644, 151645; <think> is no token of it but three
    system = [151644, 8948, 198, 2610, 525, 264, 10950, 323, 52897, 17847, 13, 1446, 1265, 1744, 3019, 14319, 29208, 13]
    user = [151645, 198, 151644, 872, 198, 16, 10, 16, 1939, 5501, 1992, 697, 1590, 4226, 4766, 1124, 79075, 46391]
    opened = [151645, 198, 151644, 77091, 198, 13708, 766, 397]
    response = [19789, 198, 522, 26865, 397, 59, 79075, 90, 17, 92, 151645]
    sample = [*system, *user, *opened, *response]
    assert row.token_T[: len(sample) - 1].tolist() == sample[:-1]
    assert row.mask_T.nonzero().flatten().tolist() == list(range(len(sample) - 1 - len(response), len(sample) - 1))
    assert row.target_T[row.mask_T].tolist() == response
    assert qwen_tokenizer.decode(response) == "two\n</think>\n\\boxed{2}<|im_end|>"


def test_recipe_modules_say_what_they_are() -> None:
    for name in RECIPES:
        module = importlib.import_module(f"nemo_acereason.recipes.{name}")
        assert module.__doc__
        assert module.recipe().name == name
