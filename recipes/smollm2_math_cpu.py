"""A real pretrained model on real problems, on a CPU: two GRPO steps of SmolLM2-135M-Instruct at PP 2.

::

    python scripts/make_smollm2.py --to models/smollm2
    python scripts/make_math_mix.py --math MATH_TRAIN.json --gsm8k GSM8K.json --to math_mix.jsonl
    acereason run smollm2_math_cpu --model models/smollm2 --data math_mix.jsonl

The main job on real input, too short to learn anything. All numbers are ours, chosen for a 2-core machine.
"""

from nemo_acereason.config.schema import (
    DataConfig,
    GrpoStage,
    GuardConfig,
    OptimizerConfig,
    Plan,
    PromptFormat,
    RewardConfig,
    RolloutConfig,
    TrainerConfig,
)


def recipe() -> Plan:
    """One GRPO stage; the model and the data come by ``--model`` and ``--data``."""
    return Plan(
        name="smollm2_math_cpu",
        description="two GRPO steps of a real pretrained model on MATH and GSM8K problems",
        # the model never learned to think in tags, so the answer may stand anywhere; the sentence is that of [A A.1]
        prompt=PromptFormat(
            instruction="\nPlease reason step by step, and put your final answer within \\boxed{}.",
        ),
        trainer=TrainerConfig(pipeline_parallel=2, dtype="float32", row_tokens=768),
        rollout=RolloutConfig(max_num_seqs=32, kv_cache_gib=1.0),
        stages={
            "math": GrpoStage(
                data=DataConfig(problem="problem", reference="answer"),
                reward=RewardConfig(options={"requires_think": False}),
                optimizer=OptimizerConfig(learning_rate=1e-6),
                num_steps=2,
                prompts_per_step=8,
                num_samples=4,
                max_prompt_tokens=512,
                max_response_tokens=256,
                guards=GuardConfig(mean_logp_error=1e-4, max_logp_error=1e-2),
                evaluate=False,
            )
        },
    )
