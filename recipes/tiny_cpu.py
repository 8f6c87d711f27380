"""The whole loop on a laptop CPU in minutes: SFT cold start on a teacher in haste, then GRPO in stages.

The teacher works sums and small programs step by step but often stops before the end. The cold start learns the form,
the work and the haste; the rewards see right answers only, and on-policy RL learns to think to the end: accuracy and
response length rise together. As in the papers, math comes first, then code, and math at the greatest length last.
Real Megatron-core at TP 2, real vLLM, real verifiers, programs run in the sandbox.
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
    RewardConfig,
    RolloutConfig,
    SftStage,
    TrainerConfig,
)

HASTE_RATE = 0.3
MATH = RewardConfig(function="nemo_acereason.rewards.math:math_reward", timeout_s=10.0)
CODE = RewardConfig(
    function="nemo_acereason.sandbox.code_reward:code_reward", options={"time_limit_s": 2.0}, timeout_s=600.0
)


def recipe() -> Plan:
    """SFT, sums of growing length with growing response budgets, then programs."""
    return Plan(
        name="tiny_cpu",
        description="a 1 M-parameter model from nothing: SFT, then on-policy GRPO on sums and small programs",
        model=ModelConfig(hf_config=shipped_conf("model/tiny_qwen2"), tokenizer="bytes", initializer_range=0.06),
        prompt=PromptFormat(template="plain", user_suffix="=\n", response_prefix="<think>\n"),
        trainer=TrainerConfig(tensor_parallel=2, dtype="float32", row_tokens=256, rows_per_microbatch=8),
        rollout=RolloutConfig(num_engines=2, max_num_seqs=128, kv_cache_gib=0.25),
        evaluations={
            "heldout_sums": held_out(sums(count=64, split="heldout", max_terms=5), MATH),
            "heldout_programs": held_out(programs(count=32, split="heldout"), CODE),
        },
        stages={
            "sft": SftStage(
                data=DataConfig(
                    source="nemo_acereason.data.toy_code:worked_sums_and_programs",
                    options={
                        "sums": {"count": 20000, "max_terms": 5, "haste_rate": HASTE_RATE},
                        "programs": {"count": 20000, "haste_rate": HASTE_RATE},
                    },
                    prompt_id="id",
                ),
                optimizer=OptimizerConfig(
                    learning_rate=3e-3, schedule="cosine", warmup_steps=20, min_learning_rate=1e-4, beta2=0.95
                ),
                num_steps=400,
                sequences_per_step=64,
                max_prompt_tokens=48,
                max_response_tokens=112,
            ),
            "math_short": rl_stage(sums(min_terms=2, max_terms=3), MATH, max_response_tokens=48, num_steps=20),
            "math_middle": rl_stage(sums(min_terms=3, max_terms=4), MATH, max_response_tokens=64, num_steps=20),
            "code": rl_stage(programs(), CODE, domain="code", max_response_tokens=112, num_steps=12),
            "math_long": rl_stage(sums(min_terms=4, max_terms=5), MATH, max_response_tokens=96, num_steps=30),
        },
        checkpoint=CheckpointConfig(every_steps=25),
    )


def rl_stage(
    data: DataConfig, reward: RewardConfig, *, max_response_tokens: int, num_steps: int, domain: str = "math"
) -> GrpoStage:
    """One RL stage; sampler and trainer compute in float32, so their log-probs must agree closely."""
    return GrpoStage(
        data=data,
        reward=reward,
        domain=domain,
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=3, beta2=0.95),
        num_steps=num_steps,
        prompts_per_step=32,
        num_samples=8,
        max_prompt_tokens=48,
        max_response_tokens=max_response_tokens,
        guards=GuardConfig(mean_logp_error=1e-5, max_logp_error=1e-4),
    )


def held_out(data: DataConfig, reward: RewardConfig) -> EvalConfig:
    """A held-out set, sampled as in training."""
    return EvalConfig(data=data, reward=reward, num_samples=8, temperature=1.0, top_p=1.0)


def sums(**options: object) -> DataConfig:
    """Generated sums; see :mod:`nemo_acereason.data.toy_math`."""
    return DataConfig(
        source="nemo_acereason.data.toy_math:problems", options={"count": 4000, **options}, prompt_id="id"
    )


def programs(**options: object) -> DataConfig:
    """Generated programming problems; see :mod:`nemo_acereason.data.toy_code`."""
    source = "nemo_acereason.data.toy_code:programs"
    return DataConfig(source=source, options={"count": 4000, **options}, prompt_id="id", reference="tests")
