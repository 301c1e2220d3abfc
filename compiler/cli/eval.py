"""`graphc eval`: the figures of a run's network, under every inference mode it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from compiler.cli._arguments import json_option
from compiler.cli._failures import failure
from compiler.cli._output import ap_text, figures_text, print_json

EPILOG = """\b
Examples:
  graphc eval runs/dgnet_digits-1a2b3c4d
  graphc eval runs/dgnet_fashion-1a2b3c4d --data-dir ~/data --json
  graphc eval runs/dgnet_cells-1a2b3c4d --part test --pictures 4
"""
FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
LABELS = {
    "soft": "soft (training weights, no edge closed)",
    "masked_consistent": "masked, consistent (open edges keep their training weight)",
    "masked_literal": "masked, literal (open edges weigh a)",
    "masked_consistent_reestimated": "masked, consistent, batch norm re-estimated under it",
    "masked_literal_reestimated": "masked, literal, batch norm re-estimated under it",
}


@click.command(epilog=EPILOG)
@click.argument("run", type=FOLDER)
@click.option("--data", help="Other data than the run was trained on; see graphc train.")
@click.option("--data-dir", type=FOLDER, help="Where torchvision's sets are now.")
@click.option(
    "--part", help="Of detection data: test, if there is instances_test.json.  [default: val]"
)
@click.option(
    "--pictures",
    type=click.IntRange(1),
    metavar="N",
    help="Of detection: draw true and found boxes of N images into RUN/pictures/.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Processes that read an image folder.",
)
@click.option(
    "--goal-accuracy",
    type=click.FloatRange(0, 1),
    help="Exit with 1 if the test accuracy is lower.",
)
@json_option
def command(
    run: Path,
    data: str | None,
    data_dir: Path | None,
    part: str | None,
    pictures: int | None,
    device: str,
    workers: int,
    goal_accuracy: float | None,
    as_json: bool,
) -> None:
    """Measures the trained network in the folder RUN: its test accuracy, or average precision.

    Networks with routed edges are measured in soft mode, and in masked mode under both
    inference rules; the figure proper is that of the rule in the spec.
    """
    from compiler.training.runs import evaluate_run
    from runtime.training.errors import TrainingError

    try:
        result = evaluate_run(
            run,
            data=data,
            data_dir=data_dir,
            part=part,
            device=device,
            workers=workers,
        )
        if pictures is not None:
            from compiler.training.detector import picture_run

            drawn = picture_run(run, data=data, part=part, count=pictures, device=device)
            click.echo(f"written: {', '.join(str(path) for path in drawn)}", err=True)
    except TrainingError as error:
        raise failure(error) from error
    if as_json:
        print_json(result)
    else:
        _print(run, result)
    if goal_accuracy is not None and "accuracy" not in result:
        raise click.UsageError("--goal-accuracy is for classification: this run has none")
    if goal_accuracy is not None and result["accuracy"] < goal_accuracy:
        found = f"test accuracy {result['accuracy']:.4f} is below {goal_accuracy}"
        click.echo(f"goal missed: {found}", err=True)
        raise click.exceptions.Exit(1)


def _print(run: Path, result: dict[str, Any]) -> None:
    where = f"{result['data']}, {result['part']}" if "part" in result else result["data"]
    click.echo(f"{run}: {figures_text(result)} on {where}")
    for name, value in result.get("AP_by_class", {}).items():
        click.echo(f"  {ap_text(value):>7}  AP of {name}")
    for mode, score in result.get("modes", {}).items():
        click.echo(f"  {score:7.2%}  {LABELS[mode]}")
