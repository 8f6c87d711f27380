"""The command line: ``acereason VERB``. One verb per loop; each imports only what it needs."""

from __future__ import annotations

import enum
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from nemo_acereason.cli_cluster import doctor, engines, logs, status, submit
from nemo_acereason.cli_curate import curate
from nemo_acereason.cli_eval import compare, evaluate, watch
from nemo_acereason.cli_plan import DataFiles, ModelDir, Recipe, Settings, YamlFiles, load_recipe
from nemo_acereason.cli_study import study
from nemo_acereason.config.load import load_plan, read_yaml
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
app.add_typer(study, name="study")
app.command()(curate)
app.command("eval")(evaluate)
app.command()(compare)
app.command()(watch)
for verb in (submit, status, logs, engines, doctor):
    app.command()(verb)

INTERRUPTED = 130


class Kind(enum.Enum):
    """Which verifier judges a file."""

    MATH = "math"
    CODE = "code"


@app.command()
def run(
    recipe: Recipe,
    settings: Settings = None,
    model: ModelDir = None,
    data: DataFiles = None,
    config: YamlFiles = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run directory; default runs/RECIPE.")] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on with a run though the recipe is not the one it began with.")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Shipped cluster, or .yaml file, to fit; default: this machine.")
    ] = None,
    last: Annotated[str, typer.Option("--last", help="The stage to end with; default: the recipe's last.")] = "",
) -> None:
    """Run a recipe to its report, or go on with one where it stopped.

    Ends with status 0, 2 for something you can mend, 3 when a guard stopped the run, 4 when the engine failed.
    """
    plan = load_recipe(recipe, settings, model, data, config)
    from nemo_acereason.config.cluster import load_cluster
    from nemo_acereason.launch.start import start

    run_dir = out or Path("runs") / plan.name
    fits = load_cluster(cluster) if cluster else None
    summary = start(plan, run_dir, accept_changes=accept_changes, cluster=fits, last=last)
    print(_result(summary, run_dir))


@app.command()
def plan(
    recipe: Recipe,
    settings: Settings = None,
    model: ModelDir = None,
    data: DataFiles = None,
    config: YamlFiles = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every setting with its source, as JSON.")] = False,
    as_diff: Annotated[
        bool, typer.Option("--diff", help="What RECIPE OTHER changes; without OTHER, what the settings change.")
    ] = False,
    with_sources: Annotated[
        bool, typer.Option("--sources/--no-sources", help="List where each setting comes from.")
    ] = True,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Check memory, disk and time on a shipped cluster, or a .yaml file.")
    ] = None,
) -> None:
    """Show what a recipe would run, without running it; model and data may still be missing."""
    if as_diff:
        _show_diff(recipe, settings or [], model, data, config, as_json)
        return
    resolved = load_recipe(recipe, settings, model, data, config, needs_inputs=False)
    from nemo_acereason.launch.show import plan_json, show_plan

    if as_json:
        print(json.dumps(plan_json(resolved), indent=2))
        return
    show_plan(resolved, with_sources=with_sources and cluster is None)
    if cluster is not None:
        from nemo_acereason.config.cluster import load_cluster
        from nemo_acereason.config.known_models import planned_arch
        from nemo_acereason.launch.capacity_table import show_capacity

        show_capacity(resolved, planned_arch(resolved.model), load_cluster(cluster))


@app.command()
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="RUN/checkpoints/step_N, or RUN for its newest; with --model one of NeMo 2, Megatron-Bridge or -LM."
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Hugging Face directory to write; must not exist.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="Hugging Face directory of the same model, for another tool's.")
    ] = None,
) -> None:
    """Write a checkpoint as a Hugging Face directory that transformers and vLLM open."""
    from nemo_acereason.launch.export import export_checkpoint, export_megatron

    if model is None:
        export_checkpoint(checkpoint, to)
    else:
        export_megatron(checkpoint, model, to)
    print(f"wrote {to}")


@app.command()
def report(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Of a run or an evaluation.")]) -> None:
    """Make DIR/report.html and DIR/summary.json again, also of what is in progress."""
    from nemo_acereason.evaluation.watch import write_any_report

    print(f"wrote {write_any_report(directory)}")


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


@sandbox.command("doctor")
def sandbox_doctor(
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


def _show_diff(
    recipe: str,
    arguments: list[str],
    model: Path | None,
    data: list[str] | None,
    config: list[Path] | None,
    as_json: bool,
) -> None:
    """``arguments``: the other recipe, or a YAML file of differences, where the first has no ``=``; then settings."""
    from nemo_acereason.launch.plan_diff import diff_json, diff_plans, show_diff

    other, settings = recipe, arguments
    if arguments and "=" not in arguments[0]:
        other, settings = arguments[0], arguments[1:]
        if other.endswith((".yaml", ".yml")) and "base" not in read_yaml(other):
            config, other = [Path(other), *(config or [])], recipe
    before = load_plan(recipe, needs_inputs=False)
    diff = diff_plans(before, load_recipe(other, settings, model, data, config, needs_inputs=False))
    if as_json:
        print(json.dumps(diff_json(diff), indent=2))
    else:
        show_diff(diff)


def _result(summary: dict[str, Any], run_dir: Path) -> str:
    lines = []
    for stage in summary["stages"]:
        figures = [
            f"{name} {when} {metric} {value:.1%}"
            for name, result in stage["eval"].items()
            for when in ("before", "after")
            for metric, value in (result[when] or {}).items()
            if metric.startswith("avg@") and "stderr" not in metric
        ]
        lines.append(
            f"{stage['name']}: {stage['steps']} steps, {stage['seconds']:.0f} s  {'  '.join(figures)}".rstrip()
        )
    return "\n".join([*lines, f"report: {run_dir / 'report.html'}"])
