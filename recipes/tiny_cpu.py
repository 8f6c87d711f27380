"""The whole loop on a laptop CPU in minutes: SFT cold start on a teacher in haste, then three math stages.

The teacher works sums line by line but often stops before the end and boxes the total so far. The cold start learns the
form, the sums and the haste; the reward sees right answers only, and on-policy RL learns to think to the end: accuracy
and response length rise together. Real Megatron-core at TP 2, real vLLM, real verifier.
All numbers are ours, chosen for a 2-core machine.
"""

from nemo_acereason.config.load import shipped_conf
from nemo_acereason.config.schema import (
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    GrpoStage,
    GuardConfig,
    ModelConfig,
    OptimizerConfig,
    Plan,
    PromptFormat,
    RolloutConfig,
    SftStage,
    TrainerConfig,
)

HASTE_RATE = 0.3


def recipe() -> Plan:
    """SFT, then sums of growing length with growing response budgets."""
    return Plan(
        name="tiny_cpu",
        description="a 2 M-parameter model from nothing: SFT, then on-policy GRPO on sums of growing length",
        model=ModelConfig(hf_config=shipped_conf("model/tiny_qwen2"), tokenizer="bytes", initializer_range=0.06),
        prompt=PromptFormat(template="plain", user_suffix="=\n", response_prefix="<think>\n"),
        trainer=TrainerConfig(tensor_parallel=2, dtype="float32", row_tokens=256, rows_per_microbatch=8),
        rollout=RolloutConfig(max_num_seqs=256, kv_cache_gib=0.25, num_threads=1),
        evaluations={
            "heldout_sums": EvalConfig(
                data=toy(count=64, split="heldout", min_terms=2, max_terms=6), num_samples=8, temperature=1.0, top_p=1.0
            )
        },
        stages={
            "sft": SftStage(
                data=toy("worked_problems", count=20000, min_terms=2, max_terms=6, haste_rate=HASTE_RATE),
                optimizer=OptimizerConfig(
                    learning_rate=3e-3, schedule="cosine", warmup_steps=20, min_learning_rate=1e-4
                ),
                num_steps=400,
                sequences_per_step=32,
                max_prompt_tokens=32,
                max_response_tokens=96,
            ),
            "math_short": math_stage(min_terms=2, max_terms=3, max_response_tokens=48, num_steps=15),
            "math_middle": math_stage(min_terms=3, max_terms=4, max_response_tokens=64, num_steps=15),
            "math_long": math_stage(min_terms=4, max_terms=6, max_response_tokens=96, num_steps=20),
        },
        checkpoint=CheckpointConfig(every_steps=25),
    )


def math_stage(*, min_terms: int, max_terms: int, max_response_tokens: int, num_steps: int) -> GrpoStage:
    """One RL stage: problems of ``min_terms`` to ``max_terms`` numbers."""
    return GrpoStage(
        data=toy(count=4000, min_terms=min_terms, max_terms=max_terms),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=3),
        num_steps=num_steps,
        prompts_per_step=32,
        num_samples=8,
        max_prompt_tokens=32,
        max_response_tokens=max_response_tokens,
        guards=GuardConfig(mean_logp_error=1e-5, max_logp_error=1e-4),
    )


def toy(function: str = "problems", **options: object) -> DataConfig:
    """Generated sums; see :mod:`nemo_acereason.data.toy_math`."""
    return DataConfig(source=f"nemo_acereason.data.toy_math:{function}", options=options, prompt_id="id")
