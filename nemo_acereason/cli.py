"""The command line: ``acereason VERB``. One verb per loop; each imports only what it needs."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from nemo_acereason.config.load import load_plan, merge
from nemo_acereason.config.schema import Plan
from nemo_acereason.errors import AceReasonError

app = typer.Typer(
    name="acereason",
    help="AceReason-Nemotron post-training, end to end: SFT cold start, strictly on-policy GRPO in stages, evaluation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

sandbox = typer.Typer(help="How model-written programs are held.", no_args_is_help=True)
app.add_typer(sandbox, name="sandbox")

INTERRUPTED = 130


class Kind(enum.Enum):
    """Which verifier judges a file."""

    MATH = "math"
    CODE = "code"


Recipe = Annotated[str, typer.Argument(help="A shipped recipe, a .py file with recipe(), or a .yaml file with `base`.")]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. trainer.tensor_parallel=2.")
]
ModelDir = Annotated[Path | None, typer.Option("--model", help="Hugging Face directory of the policy.")]
DataFile = Annotated[
    Path | None, typer.Option("--data", help="Data file of every stage, and of held-out sets that name none.")
]
YamlFiles = Annotated[list[Path] | None, typer.Option("--config", help="YAML file of settings; may be repeated.")]


@app.command()
def run(
    recipe: Recipe,
    settings: Settings = None,
    model: ModelDir = None,
    data: DataFile = None,
    config: YamlFiles = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run directory; default runs/RECIPE.")] = None,
) -> None:
    """Run a recipe to its report, or go on with one where it stopped.

    Ends with status 0, 2 for something you can mend, 3 when a guard stopped the run, 4 when the engine failed.
    """
    plan = _plan(recipe, settings, model, data, config)
    from nemo_acereason.launch.start import start

    run_dir = out or Path("runs") / plan.name
    summary = start(plan, run_dir)
    print(_result(summary, run_dir))


@app.command()
def plan(
    recipe: Recipe,
    settings: Settings = None,
    model: ModelDir = None,
    data: DataFile = None,
    config: YamlFiles = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole resolved plan as JSON.")] = False,
) -> None:
    """Show what a recipe would run, without running it."""
    resolved = _plan(recipe, settings, model, data, config)
    if as_json:
        print(json.dumps(dataclasses.asdict(resolved), indent=2))
        return
    from nemo_acereason.launch.show import show_plan

    show_plan(resolved)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="RUN/checkpoints/step_N, or RUN for its newest checkpoint.")],
    to: Annotated[Path, typer.Option("--to", help="Hugging Face directory to write; must not exist.")],
) -> None:
    """Write a checkpoint as a Hugging Face directory that transformers and vLLM open."""
    from nemo_acereason.launch.export import export_checkpoint

    export_checkpoint(checkpoint, to)
    print(f"wrote {to}")


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="Run directory.")]) -> None:
    """Make RUN/report.html and RUN/summary.json again, also of a run in progress."""
    from nemo_acereason.evaluation.report import write_report
    from nemo_acereason.evaluation.summary import write_summary

    write_summary(run_dir)
    print(f"wrote {write_report(run_dir)}")


@app.command()
def verify(
    kind: Annotated[Kind, typer.Argument(help="What the rows hold.")],
    source: Annotated[Path, typer.Option("--input", help="Rows to judge: JSON lines.")],
    target: Annotated[Path, typer.Option("--output", help="Verdicts, a row per input row, in the same order.")],
    workers: Annotated[int, typer.Option("--workers", min=1, help="Judging processes.")] = 2,
    as_report: Annotated[
        bool, typer.Option("--report", help="Print counts, and error rates of labelled rows.")
    ] = False,
) -> None:
    """Judge responses with the verifiers that training uses."""
    from nemo_acereason.evaluation.verify import verify_file

    summary = verify_file(kind.value, source, target, workers, as_report)
    for line, problem in [] if as_report else summary.bad_rows:
        print(f"{source} line {line}: {problem}", file=sys.stderr)


@sandbox.command()
def doctor(
    isolation: Annotated[str, typer.Option("--isolation", help="As a recipe would ask for it.")] = "auto",
) -> None:
    """Show what this machine offers for holding model-written programs, and try what it holds back."""
    from nemo_acereason.sandbox.doctor import doctor as findings

    for finding in findings(isolation):
        print(f"{'ok  ' if finding.is_good else 'BAD '} {finding.name}: {finding.detail}")


def main() -> None:
    """Entry point: a user's mistake is one line on standard error, never a traceback."""
    try:
        status = app(prog_name="acereason", standalone_mode=False)
    except AceReasonError as error:
        print(f"acereason: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except TyperException as error:  # a wrong verb, option or argument; empty: help was asked for by giving none
        if message := error.format_message():
            print(f"acereason: {message.rstrip('.')}; see acereason --help", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    if status == INTERRUPTED:  # typer makes this of a KeyboardInterrupt
        print("acereason: stopped; start again to go on from the last checkpoint", file=sys.stderr)
    raise SystemExit(status)


def _plan(
    recipe: str,
    settings: list[str] | None,
    model: Path | None,
    data: Path | None,
    config: list[Path] | None,
) -> Plan:
    return load_plan(recipe, settings or [], config or [], adjust=lambda plan: _with_inputs(plan, model, data))


def _with_inputs(plan: Plan, model: Path | None, data: Path | None) -> Plan:
    """``--model`` and ``--data`` as settings; a recipe's model from nothing gives way to ``--model``."""
    change: dict[str, Any] = {}
    if model is not None:
        from_nothing: dict[str, Any] = {"hf_config": {}, "tokenizer": ""} if plan.model.hf_config else {}
        settings = dataclasses.replace(plan.model, path=str(model), **from_nothing)
        plan = dataclasses.replace(plan, model=settings)
    if data is not None:
        source = {"data": {"source": str(data)}}
        change["stages"] = dict.fromkeys(plan.stages, source)
        change["evaluations"] = {
            name: source for name, held_out in plan.evaluations.items() if not held_out.data.source
        }
    return merge(plan, change, where="command line")


def _result(summary: dict[str, Any], run_dir: Path) -> str:
    lines = []
    for stage in summary["stages"]:
        figures = [
            f"{name} {when} {metric} {value:.1%}"
            for name, result in stage["eval"].items()
            for when, scores in result.items()
            for metric, value in scores.items()
            if metric.startswith("avg@") and "stderr" not in metric
        ]
        lines.append(
            f"{stage['name']}: {stage['steps']} steps, {stage['seconds']:.0f} s  {'  '.join(figures)}".rstrip()
        )
    return "\n".join([*lines, f"report: {run_dir / 'report.html'}"])
