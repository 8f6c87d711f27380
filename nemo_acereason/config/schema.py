"""Every setting of a plan, one dataclass per component, each default on its field with the reason beside it.

Nothing here reads files or computes: :mod:`nemo_acereason.config.load` builds these from YAML and the command line.
``[A 3.1]`` and the like name sections of AceReason-Nemotron (arXiv 2505.16400), ``[B]`` its 1.1 (arXiv 2506.13284),
``[C]`` Nemotron-Cascade (arXiv 2512.13607).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nemo_acereason.config.fields import setting


@dataclass
class ModelConfig:
    """The policy: a Hugging Face directory, or an architecture to start from nothing."""

    path: str = setting(
        "",
        "Hugging Face directory (config.json, safetensors, tokenizer), or `hf:OWNER/NAME` to download one; empty: "
        "random weights of `hf_config`",
        path="file",
    )
    config_changes: dict[str, Any] = setting(
        factory=dict, help="config.json keys of `path` to change, e.g. rope_theta; the directory itself stays as it is"
    )
    hf_config: dict[str, Any] = setting(
        factory=dict, help="config.json keys of a model started from nothing; only with an empty path"
    )
    tokenizer: str = setting(
        "", "tokenizer directory; empty: the model's own; `bytes`: one token per byte, made on the spot", path="file"
    )
    initializer_range: float = setting(0.02, "standard deviation of random weights", above=0.0)


@dataclass
class PromptFormat:
    """How a problem becomes the text that the policy sees."""

    template: str = setting(
        "chat",
        "`chat`: the tokenizer's own chat template; `plain`: the three texts below, joined",
        choices=("chat", "plain"),
    )
    system: str = setting("", "system message; empty: none, also where the tokenizer's template would add its own")
    instruction: str = setting("", "appended to the problem, as it stands (begin it with a blank or a new line)")
    response_prefix: str = setting(
        "", "how the response is opened, e.g. `<think>\\n` [A A.1]; part of the prompt, not of the loss"
    )
    user_prefix: str = setting("", "plain template only: before the problem")
    user_suffix: str = setting("", "plain template only: after problem and instruction")


@dataclass
class DataConfig:
    """Where rows come from and which of their columns mean what."""

    source: str = setting(
        "",
        "a .json, .jsonl or .parquet file, `hf:NAME` for a Hugging Face data set, or `module:function` giving rows",
        path="source",
    )
    split: str = setting("train", "split of a Hugging Face data set")
    options: dict[str, Any] = setting(
        factory=dict, help="keyword arguments of a `module:function` source, or of `datasets.load_dataset` for `hf:`"
    )
    transform: str = setting(
        "",
        "`module:function` from row to row, for sets that need more than renamed columns; see data/transforms.py",
        path="function",
    )
    problem: str = setting("problem", "column with the problem's text")
    reference: str = setting("answer", "column with what the reward compares with")
    response: str = setting("response", "column with the worked response (SFT only)")
    prompt_id: str = setting("", "column with a stable id; empty: source name and row number")
    skip_empty: bool = setting(False, "leave out rows where a wanted column is empty, instead of refusing the source")
    limit: int = setting(0, "use only the first rows; 0: all", at_least=0)
    shuffle: bool = setting(True, "a new order every epoch, drawn from the run's seed; off: the file's order")


@dataclass
class RuleConfig:
    """A rule of a stage: a function named by its import path, so a user's own works the same way."""

    function: str = setting("", "`module:function`; empty: no rule", path="function")
    options: dict[str, Any] = setting(factory=dict, help="keyword arguments of the function")


@dataclass
class RewardConfig:
    """The verifier: a function named by its import path, so a user's own works the same way."""

    function: str = setting(
        "nemo_acereason.rewards.math:math_reward",
        "`module:function`, called as function(prompt, sample, **options)",
        path="function",
    )
    options: dict[str, Any] = setting(factory=dict, help="keyword arguments of the function")
    timeout_s: float = setting(
        60.0,
        "wall time of one sample; give programs far more: each of their tests has limits of its own",
        above=0.0,
        unit="s",
    )


@dataclass
class RewardPoolConfig:
    """The processes that judge samples while others are drawn."""

    num_workers: int = setting(2, "judging processes on each node that has trainer processes", at_least=1)
    cores: list[int] = setting(factory=list, help="cores of each node they may use; empty: all")
    memory_gib: float = setting(
        4.0, "address space of each; 0: unlimited. Programs have limits of their own", at_least=0.0, unit="GiB"
    )


@dataclass
class OptimizerConfig:
    """AdamW; papers give only the learning rate, the rest is their framework's default [A 3.2.2; reference 1.2]."""

    learning_rate: float = setting(1e-6, "math stages of 1.0 [A 3.2.2]", above=0.0)
    schedule: str = setting(
        "constant", "course of the learning rate after warm-up", choices=("constant", "cosine", "linear")
    )
    warmup_steps: int = setting(0, "linear warm-up", at_least=0)
    min_learning_rate: float = setting(0.0, "where cosine and linear end", at_least=0.0)
    beta1: float = setting(0.9, "framework default; Cascade's too [C App. D]", at_least=0.0, at_most=0.9999)
    beta2: float = setting(0.999, "framework default; Cascade uses 0.95 [C App. D]", at_least=0.0, at_most=1.0)
    epsilon: float = setting(1e-8, "framework default", above=0.0)
    weight_decay: float = setting(0.01, "framework default, not confirmed for the papers", at_least=0.0)
    clip_grad_norm: float = setting(1.0, "framework default; 0: no clipping", at_least=0.0)


@dataclass
class TrainerConfig:
    """Megatron-core: layout, precision, packing."""

    tensor_parallel: int = setting(1, "processes that share each layer", at_least=1)
    pipeline_parallel: int = setting(1, "processes that share the stack of layers", at_least=1)
    virtual_pipeline: int = setting(
        1, "slices of the stack that each pipeline process has: more wait less, and send more", at_least=1
    )
    context_parallel: int = setting(
        1, "processes that share each sample's tokens, for activations of long ones", at_least=1
    )
    data_parallel: int = setting(1, "copies of the model, each on its share of the batch", at_least=1)
    dtype: str = setting(
        "bfloat16", "of weights and activations; optimizer and gradients stay float32", choices=("bfloat16", "float32")
    )
    sequence_parallel: bool = setting(
        False, "norms and residuals cut over the tensor-parallel processes; CUDA only, with tensor_parallel > 1"
    )
    row_tokens: int = setting(
        0, "tokens of one packed row; 0: just what the stage's longest sequence needs", at_least=0
    )
    rows_per_microbatch: int = setting(1, "a microbatch has at most the tokens of so many rows", at_least=1)
    logprob_chunk_tokens: int = setting(
        1024, "tokens whose logits exist at once; 1024 x 152K in float32 are 0.6 GB", at_least=1
    )
    logprob_kernel: str = setting(
        "torch",
        "what makes log-probs of a chunk's logits; triton reads them once and keeps no copies. CUDA only",
        choices=("torch", "triton"),
    )
    distributed_optimizer: bool = setting(True, "optimizer state spread over the data-parallel processes")
    overlap_grad_reduce: bool = setting(False, "gradients are added up over data ranks while the backward pass runs")
    overlap_param_gather: bool = setting(
        False, "updated weights reach the data ranks while the next forward pass runs; what reads them before waits"
    )
    gradient_accumulation_fusion: bool = setting(
        False, "products of weight gradients add to the float32 ones by themselves; CUDA only, with Apex"
    )
    optimizer_offload: float = setting(
        0.0, "share of the optimizer's state that stays and is updated in host memory; CUDA only", at_least=0, at_most=1
    )
    recompute: str = setting(
        "none", "activations computed again in the backward pass", choices=("none", "selective", "full")
    )
    recompute_modules: list[str] = setting(
        factory=lambda: ["core_attn"],
        help="what selective computes again: core_attn (fused kernels do so by themselves), mlp, layernorm (CUDA only)",
    )
    fp8: str = setting(
        "",
        "scaling of FP8 matrix products in the layers, of Transformer Engine; empty: none. CUDA only, in bfloat16",
        choices=("", "delayed", "tensorwise", "blockwise"),
    )
    fp8_bf16_layers: int = setting(
        0, "layers at each end of the stack that stay in BF16 under tensorwise or blockwise FP8", at_least=0
    )


@dataclass
class RolloutConfig:
    """The engine that draws responses, in a process of its own."""

    engine: str = setting("vllm", "`vllm`, `scripted`, or `module:function` returning a RolloutEngine", path="function")
    options: dict[str, Any] = setting(factory=dict, help="keyword arguments of a scripted or user's engine")
    num_engines: int = setting(1, "engines that share a step's prompts, spread evenly over the hosts", at_least=1)
    nodes: int = setting(
        0, "nodes of the engines' own, besides the trainer's; 0: engines share the trainer's nodes", at_least=0
    )
    tensor_parallel: int = setting(1, "processes of one engine", at_least=1)
    dtype: str = setting(
        "auto",
        "of the engine's weights; auto: the trainer's; fp8: linear layers, scaled block by block, the rest bfloat16",
        choices=("auto", "bfloat16", "float32", "fp8"),
    )
    max_num_seqs: int = setting(256, "sequences decoded at once", at_least=1)
    kv_cache_gib: float = setting(
        1.0, "memory for keys and values on CPU; a GPU takes gpu_memory_utilization", above=0.0, unit="GiB"
    )
    gpu_memory_utilization: float = setting(0.85, "share of a GPU's memory the engine may take", above=0.0, at_most=1.0)
    enforce_eager: bool = setting(False, "no graph capture: quicker start, slower decoding (CPU never captures)")
    num_threads: int = setting(0, "CPU threads of each engine; 0: its share of the cores", at_least=0)
    python: str = setting(
        "",
        "interpreter of vLLM's processes, of an environment with the same nemo_acereason where the trainer's has no "
        "vLLM (NeMo's); empty: the trainer's own",
        path="file",
    )
    sleep_level: int = setting(
        0,
        "engine and trainer use a GPU by turns, and each leaves it to the other: 1: the engine's weights wait on the "
        "host, 2: they are dropped and sent anew; 0: both stay. On a CPU nothing moves",
        at_least=0,
        at_most=2,
    )
    timeout_s: float = setting(1800.0, "longest silence of the engine before the run stops", above=0.0, unit="s")


@dataclass
class EvalConfig:
    """A held-out set that is sampled before the first stage and after each one."""

    data: DataConfig = field(default_factory=DataConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    prompt: dict[str, Any] = setting(factory=dict, help="settings of `prompt` that differ in this set")
    num_samples: int = setting(8, "k of avg@k and pass@k", at_least=1)
    max_response_tokens: int = setting(0, "0: the longest of any stage", at_least=0)
    temperature: float = setting(0.6, "evaluation temperature of both papers [A 4.1]", at_least=0.0)
    top_p: float = setting(0.95, "[A 4.1]", above=0.0, at_most=1.0)


@dataclass
class RailConfig(RuleConfig):
    """A guard rail, looked at after each step: called as function(history, **options), it gives a reason or None."""

    action: str = setting("warn", "what a reason does to the run", choices=("warn", "stop", "off"))


def default_rails() -> dict[str, RailConfig]:
    """Rails of every RL stage; the bounds are ours, wide enough that a healthy run of the papers meets none."""
    rails = "nemo_acereason.algorithm.guard_rails"
    return {
        "entropy": RailConfig(f"{rails}:entropy_collapse", {"nats": 0.02, "steps": 5}),
        "reward": RailConfig(f"{rails}:reward_falling", {"share": 0.5, "steps": 10}),
        "no_signal": RailConfig(f"{rails}:no_signal", {"share": 0.9, "steps": 5}),
        "infrastructure": RailConfig(f"{rails}:infrastructure_faults", {"share": 0.1, "steps": 3}, action="stop"),
    }


@dataclass
class GuardConfig:
    """What stops a stage, or warns. Errors, sampler against trainer, stop it before the optimizer acts."""

    mean_logp_error: float = setting(
        0.05, "mean over a step's tokens; BF16 kernels of the two engines differ by about 0.01", above=0.0, unit="nats"
    )
    max_logp_error: float = setting(
        0.0, "of the worst token; 0: not bounded (single BF16 tokens may differ by much)", at_least=0.0, unit="nats"
    )
    rails: dict[str, RailConfig] = setting(
        factory=default_rails, help="by name; looked at after each step; bounds are ours"
    )


@dataclass
class PromptFilterConfig:
    """Which prompts a stage has, by how often they are solved. Counted once, before the stage's first step."""

    keep: RuleConfig = field(default_factory=RuleConfig)
    """Called as function(count, **options) with a :class:`~nemo_acereason.data.pass_rates.PassCount`; True keeps."""
    file: str = setting(
        "",
        "JSON lines with prompt_id, num_correct, num_samples; empty: counted by drawing with the stage's starting "
        "weights, into RUN/stages/STAGE/estimates.jsonl",
        path="file",
    )
    num_samples: int = setting(16, "responses drawn per prompt to count [A 4.3.2]", at_least=1)


@dataclass
class EpochFilterConfig:
    """Which prompts the next epoch leaves out, by the last time each was drawn in the stage."""

    drop_solved: bool = setting(False, "leave out prompts whose every response was correct [A 3.3.2, code-2]")
    drop_unsolved: bool = setting(False, "leave out prompts that no response solved [C 4.5.2]")
    readmit_solved: float = setting(
        0.0, "chance that a solved prompt is back in an epoch; 0.01 in Cascade [C 4.5.2]", at_least=0.0, at_most=1.0
    )
    readmit_unsolved: float = setting(
        0.0, "chance that an unsolved prompt is back in an epoch; 0.1 in Cascade [C 4.5.2]", at_least=0.0, at_most=1.0
    )


@dataclass
class StageConfig:
    """What every stage has, whatever it trains with."""

    kind: str = setting("", "which loop runs the stage; decides its further settings", choices=("sft", "grpo"))
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    num_steps: int = setting(1, "optimizer steps at most; the learning rate's schedule runs over them", at_least=0)
    num_epochs: int = setting(0, "walks over the data at most; 0: as many as the steps take", at_least=0)
    exits: dict[str, RuleConfig] = setting(
        factory=dict,
        help="rules that end the stage early, by name: function(history, **options) gives the reason, or None",
    )
    max_response_tokens: int = setting(1024, "longest response", at_least=1)
    max_prompt_tokens: int = setting(
        1024, "longer prompts are left out and counted (the papers do not say)", at_least=1
    )
    evaluate: bool = setting(True, "evaluate at the stage's end")
    evaluate_every: int = setting(0, "evaluate every so many steps too; 0: not within the stage", at_least=0)
    evaluate_each_epoch: bool = setting(False, "evaluate whenever a walk over the data is done, too")
    prompt: dict[str, Any] = setting(factory=dict, help="settings of `prompt` that differ in this stage")
    trainer: dict[str, Any] = setting(factory=dict, help="settings of `trainer` that differ in this stage")
    rollout: dict[str, Any] = setting(factory=dict, help="settings of `rollout` that differ in this stage")
    sources: dict[str, str] = setting(
        factory=dict, help="where a setting's value comes from, by its dotted name; changes nothing"
    )


@dataclass
class SftStage(StageConfig):
    """Supervised fine-tuning on worked responses: the cold start of 1.1 [B 3]."""

    kind: str = setting("sft", "supervised", choices=("sft",))
    sequences_per_step: int = setting(256, "global batch (nearest published value [C Table 14])", at_least=1)


@dataclass
class GrpoStage(StageConfig):
    """Strictly on-policy GRPO: one optimizer step per rollout batch [A 3.1]."""

    kind: str = setting("grpo", "drawn, judged and reinforced", choices=("grpo",))
    domain: str = setting("math", "reported with the metrics")
    reward: RewardConfig = field(default_factory=RewardConfig)
    prompts_per_step: int = setting(128, "[A 3.2.2]", at_least=1)
    num_samples: int = setting(8, "G; 8 at 8K, 16 at every other length [A 3.2.2]", at_least=2)
    num_samples_by_epoch: list[int] = setting(
        factory=list, help="G of each epoch, the last one going on; empty: num_samples throughout"
    )
    temperature: float = setting(
        1.0, "at the stage's start; 1.0 does not state its math temperature; 0.85 did best in 1.1 [B]", above=0.0
    )
    temperature_rule: RuleConfig = field(default_factory=RuleConfig)
    """Called before each step as function(temperature, *, epoch, entropy, **options); gives the next temperature."""
    top_p: float = setting(
        1.0, "not stated; 1 keeps sampled log-probs those of the whole softmax", above=0.0, at_most=1.0
    )
    loss_normalization: str = setting(
        "group",
        "`group`: token mean of each group, averaged over groups [A eq. 1]; `step`: over all tokens of the step",
        choices=("group", "step"),
    )
    advantage: str = setting(
        "nemo_acereason.algorithm.advantage:group_normalized",
        "`module:function` from rewards [P, G] and mask [P, G] to advantages [P, G]",
        path="function",
    )
    overlong_filter: bool = setting(False, "leave unfinished samples out of the loss [B: on at 8K, off at 32K]")
    overlong_in_statistics: bool = setting(
        True, "under the filter they stay, with reward 0, in the group's mean and std (the papers do not say)"
    )
    prompt_filter: PromptFilterConfig = field(default_factory=PromptFilterConfig)
    epoch_filter: EpochFilterConfig = field(default_factory=EpochFilterConfig)
    loop: str = setting(
        "nemo_acereason.loops.grpo:train_grpo", "`module:function` that runs the stage's steps", path="function"
    )
    guards: GuardConfig = field(default_factory=GuardConfig)


@dataclass
class CheckpointConfig:
    """What survives a kill."""

    every_steps: int = setting(50, "0: only at the end of each stage", at_least=0)
    keep_last: int = setting(2, "older ones are removed; the end of each stage always stays", at_least=1)
    keep_best: str = setting(
        "", "EVALUATION:METRIC, e.g. aime24:avg@64; the checkpoint of its highest value stays too; empty: none"
    )
    asynchronous: bool = setting(True, "write while the next steps run, from a copy in host memory")


def default_phase_limits() -> dict[str, float]:
    """Far more than a healthy run takes: a step of the papers' sizes takes minutes."""
    hour_s = 3600.0
    return {
        "start": hour_s,
        "estimate": 12 * hour_s,
        "generate": 6 * hour_s,
        "reward_wait": 2 * hour_s,
        "train": 2 * hour_s,
        "refit": hour_s,
        "sleep": hour_s,
        "checkpoint": hour_s,
        "evaluate": 24 * hour_s,
        "other": hour_s,
    }


@dataclass
class WatchdogConfig:
    """When a run that goes nowhere is ended. An engine's silence has a bound of its own: ``rollout.timeout_s``."""

    silence_s: float = setting(
        300.0, "longest time without a sign of life from a trainer process (stopped, swapped out)", above=0.0, unit="s"
    )
    phase_s: dict[str, float] = setting(
        factory=default_phase_limits,
        help="longest time in one phase of one step, in seconds, by its name in seconds/NAME; `other`: outside of all",
    )


@dataclass
class LogConfig:
    """Where metrics go besides RUN/metrics.jsonl and RUN/tensorboard."""

    loggers: list[str] = setting(
        factory=list, help="further Lightning loggers: `wandb`, `mlflow`, `csv`, or `module:Class`"
    )
    logger_options: dict[str, Any] = setting(factory=dict, help="keyword arguments by logger name")
    samples_per_step: int = setting(4, "responses kept per step for a person to read", at_least=0)


@dataclass
class Plan:
    """A whole recipe: what runs, in which order, on what."""

    name: str = setting("", "the recipe's name")
    description: str = setting("", "one line")
    seed: int = setting(1, "of weights, data order and sampling", at_least=0)
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptFormat = field(default_factory=PromptFormat)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward_pool: RewardPoolConfig = field(default_factory=RewardPoolConfig)
    evaluations: dict[str, EvalConfig] = setting(factory=dict, help="held-out sets by name")
    stages: dict[str, StageConfig] = setting(factory=dict, help="by name, in the order they run")
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    log: LogConfig = field(default_factory=LogConfig)
    sources: dict[str, str] = setting(
        factory=dict, help="where a setting outside the stages comes from, by its dotted name; changes nothing"
    )
