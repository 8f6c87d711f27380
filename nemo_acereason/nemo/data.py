"""What NeMo's trainer trains on: a step of rollouts, or of worked responses, as Lightning data modules.

A step's data is made when the step begins and not before: for rollouts with the weights of that moment, so training is
on-policy by construction. There is no prefetch, no worker process of a data loader and no sampler; which rank computes
which sample is decided as in our own trainer.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from megatron.core import parallel_state
from nemo.lightning import io
from nemo.lightning.megatron_parallel import MegatronStep
from nemo.lightning.pytorch.plugins.data_sampler import DataSampler

from nemo_acereason.algorithm.balance import sample_cost
from nemo_acereason.algorithm.pack import pack, row_length
from nemo_acereason.algorithm.policy_loss import mismatch_metrics, on_policy_loss
from nemo_acereason.algorithm.sft_loss import response_cross_entropy
from nemo_acereason.config.load import for_stage, import_function, load_plan, wanted_inputs
from nemo_acereason.config.model_arch import read_model_arch
from nemo_acereason.config.schema import GrpoStage, SftStage, StageConfig
from nemo_acereason.config.trainer_rules import check_trainer
from nemo_acereason.data.chat_template import end_token_ids
from nemo_acereason.data.prompt_stream import PromptStream
from nemo_acereason.data.sft_dataset import SftStream, step_samples
from nemo_acereason.data.sources import SFT_FIELDS, load_rows
from nemo_acereason.errors import ConfigError, WeightSyncError
from nemo_acereason.launch.build import keep_by_file, model_directory, tokenizer_of
from nemo_acereason.loops.grpo import check_mismatch, train_rows
from nemo_acereason.loops.learning_rate import stage_learning_rate
from nemo_acereason.loops.rules import StageRules
from nemo_acereason.nemo.model import AceReasonModel, Work
from nemo_acereason.nemo.settings import check_stage, left_out
from nemo_acereason.observe.metrics import rollout_metrics, trainer_metrics
from nemo_acereason.parallel.collectives import metrics_over_ranks, on_leader
from nemo_acereason.protocols import RolloutEngine, TokenLoss
from nemo_acereason.records import Sampling, ScoredGroup, StepMetrics, TrainRow
from nemo_acereason.rollout.draw import collect_groups, draw_and_score, prompt_seeds
from nemo_acereason.rollout.engine import build_engine
from nemo_acereason.sandbox.pool import RewardPool
from nemo_acereason.trainer.microbatch import build_microbatch, rank_samples
from nemo_acereason.trainer.model import tokens_multiple


@dataclass(frozen=True)
class StepData:
    """All that one optimizer step computes, the same on every rank."""

    rows: list[TrainRow]
    loss: TokenLoss
    temperature: float


class StageData(pl.LightningDataModule, io.IOMixin):  # type: ignore[misc] # NeMo has no types
    """One stage of a plan as a data module; see the two kinds below.

    Args:
        recipe: as :func:`nemo_acereason.config.load.load_plan` takes it.
        stage: its name in the plan.
        changes: settings that differ, ``key=value``.
        run_dir: for what belongs to the run and not to NeMo (the engine's log); empty: a temporary directory.
    Raises:
        ConfigError: no such stage, or its data or model are still to be given.
    """

    def __init__(self, recipe: str, stage: str, changes: list[str] | None = None, run_dir: str = "") -> None:
        super().__init__()
        # other stages' inputs, and those of evaluations, are not needed here
        plan = load_plan(recipe, changes or [], needs_inputs=False)
        if stage not in plan.stages:
            raise ConfigError(f"stage={stage!r} is not in {recipe}; it has {', '.join(plan.stages)}")
        for key, how in wanted_inputs(plan).items():
            if key.startswith(("model.", f"stages.{stage}.")):
                raise ConfigError(f"{key} is empty; give {how}")
        self.plan = for_stage(plan, stage)
        """With the stage's own settings in place of the general ones."""
        self.stage_name = stage
        self._run_dir = run_dir
        self.data_sampler = StepSampler(self)
        self.tokenizer: Any = None
        """NeMo's, set by ``llm.finetune``; unused."""
        of_stage = self.plan.stages[stage]
        # what NeMo checks and its counters of FLOPs read; how samples are dealt is up to StepSampler
        self.micro_batch_size = 1
        self.global_batch_size = samples_of_step(of_stage)
        self.seq_length = of_stage.max_prompt_tokens + of_stage.max_response_tokens

    def setup(self, stage: str) -> None:
        """Open the data; called by all ranks together, the process group exists.

        Raises:
            ConfigError: the plan's model is not of the shape of the trainer's, or the plan wants what this host cannot.
        """
        if stage == "fit" and not hasattr(self, "stream"):
            assert self.trainer is not None, "no trainer took this module"
            check_stage(self.plan, self.stage_name, self.trainer.num_nodes)
            run_dir = on_leader(lambda: self._run_dir or tempfile.mkdtemp(prefix="acereason-"))
            self.run_dir = Path(run_dir)
            self.model_dir = on_leader(lambda: model_directory(self.plan, self.run_dir))
            trained = self.trainer.lightning_module
            assert isinstance(trained, AceReasonModel)
            if trained.arch != read_model_arch(self.model_dir):
                raise ConfigError(
                    f"the trainer's model has another shape than {self.model_dir}, the plan's; "
                    "give the data model.path=HF_DIR of the model that is trained"
                )
            check_trainer(self.plan.trainer, trained.arch, has_cuda=torch.cuda.is_available())
            self._open()
            if self.trainer.is_global_zero and (names := left_out(self.plan, self.stage_name)):
                print(
                    f"acereason: NeMo's trainer leaves out of the plan of stage {self.stage_name}: {', '.join(names)}; "
                    "see docs/nemo.md",
                    file=sys.stderr,
                )

    def train_dataloader(self) -> Iterator[StepData]:
        """Endless: the trainer's ``max_steps`` ends it. A step's data is made when it is asked for, and no earlier."""
        while True:
            yield self.next_step()

    def next_step(self) -> StepData:
        """The data of the step that begins now."""
        raise NotImplementedError

    def end_step(self, metrics: StepMetrics) -> dict[str, float]:
        """Before the optimizer acts: check the step, and name what is to be logged."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The data's position, into NeMo's checkpoint."""
        return {"stream": self.stream.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the very next row."""
        self.stream.restore(state_dict["stream"])

    @property
    def step(self) -> int:
        """Of the stage, from 1: the one that is under way or comes next."""
        assert self.trainer is not None, "no trainer took this module"
        return int(self.trainer.global_step) + 1

    @property
    def learning_rate(self) -> float:
        """Of that step."""
        return stage_learning_rate(self.plan.stages[self.stage_name], self.step)

    def _open(self) -> None:
        raise NotImplementedError


class AceReasonSFTData(StageData):
    """Worked responses of a stage of kind ``sft``."""

    def next_step(self) -> StepData:
        """See :class:`StageData`."""
        samples = step_samples(self.stream.take(self._stage.sequences_per_step))
        longest = max(len(sample.token_ids) for sample in samples)
        rows = pack(samples, self.plan.trainer.row_tokens or row_length(longest))
        return StepData(rows, response_cross_entropy, 1.0)

    def end_step(self, metrics: StepMetrics) -> dict[str, float]:
        """See :class:`StageData`."""
        num_tokens = metrics.values["num_tokens"]
        values = {"entropy": metrics.values["sum_entropy"] / num_tokens, "tokens/trained": num_tokens}
        return trainer_metrics(dataclasses.replace(metrics, values=values))

    def _open(self) -> None:
        stage = self.plan.stages[self.stage_name]
        if not isinstance(stage, SftStage):
            raise ConfigError(f"stage {self.stage_name} is of kind {stage.kind}; want sft, or use RolloutDataModule")
        self._stage = stage
        self.stream = SftStream(
            load_rows(stage.data, SFT_FIELDS),
            stage.data,
            self.plan.prompt,
            tokenizer_of(self.plan, self.model_dir),
            seed=self.plan.seed,
            max_prompt_tokens=stage.max_prompt_tokens,
            max_response_tokens=stage.max_response_tokens,
        )


class RolloutDataModule(StageData):
    """Responses drawn with the weights of the moment, judged, of a stage of kind ``grpo``.

    Rank 0 owns the engine and the reward pool; :class:`nemo_acereason.nemo.weight_sync.WeightSync` gives the engine
    its weights, and without it the first step is refused.
    """

    engine: RolloutEngine | None = None
    """The leader's alone."""
    engine_step: int = -1
    """Steps behind the weights that the engine was last given; -1: none yet."""

    def next_step(self) -> StepData:
        """See :class:`StageData`.

        Raises:
            WeightSyncError: the engine's weights are not the model's present ones.
        """
        step = self.step
        if self.engine_step != step - 1:
            raise WeightSyncError(
                f"the engine has the weights of step {self.engine_step}, the model is at step {step - 1}; "
                "add the WeightSync callback to the trainer"
            )
        sampling = self.rules.sampling(self._sampling, self.stream.epoch)
        prompts = self.stream.take(self._stage.prompts_per_step)
        seeds = prompt_seeds(len(prompts), self.plan.seed, self.stage_name, step)

        def draw() -> list[ScoredGroup]:
            assert self.engine is not None
            reward = self._stage.reward
            self._scorer.use(reward, timeout_s=reward.timeout_s)
            samples = draw_and_score(self.engine, self._scorer, prompts, sampling, seeds)
            return collect_groups(self._scorer, prompts, samples, sampling.num_samples)

        self._groups = on_leader(draw)
        self.stream.observe(self._groups)
        rows = train_rows(self._groups, self._stage, self._advantage, self.plan.trainer.row_tokens)
        return StepData(rows, on_policy_loss, sampling.temperature)

    def end_step(self, metrics: StepMetrics) -> dict[str, float]:
        """See :class:`StageData`.

        Raises:
            MismatchError: sampler and model disagree by more than the stage's guards allow.
        """
        check_mismatch(self.stage_name, metrics, self._stage.guards)
        values = trainer_metrics(dataclasses.replace(metrics, values=mismatch_metrics(metrics.values)))
        self.rules.observe(values["entropy"])
        return values | rollout_metrics(self._groups)

    def state_dict(self) -> dict[str, Any]:
        """With the rules' memory."""
        return {**super().state_dict(), "rules": self.rules.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :class:`StageData`."""
        super().load_state_dict(state_dict)
        self.rules.restore(state_dict["rules"])

    def teardown(self, stage: str) -> None:
        """End the engine and the workers."""
        if stage == "fit" and self.engine is not None:
            self.engine.close()
            self._scorer.close()
            self.engine = None

    def _open(self) -> None:
        plan, stage = self.plan, self.plan.stages[self.stage_name]
        if not isinstance(stage, GrpoStage):
            raise ConfigError(f"stage {self.stage_name} is of kind {stage.kind}; want grpo, or use AceReasonSFTData")
        self._stage = stage
        self.rules = StageRules(self.stage_name, stage)
        self._advantage: Callable[..., torch.Tensor] = import_function(
            stage.advantage, f"stages.{self.stage_name}.advantage"
        )
        tokenizer = tokenizer_of(plan, self.model_dir)
        self.stream = PromptStream(
            load_rows(stage.data),
            stage.data,
            plan.prompt,
            tokenizer,
            seed=plan.seed,
            max_prompt_tokens=stage.max_prompt_tokens,
            domain=stage.domain,
            epoch_filter=stage.epoch_filter,
        )
        if self.rules.keep:
            keep_by_file(self.stage_name, stage.prompt_filter.file, self.stream, self.rules.keep)
        self._sampling = Sampling(
            stage.num_samples, stage.max_response_tokens, stage.temperature, stage.top_p, end_token_ids(tokenizer)
        )

        def start() -> None:
            self._scorer = RewardPool(
                stage.reward,
                num_workers=plan.reward_pool.num_workers,
                memory_bytes=int(plan.reward_pool.memory_gib * 2**30),
            )
            self.engine = build_engine(
                plan.rollout,
                model_dir=self.model_dir,
                dtype=plan.trainer.dtype if plan.rollout.dtype == "auto" else plan.rollout.dtype,
                max_model_len=stage.max_prompt_tokens + stage.max_response_tokens,
                seed=plan.seed,
                log_path=self.run_dir / "logs" / "engine.log",
            )

        on_leader(start)


class StepSampler(DataSampler):  # type: ignore[misc]
    """Between a data module and NeMo's step: deals a step's rows to this rank and gathers what the loss says.

    NeMo's own samplers count samples in batches of equal size; here a step has as many microbatches as its tokens need.
    """

    dataloader_type = "single"
    """NeMo looks at it: an iterator that is not to be cut into microbatches."""

    def __init__(self, data: StageData) -> None:
        self._data = data

    def setup(self, global_rank: int) -> None:
        """Nothing to set up."""

    def transform_dataloader(self, dataloader: Any, consumed_samples: int = 0) -> Any:  # noqa: ARG002
        """The steps as they are."""
        return dataloader

    def on_megatron_step_start(self, step: MegatronStep) -> MegatronStep:
        """Draw the step's data now, and give NeMo this rank's microbatches of it."""
        if not step.trainer.training:
            return step
        data, _, _ = next(step.data)
        works = self._works(data)
        # lengths vary and are told from stage to stage: seq_length is not used
        return dataclasses.replace(
            step, data=iter(works), num_microbatches=len(works), micro_batch_size=1, seq_length=1
        )

    def on_megatron_step_end(self, step: MegatronStep, microbatch_outputs: Sequence[dict[str, torch.Tensor]]) -> None:
        """Check the whole step, on every rank alike, and log it; the optimizer has not acted yet."""
        if not step.trainer.training:
            return
        mine: list[dict[str, float]] = []
        if parallel_state.get_tensor_model_parallel_rank() == 0:
            mine = [{name: float(value) for name, value in metrics.items()} for metrics in microbatch_outputs]
        values = metrics_over_ranks(mine)
        loss = values.pop("loss")
        found = StepMetrics(self._data.step, loss, float("nan"), self._data.learning_rate, values)
        metrics = self._data.end_step(found)
        del metrics["grad_norm"]  # NeMo logs it, behind the optimizer's step
        step.pl_module.log_dict(metrics, batch_size=1)

    def _works(self, data: StepData) -> list[Work]:
        assert self._data.trainer is not None
        model = self._data.trainer.lightning_module
        assert isinstance(model, AceReasonModel)
        config, trainer = model.config, self._data.plan.trainer
        cp_rank = parallel_state.get_context_parallel_rank()
        cp_size = parallel_state.get_context_parallel_world_size()
        share = rank_samples(
            data.rows,
            dp_rank=parallel_state.get_data_parallel_rank(),
            dp_size=parallel_state.get_data_parallel_world_size(),
            rows_per_microbatch=trainer.rows_per_microbatch,
            cost=sample_cost(model.arch),
            cp_size=cp_size,
        )
        # NeMo's strategy and precision plugin decide, which users change without the plan
        in_effect = dataclasses.replace(
            trainer,
            tensor_parallel=config.tensor_model_parallel_size,
            sequence_parallel=config.sequence_parallel,
            fp8=config.fp8_recipe if config.fp8 else "",
        )
        multiple = tokens_multiple(in_effect)
        device = torch.device(torch.cuda.current_device())
        return [
            Work(
                build_microbatch(samples, device, multiple=multiple, cp_rank=cp_rank, cp_size=cp_size),
                data.loss,
                data.temperature,
            )
            for samples in share
        ]


def samples_of_step(stage: StageConfig) -> int:
    """Samples that a step takes or draws."""
    if isinstance(stage, GrpoStage):
        return stage.prompts_per_step * stage.num_samples
    assert isinstance(stage, SftStage)
    return stage.sequences_per_step
