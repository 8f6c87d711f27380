"""What NeMo's trainer trains on: a step of rollouts, or of worked responses, as Lightning data modules.

A step's data is made when the step begins and not before: for rollouts with the weights of that moment, so training is
on-policy by construction. There is no prefetch, no worker process of a data loader and no sampler; which rank computes
which sample is decided as in our own trainer.
"""

from __future__ import annotations

import dataclasses
import datetime
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
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
from nemo_acereason.data.row_stream import NoPromptsLeft
from nemo_acereason.data.sft_dataset import SftStream, step_samples
from nemo_acereason.data.sources import SFT_FIELDS, load_rows
from nemo_acereason.errors import ConfigError, WeightSyncError
from nemo_acereason.launch.build import keep_by_file, model_directory, tokenizer_of
from nemo_acereason.launch.engine_server import invite
from nemo_acereason.launch.engines import EngineHosts, leader_host, open_hosts
from nemo_acereason.launch.scorer import start_scorer
from nemo_acereason.loops.grpo import check_mismatch, train_rows
from nemo_acereason.loops.learning_rate import stage_learning_rate
from nemo_acereason.loops.rules import StageRules
from nemo_acereason.loops.run import epochs_over, refuse_unjudged, stopped_by
from nemo_acereason.nemo.model import AceReasonModel, Work
from nemo_acereason.nemo.settings import check_precision, check_stage, in_effect, left_out
from nemo_acereason.observe.jsonl import drop_after
from nemo_acereason.observe.log import SAMPLES_FILE, append_samples
from nemo_acereason.observe.loggers import make_logger
from nemo_acereason.observe.metrics import rollout_metrics, trainer_metrics
from nemo_acereason.parallel.collectives import metrics_over_ranks, on_leader
from nemo_acereason.protocols import RolloutEngine, TokenLoss
from nemo_acereason.records import Sampling, ScoredGroup, StageHistory, StepMetrics, TrainRow
from nemo_acereason.resharding.layout import check_layout
from nemo_acereason.rollout.draw import collect_groups, draw_and_score, prompt_seeds
from nemo_acereason.rollout.engine import build_engine
from nemo_acereason.sandbox.pool import RewardPool
from nemo_acereason.sandbox.remote_pool import PoolServer, SpreadPool
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
        run_dir: for what belongs to the run and not to NeMo (engine's log, samples); empty: a temporary directory.
    Raises:
        ConfigError: no such stage, or its data or model are still to be given.
    """

    group: dist.ProcessGroup | None = None
    """All ranks, over host memory. NeMo's default group has NCCL alone on GPUs: that takes no host tensors, and gives
    up on ranks which wait for longer than 10 minutes, as they do while the leader draws."""

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
        self.history = StageHistory([])
        """What the stage has reported so far."""
        self.reported: dict[str, float] = {}
        """By the last step, see :meth:`end_step`."""
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
            num_nodes = self.trainer.num_nodes
            check_stage(self.plan, self.stage_name, num_nodes, self.trainer.world_size // num_nodes)
            if not self._run_dir and (num_nodes > 1 or self.plan.rollout.nodes):
                raise ConfigError("run_dir is empty: on several nodes give a directory that all of them see")
            self.group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=7))
            run_dir = on_leader(lambda: self._run_dir or tempfile.mkdtemp(prefix="acereason-"), self.group)
            self.run_dir = Path(run_dir).resolve()  # engines may stand elsewhere
            self.model_dir = on_leader(lambda: model_directory(self.plan, self.run_dir), self.group)
            trained = self.trainer.lightning_module
            assert isinstance(trained, AceReasonModel)
            if trained.arch != read_model_arch(self.model_dir):
                raise ConfigError(
                    f"the trainer's model has another shape than {self.model_dir}, the plan's; "
                    "give the data model.path=HF_DIR of the model that is trained"
                )
            check_precision(self.plan.trainer, trained.config)
            trainer = in_effect(self.plan.trainer, trained.config)
            check_trainer(trainer, trained.arch, has_cuda=torch.cuda.is_available())
            check_layout(
                trained.arch,
                tensor_parallel=trainer.tensor_parallel,
                pipeline_parallel=trainer.pipeline_parallel,
                virtual_pipeline=trainer.virtual_pipeline,
            )
            self.rules = StageRules(self.stage_name, self.plan.stages[self.stage_name])
            log = self.plan.log
            further = [make_logger(name, self.run_dir, log.logger_options.get(name, {})) for name in log.loggers]
            self.trainer.loggers = [*self.trainer.loggers, *further]
            self._open()
            if names := left_out(self.plan, self.stage_name):
                self.say(f"NeMo's trainer leaves out of its plan {', '.join(names)}; see docs/nemo.md")

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

    def begin(self) -> str | None:
        """Before the first step that is taken here, on every rank together.

        Returns:
            Why the stage is at its end already; None: it is not.
        """
        return self.reason_to_end()

    def after_step(self, grad_norm: float) -> str | None:
        """Behind the optimizer's step, on every rank together: what the stage's rules make of what it reported.

        Returns:
            Why the stage ends with this step; None: it goes on.
        Raises:
            RunStopped: a guard rail that stops was met.
        """
        step = self.step - 1
        self.history.steps.append({**self.reported, "grad_norm": grad_norm, "step": step})
        on_leader(lambda: self._meet_rails(step), self.group)
        return self.reason_to_end()

    def reason_to_end(self) -> str | None:
        """Why the stage ends behind the last step, its number of steps apart; None: it goes on."""
        if reason := epochs_over(self.plan.stages[self.stage_name], self.stream):
            return reason
        # what the leader reported decides for all
        return on_leader(lambda: self.rules.reason_to_end(self.history), self.group)

    def say(self, text: str) -> None:
        """One line of the stage on the leader's terminal."""
        assert self.trainer is not None, "no trainer took this module"
        if self.trainer.is_global_zero:
            print(f"acereason: stage {self.stage_name}: {text}", file=sys.stderr)

    def _meet_rails(self, step: int) -> None:
        for rail, reason in self.rules.rails_met(self.history):
            if rail.action == "stop":
                raise stopped_by(rail, reason, self.stage_name, step)
            self.say(reason)

    def state_dict(self) -> dict[str, Any]:
        """The data's position and what the rules go by, into NeMo's checkpoint."""
        return {"stream": self.stream.state(), "rules": self.rules.state(), "steps": list(self.history.steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the very next row, and decide as if never stopped."""
        self.stream.restore(state_dict["stream"])
        self.rules.restore(state_dict["rules"])
        self.history = StageHistory(list(state_dict["steps"]))

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
        self._epoch = self.stream.epoch
        samples = step_samples(self.stream.take(self._stage.sequences_per_step))
        longest = max(len(sample.token_ids) for sample in samples)
        rows = pack(samples, self.plan.trainer.row_tokens or row_length(longest))
        return StepData(rows, response_cross_entropy, 1.0)

    def end_step(self, metrics: StepMetrics) -> dict[str, float]:
        """See :class:`StageData`."""
        num_tokens = metrics.values["num_tokens"]
        entropy = metrics.values["sum_entropy"] / num_tokens
        values = {"entropy": entropy, "tokens/trained": num_tokens, "epoch": self._epoch}
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

    Rank 0 owns engines and reward pool, of which each node of the trainer has its part;
    :class:`nemo_acereason.nemo.weight_sync.WeightSync` gives the engines their weights, and without it the first step
    is refused.
    """

    hosts: EngineHosts | None = None
    """Where its engines stand."""
    engine: RolloutEngine | None = None
    """The leader's alone."""
    _scorer: RewardPool | SpreadPool | None = None
    _pool_server: PoolServer | None = None
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
        epoch = self.stream.epoch
        sampling = self.rules.sampling(self._sampling, epoch)
        prompts = self.stream.take(self._stage.prompts_per_step)
        seeds = prompt_seeds(len(prompts), self.plan.seed, self.stage_name, step)

        def draw() -> list[ScoredGroup]:
            assert self.engine is not None
            assert self._scorer is not None
            reward = self._stage.reward
            self._scorer.use(reward, timeout_s=reward.timeout_s)
            samples = draw_and_score(self.engine, self._scorer, prompts, sampling, seeds)
            groups = collect_groups(self._scorer, prompts, samples, sampling.num_samples)
            refuse_unjudged(groups, reward)
            return groups

        self._groups = on_leader(draw, self.group)
        self.stream.observe(self._groups)
        self._drawn = {"temperature": sampling.temperature, "group_size": sampling.num_samples, "epoch": epoch}
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
        values |= {**self._drawn, "num_prompts_left_out": self.stream.num_left_out}
        return values | rollout_metrics(self._groups)

    def begin(self) -> str | None:
        """See :class:`StageData`; forgets samples of steps behind the checkpoint that is gone on from."""
        on_leader(lambda: drop_after(self.run_dir / SAMPLES_FILE, self.step - 1), self.group)
        return super().begin()

    def after_step(self, grad_norm: float) -> str | None:
        """See :class:`StageData`; keeps some of the step's responses for a person to read."""
        step, limit = self.step - 1, self.plan.log.samples_per_step
        on_leader(lambda: append_samples(self.run_dir, self.stage_name, step, self._groups, limit), self.group)
        return super().after_step(grad_norm)

    def reason_to_end(self) -> str | None:
        """See :class:`StageData`; nothing to draw from is a reason too."""
        return super().reason_to_end() or self._nothing_left()

    def _nothing_left(self) -> str | None:
        """Found out here, for the trainer cannot end within a step."""
        if not (self._stage.epoch_filter.drop_solved or self._stage.epoch_filter.drop_unsolved):
            return None
        here = self.stream.state()
        try:
            self.stream.take(self._stage.prompts_per_step)
        except NoPromptsLeft as nothing:
            return str(nothing)
        self.stream.restore(here)
        return None

    def teardown(self, stage: str) -> None:
        """End the engines and the workers."""
        if stage == "fit":
            for part in (self.engine, self._scorer, self._pool_server, self.hosts):
                if part is not None:
                    part.close()
            self.engine, self._scorer, self._pool_server = None, None, None

    def on_exception(self, exception: BaseException) -> None:  # noqa: ARG002 - Lightning's signature
        """End them too: Lightning tears no data down then."""
        self.teardown("fit")

    def _open(self) -> None:
        plan, stage = self.plan, self.plan.stages[self.stage_name]
        if not isinstance(stage, GrpoStage):
            raise ConfigError(f"stage {self.stage_name} is of kind {stage.kind}; want grpo, or use AceReasonSFTData")
        self._stage = stage
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

        assert self.trainer is not None, "no trainer took this module"
        local_rank = self.trainer.local_rank
        hosts = self.hosts = open_hosts(
            plan.rollout,
            local_rank=local_rank,
            group=self.group,
            find_nodes=lambda: invite(self.run_dir, leader_host(), plan.rollout.nodes),
        )
        self._scorer, self._pool_server = start_scorer(
            plan.reward_pool, stage.reward, local_rank=local_rank, group=self.group
        )

        def start() -> None:
            self.engine = build_engine(
                plan.rollout,
                model_dir=self.model_dir,
                dtype=plan.trainer.dtype if plan.rollout.dtype == "auto" else plan.rollout.dtype,
                max_model_len=stage.max_prompt_tokens + stage.max_response_tokens,
                seed=plan.seed,
                log_path=self.run_dir / "logs" / "engine.log",
                places=hosts.places,
                start_worker=hosts.start_worker,
            )

        on_leader(start, self.group)


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
        values = metrics_over_ranks(mine, self._data.group)
        loss = values.pop("loss")
        found = StepMetrics(self._data.step, loss, float("nan"), self._data.learning_rate, values)
        metrics = self._data.reported = {**self._data.end_step(found), "stage_step": self._data.step}
        del metrics["grad_norm"]  # NeMo logs it, behind the optimizer's step
        step.pl_module.log_dict(metrics, batch_size=1)

    def _works(self, data: StepData) -> list[Work]:
        assert self._data.trainer is not None
        model = self._data.trainer.lightning_module
        assert isinstance(model, AceReasonModel)
        trainer = in_effect(self._data.plan.trainer, model.config)
        cp_rank = parallel_state.get_context_parallel_rank()
        cp_size = parallel_state.get_context_parallel_world_size()
        share = rank_samples(
            data.rows,
            dp_rank=parallel_state.get_data_parallel_rank(),
            dp_size=parallel_state.get_data_parallel_world_size(),
            rows_per_microbatch=trainer.rows_per_microbatch,
            # interleaved pipelines run as many at a time as they have stages
            multiple=trainer.pipeline_parallel if trainer.virtual_pipeline > 1 else 1,
            cost=sample_cost(model.arch),
            cp_size=cp_size,
        )
        multiple = tokens_multiple(trainer)
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
