"""What the processes of the NeMo tests run, started by torchrun: ``nemo_work.py DIRECTORY TENSOR PIPELINE CONTEXT``.

Leaves ``DIRECTORY/found_TENSOR_PIPELINE_CONTEXT.json``. One process alone also makes the checkpoints
that all layouts start from.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nemo_acereason.nemo  # noqa: F401 - first: lets Megatron run without CUDA

# isort: split
import fiddle as fdl
import lightning.pytorch as pl
import nemo_run as run
import psutil
import torch
import torch.distributed as dist
from lightning.pytorch.loggers import TensorBoardLogger
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallelConfig
from nemo import lightning as nl
from nemo.collections import llm
from nemo.lightning import io
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))
import trainer_work as recorded

from nemo_acereason.algorithm.policy_loss import on_policy_loss
from nemo_acereason.config.load import load_plan
from nemo_acereason.config.model_arch import read_model_arch
from nemo_acereason.config.schema import TrainerConfig
from nemo_acereason.data.byte_tokenizer import write_byte_tokenizer
from nemo_acereason.errors import ConfigError, RunStopped
from nemo_acereason.launch.build import model_directory
from nemo_acereason.launch.export import export_megatron
from nemo_acereason.loops.rules import StageRules
from nemo_acereason.nemo.checkpoints import hf_to_nemo
from nemo_acereason.nemo.data import AceReasonSFTData, RolloutDataModule, StageData, StepData
from nemo_acereason.nemo.model import AceReasonModel
from nemo_acereason.nemo.optim import stage_optimizer
from nemo_acereason.nemo.policy import NemoPolicy
from nemo_acereason.nemo.recipes.acereason_1_1_7b import finetune_recipe, rl_recipe
from nemo_acereason.nemo.settings import in_effect
from nemo_acereason.nemo.weight_sync import WeightSync
from nemo_acereason.observe.jsonl import append_lines, read_lines
from nemo_acereason.protocols import TokenLoss
from nemo_acereason.records import Receipt, StepMetrics
from nemo_acereason.resharding.name_map import hf_shapes
from nemo_acereason.trainer.model import tokens_multiple
from nemo_acereason.trainer.weights import RandomWeights

ALONE = (1, 1, 1)
E2E = Path(__file__).parents[1] / "e2e"
SMALL = str(E2E / "small.yaml")
CHANGES = [
    "rollout.engine=scripted",
    f"rollout.options.responses={E2E / 'scripted_answers.py'}:respond",
    "rollout.num_engines=1",
    "reward_pool.num_workers=1",
    "stages.math_short.guards.mean_logp_error=100",
    "stages.math_short.guards.max_logp_error=0",
]
RECIPE = str(Path(__file__).with_name("small.py"))
SFT = [
    *CHANGES,
    "stages.sft.data.options.sums.count=20",
    "stages.sft.data.options.programs.count=20",
    f"stages.sft.exits.enough.function={RECIPE}:enough",
    "stages.sft.exits.enough.options.steps=3",
]
SHIPPED = [
    "trainer.tensor_parallel=1",
    "trainer.sequence_parallel=false",
    "trainer.overlap_grad_reduce=true",
    "rollout.engine=scripted",
    f"rollout.options.responses={E2E / 'scripted_answers.py'}:respond",
    "reward_pool.num_workers=1",
    "stages.sft.data.source=nemo_acereason.data.toy_code:worked_sums_and_programs",
    "stages.sft.data.options={sums: {count: 8}, programs: {count: 8}}",
    "stages.sft.data.transform=''",
    "stages.sft.data.response=response",
    "stages.sft.sequences_per_step=8",
    "stages.sft.num_steps=5",
    "stages.sft.num_epochs=1",
    "stages.math_8k.data.source=nemo_acereason.data.toy_math:problems",
    "stages.math_8k.data.options={count: 20}",
    "stages.math_8k.prompts_per_step=4",
    "stages.math_8k.num_samples=4",
    "stages.math_8k.num_steps=2",
    "stages.math_8k.guards.mean_logp_error=100",
]
"""What makes the shipped recipe small; its changes of the model's config, bfloat16, recomputation and rules stay."""
ADAM = [
    "stages.math_short.optimizer.learning_rate=1e-3",
    "stages.math_short.optimizer.warmup_steps=0",
    "stages.math_short.optimizer.epsilon=1e-4",
    "stages.math_short.optimizer.weight_decay=0.1",
    "stages.math_short.optimizer.beta2=0.999",
]
"""The optimizer of tests/golden/trainer_steps_cpu.json."""


MODELS = {**recorded.MODELS, "qwen2_plain": {**recorded.BASE, "model_type": "qwen2"}}
"""NeMo's Qwen2 has no YaRN."""


def write_model(directory: Path, name: str) -> Path:
    """A Hugging Face directory of a recorded model, with the weights that the golden numbers began with."""
    write_byte_tokenizer(directory)
    (directory / "config.json").write_text(json.dumps({**MODELS[name], "torch_dtype": "float32"}))
    return write_weights(directory)


def write_weights(directory: Path) -> Path:
    """Weights for the ``config.json`` in a directory."""
    arch = read_model_arch(directory)
    source = RandomWeights(arch, 3, 0.1)
    tensors = {
        key: source.read(key, [tuple(slice(0, size) for size in shape)])[0].clone()
        for key, shape in hf_shapes(arch).items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


class Recorder(pl.Callback, io.IOMixin):  # type: ignore[misc]
    """What was logged, step by step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


class RecordedBatch(StageData):
    """The recorded batch at every step."""

    def next_step(self) -> StepData:
        loss: TokenLoss = on_policy_loss
        return StepData(recorded.rows(), loss, 1.0)

    def end_step(self, metrics: StepMetrics) -> dict[str, float]:
        return {"loss": metrics.loss, "grad_norm": metrics.grad_norm}

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        self.stream = _NoStream()
        self.rules = StageRules(self.stage_name, self.plan.stages[self.stage_name])


class _NoStream:
    epochs_done = 0

    def state(self) -> dict[str, Any]:
        return {}


def fit(
    data: StageData,
    stage: str,
    model_dir: Path,
    log_dir: Path,
    *,
    steps: int,
    layout: tuple[int, int, int],
    changes: list[str],
) -> list[dict[str, float]]:
    """Train with NeMo as its users do; what was logged at each step."""
    recorder = Recorder()
    trainer = nl.Trainer(
        devices=int(os.environ["WORLD_SIZE"]),
        accelerator="cpu",
        max_steps=steps,
        strategy=nl.MegatronStrategy(
            tensor_model_parallel_size=layout[0],
            pipeline_model_parallel_size=layout[1],
            context_parallel_size=layout[2],
            pipeline_dtype=torch.float32,
            ckpt_optim_fully_reshardable=True,  # another layout can go on
            ckpt_async_save=False,
            ddp=DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True),
        ),
        limit_val_batches=0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        callbacks=[recorder],
    )
    model = AceReasonModel.from_hf(model_dir / "hf", dtype="float32")
    llm.finetune(
        model,
        data,
        trainer,
        log=nl.NeMoLogger(
            log_dir=str(log_dir),
            use_datetime_version=False,
            ckpt=nl.ModelCheckpoint(
                every_n_train_steps=1000, save_last=True, save_top_k=-1, monitor=None, save_optim_on_train_end=True
            ),
        ),
        resume=nl.AutoResume(
            restore_config=nl.RestoreConfig(path=str(model_dir / "start")),
            resume_if_exists=True,
            resume_ignore_no_checkpoint=True,
        ),
        optim=stage_optimizer(SMALL, stage, changes),
        tokenizer=None,
    )
    return recorder.steps


def convert(directory: Path) -> Any:
    """A Hugging Face model into NeMo, by NeMo's import call and as NeMo's own class, and out again."""
    write_model(directory / "recorded" / "hf", "qwen2_tied")
    small = model_directory(load_plan(SMALL), directory / "small")
    write_weights(small.rename(directory / "small" / "hf"))
    for name in ("recorded", "small"):
        source = directory / name / "hf"
        model = AceReasonModel.from_hf(source, dtype="float32")
        llm.import_ckpt(model, f"hf://{source}", output_path=directory / name / "start")
    page(directory / "small" / "hf", directory / "page")
    found: dict[str, Any] = {"imported": sorted(path.name for path in (directory / "small" / "start").iterdir())}
    for name in ("qwen2_tied", "qwen2_plain", "llama_deep"):
        folder = directory / name
        model_dir = write_model(folder / "hf", name)
        hf_to_nemo(model_dir, folder / "start", dtype="float32")
        export_megatron(folder / "start", model_dir, folder / "back")
        found[name] = {
            "difference": _largest_difference(folder / "start", model_dir),
            "is_bit_exact": _tensors(folder / "back") == _tensors(model_dir),
        }
    return found


def page(model_dir: Path, start: Path) -> None:
    """Run what docs/nemo.md shows, up to the recipes it makes and changes."""
    text = (Path(__file__).parents[2] / "docs" / "nemo.md").read_text()
    (code,) = re.findall(r"```python\n(import nemo_acereason\.nemo.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("HF_DIR", str(model_dir)).replace('"start"', repr(str(start))), names)
    assert (start / "weights").is_dir()
    assert (names["sft"].data.stage, names["rl"].data.stage) == ("sft", "math_8k")
    (code,) = re.findall(r"```python\n(import nemo_run as run\nfrom nemo import.*?)```", text, re.DOTALL)
    exec(code, names)
    assert fdl.build(names["sft"].trainer).strategy.precision_plugin.dtype_config.fp8 == "hybrid"


def _largest_difference(nemo_checkpoint: Path, model_dir: Path) -> float:
    """Of the logits of NeMo's model, opened by NeMo alone, from those of transformers."""
    tokens = torch.arange(24)[None] * 7 % recorded.VOCAB_SIZE
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)(tokens).logits
        model, trainer = io.ModelConnector().nemo_load(nemo_checkpoint)
        later = torch.ones(1, 1, 24, 24, dtype=torch.bool).triu(1)
        got = model.eval()(tokens, torch.arange(24)[None], later)
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
    del trainer
    return float((got[..., : recorded.VOCAB_SIZE] - wanted).abs().max())


def _tensors(model_dir: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for file in sorted(model_dir.glob("*.safetensors")):
        found |= {name: [str(tensor.dtype), tensor.tolist()] for name, tensor in load_file(file).items()}
    return found


def train(directory: Path, layout: tuple[int, int, int]) -> Any:
    """Steps of each kind in one layout, from the imported checkpoint."""
    logs = directory / f"logs_{_name(layout)}"
    changes = [*CHANGES, *ADAM]
    found: dict[str, Any] = {}
    found["recorded"] = fit(
        RecordedBatch(SMALL, "math_short", changes),
        "math_short",
        directory / "recorded",
        logs / "recorded",
        steps=3,
        layout=layout,
        changes=changes,
    )
    found["sft"] = fit(
        AceReasonSFTData(SMALL, "sft", SFT),
        "sft",
        directory / "small",
        logs / "sft",
        steps=5,
        layout=layout,
        changes=SFT,
    )
    found["rl"], receipt = rollout(directory / "small", logs / "rl", layout, [])
    found["version"], found["num_tensors"] = receipt.version, receipt.num_tensors
    return found


def resume(directory: Path) -> Any:
    """An RL stage saved behind its second step, made longer, and gone on with to the third; an SFT stage at its end."""
    logs = directory / "logs_resume"
    changes = ["checkpoint.every_steps=1", "checkpoint.keep_last=1", "log.samples_per_step=2", "log.loggers=[csv]"]
    first, _ = rollout(directory / "small", logs, ALONE, [*changes, "stages.math_short.num_steps=2"])
    run = logs / "acereason_1_1_7b_math_short"
    append_lines(run / "acereason" / "samples.jsonl", [{"step": 3, "of": "a step that was not saved"}])
    second, receipt = rollout(directory / "small", logs, ALONE, changes)
    ended = fit(
        AceReasonSFTData(SMALL, "sft", SFT),
        "sft",
        directory / "small",
        directory / f"logs_{_name(ALONE)}" / "sft",
        steps=5,
        layout=ALONE,
        changes=SFT,
    )
    return {
        "steps": [*first, *second],
        "version": receipt.version,
        "checkpoints": sorted(path.name for path in (run / "checkpoints").iterdir()),
        "samples": [[line["step"], line["verdict"]] for line in read_lines(run / "acereason" / "samples.jsonl")],
        "csv": [path.read_text().splitlines()[0].split(",") for path in (run / "acereason").rglob("metrics.csv")],
        "tensorboard": written_scalars(logs),
        "steps_behind_the_end": len(ended),
    }


def written_scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show, by name: steps and values."""
    shown: dict[str, list[tuple[int, float]]] = {}
    for folder in sorted({file.parent for file in directory.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(folder))
        events.Reload()
        for name in events.Tags()["scalars"]:
            shown.setdefault(name, []).extend((event.step, event.value) for event in events.Scalars(name))
    return shown


def deep(directory: Path, layout: tuple[int, int, int]) -> Any:
    """An RL stage of six layers, from weights in NeMo's own class; two slices to each rank of a pipeline."""
    virtual = f"trainer.virtual_pipeline={1 if layout == ALONE else 2}"
    steps, receipt = rollout(directory / "llama_deep", directory / f"logs_deep_{_name(layout)}", layout, [virtual])
    return {"steps": steps, "num_tensors": receipt.num_tensors, "version": receipt.version}


SOLVED = [
    f"rollout.options.responses={RECIPE}:solve",
    "stages.math_short.data.options.count=8",
    "stages.math_short.epoch_filter.drop_solved=true",
    "stages.math_short.guards.rails.no_signal.options.steps=1",
    "checkpoint.every_steps=1",
]
"""Every answer is right: two steps are warned of, then nothing is left to draw."""


def precision(directory: Path) -> Any:
    """What FP8 of NeMo's plugin, or of a plan, makes of a model's config, and how FP8 is refused where it cannot be."""
    model_dir, start = str(directory / "small" / "hf"), str(directory / "small" / "start")
    found: dict[str, Any] = {"multiple": {}}
    for recipe in ("delayed", "blockwise"):
        fp8 = nl.MegatronMixedPrecision(precision="bf16-mixed", fp8="hybrid", fp8_recipe=recipe)
        trainer = nl.Trainer(devices=1, accelerator="cpu", strategy=nl.MegatronStrategy(), plugins=fp8)
        model = AceReasonModel.from_hf(model_dir)
        trainer.strategy.connect(model)
        found["multiple"][recipe] = tokens_multiple(in_effect(TrainerConfig(), model.config))
    changes = [*SHIPPED, "trainer.fp8=tensorwise", "trainer.fp8_bf16_layers=1"]
    recipe = finetune_recipe(model_dir, start, dir=str(directory / "logs_fp8"), num_gpus_per_node=1, changes=changes)
    config = fdl.build(recipe.model).config
    found["of_plan"] = [config.fp8, config.fp8_recipe, config.fp8_amax_history_len, config.num_layers_at_end_in_bf16]
    try:
        execute(recipe)
    except ConfigError as error:
        found["refused"] = str(error)
    return found


def stopped(directory: Path) -> Any:
    """What a guard rail that stops leaves behind. The last job of a process: NeMo's telemetry takes no other then."""
    logs = directory / "logs_stopped"
    before = set(psutil.Process().children())
    try:
        rollout(directory / "small", logs, ALONE, [*SOLVED, "stages.math_short.guards.rails.no_signal.action=stop"])
    except RunStopped as error:
        return {
            "said": str(error),
            "checkpoints": [path.name for path in logs.rglob("checkpoints/*")],
            "processes": [process.cmdline() for process in set(psutil.Process().children()) - before],
        }


def rollout(
    model_dir: Path, log_dir: Path, layout: tuple[int, int, int], changes: list[str]
) -> tuple[list[dict[str, float]], Receipt]:
    """A stage by its recipe: what was logged, and the receipt of the last weights that the engine was sent."""
    recipe = rl_recipe(
        str(model_dir / "hf"),
        str(model_dir / "start"),
        "math_short",
        dir=str(log_dir),
        num_gpus_per_node=math.prod(layout),
        recipe=RECIPE,
        changes=[
            *CHANGES,
            f"trainer.tensor_parallel={layout[0]}",
            f"trainer.pipeline_parallel={layout[1]}",
            f"trainer.context_parallel={layout[2]}",
            "stages.math_short.num_steps=3",
            *changes,
        ],
    )
    recipe.log.tensorboard = run.Config(TensorBoardLogger, save_dir="shown", name="")
    stage, steps = execute(recipe)
    of_type = {type(callback): callback for callback in stage.keywords["trainer"].callbacks}
    return steps, of_type[WeightSync].last_receipt


def execute(recipe: Any) -> tuple[Any, list[dict[str, float]]]:
    """Run a recipe: what it built, and what was logged."""
    recipe.trainer.callbacks.append(run.Config(Recorder))
    stage = fdl.build(recipe)
    stage()
    (recorder,) = (one for one in stage.keywords["trainer"].callbacks if isinstance(one, Recorder))
    return stage, recorder.steps


def chain(directory: Path) -> Any:
    """The shipped recipes, SFT then RL, by no more than what makes them small; the end exported as the page shows."""
    model_dir, logs = directory / "small" / "hf", directory / "logs_chain"
    recipe = finetune_recipe(
        str(model_dir), str(directory / "small" / "start"), dir=str(logs), num_gpus_per_node=1, changes=SHIPPED
    )
    recipe.trainer.plugins = run.Config(nl.MegatronMixedPrecision, precision="bf16-mixed")
    sft, sft_steps = execute(recipe)
    rl, rl_steps = execute(
        rl_recipe(str(model_dir), str(last_checkpoint(sft)), dir=str(logs), num_gpus_per_node=1, changes=SHIPPED)
    )
    trainer = rl.keywords["trainer"]
    held = {
        name: torch.zeros(shape, dtype=torch.bfloat16)
        for name, shape in hf_shapes(trainer.lightning_module.arch).items()
    }
    for name, where, values in NemoPolicy(
        list(trainer.strategy.megatron_parallel), trainer.lightning_module.arch
    ).hf_shards():
        held[name][where] = values
    data = rl.keywords["data"]
    exported = export_as_the_page_shows(last_checkpoint(rl), data.model_dir, directory / "exported")
    config = trainer.lightning_module.config
    return {
        "sft": sft_steps,
        "rl": rl_steps,
        "dtypes": [dtypes(sft), dtypes(rl)],
        "num_engines": data.plan.rollout.num_engines,
        "rotary_base": config.rotary_base,
        "recompute": config.recompute_granularity,
        "overlap": trainer.strategy.ddp_config.overlap_grad_reduce,
        "is_export_bit_exact": exported
        == {name: [str(values.dtype), values.tolist()] for name, values in held.items()},
        "exported_theta": read_model_arch(directory / "exported").rope_theta,
    }


def dtypes(stage: Any) -> list[list[str]]:
    """Of a trained model's weights, and of what its optimizer acts on."""
    trainer = stage.keywords["trainer"]
    (optimizer,) = trainer.optimizers
    held = [parameter for group in optimizer.mcore_optimizer.param_groups for parameter in group["params"]]
    return [
        sorted({str(one.dtype) for one in some}) for some in (trainer.strategy.megatron_parallel.parameters(), held)
    ]


def refused_slices(directory: Path, layout: tuple[int, int, int]) -> str:
    """What is said of interleaving in a pipeline of two, which would wait for ever."""
    try:
        rollout(directory / "small", directory / "logs_slices", layout, ["trainer.virtual_pipeline=2"])
    except ConfigError as error:
        return str(error)
    return ""


def refusals(directory: Path) -> dict[str, str]:
    """What the recipes say to plans that this host cannot do, by what is wrong with them."""
    given = {
        "copy": {"num_nodes": 2, "changes": ["trainer.pipeline_parallel=4"]},
        "filter": {"stage": "math_24k"},
        "param gather": {"changes": ["trainer.overlap_param_gather=true", "trainer.overlap_grad_reduce=true"]},
        "loop": {"changes": ["stages.math_8k.loop=my:loop"]},
    }
    said = {}
    for what, arguments in given.items():
        try:
            rl_recipe(str(directory / "small" / "hf"), "start", **arguments)
        except ConfigError as refusal:
            said[what] = str(refusal)
    data = RolloutDataModule(SMALL, "math_short", [*CHANGES, "trainer.tensor_parallel=1"])
    data.trainer = SimpleNamespace(num_nodes=2, world_size=2)
    try:
        data.setup("fit")
    except ConfigError as refusal:
        said["run_dir"] = str(refusal)
    return said


def last_checkpoint(stage: Any) -> Path:
    """What NeMo calls so."""
    (found,) = Path(stage.keywords["trainer"].checkpoint_callback.dirpath).glob("*-last")
    return found


def export_as_the_page_shows(checkpoint: Path, model_dir: Path, to: Path) -> dict[str, list[Any]]:
    text = (Path(__file__).parents[2] / "docs" / "nemo.md").read_text()
    (line,) = re.findall(r"^acereason (export .*)$", text, re.MULTILINE)
    places = {"CHECKPOINT": checkpoint, "HF_DIR": model_dir, "NEW_HF_DIR": to}
    command = [str(places.get(word, word)) for word in line.split()]
    own = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    subprocess.run([str(Path(sys.executable).with_name("acereason")), *command], check=True, timeout=120, env=own)
    return _tensors(to)


def _name(layout: tuple[int, int, int]) -> str:
    return "_".join(map(str, layout))


def main() -> None:
    """All jobs of one layout in one set of processes: to start them costs more than what they do."""
    directory = Path(sys.argv[1])
    layout = (int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    is_alone = int(os.environ["WORLD_SIZE"]) == 1
    found = {"convert": convert(directory)} if is_alone else {}
    if layout[1] == 3:
        found["deep"] = deep(directory, layout)
    else:
        found["train"] = train(directory, layout)
    if layout == (1, 2, 1):
        found["refused_slices"] = refused_slices(directory, layout)
    if is_alone:
        found["deep"] = deep(directory, layout)
        found["resume"] = resume(directory)
        found["filtered"] = rollout(directory / "small", directory / "logs_filtered", ALONE, SOLVED)[0]
        found["chain"] = chain(directory)
        found["refused"] = refusals(directory)
        found["precision"] = precision(directory)
        found["stopped"] = stopped(directory)
    if os.environ["RANK"] == "0":
        (directory / f"found_{_name(layout)}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort an interpreter that ends well


if __name__ == "__main__":
    main()
