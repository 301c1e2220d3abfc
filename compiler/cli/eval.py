"""`graphc eval`: the accuracy of a run's network, under every inference mode it has."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.cli._arguments import json_option
from compiler.cli._failures import failure
from compiler.cli._output import print_json

EPILOG = """\b
Examples:
  graphc eval runs/dgnet_digits-1a2b3c4d
  graphc eval runs/dgnet_fashion-1a2b3c4d --data-dir ~/data --json
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
    device: str,
    workers: int,
    goal_accuracy: float | None,
    as_json: bool,
) -> None:
    """Measures the test accuracy of the trained network in the folder RUN.

    Networks with routed edges are measured in soft mode, and in masked mode under both
    inference rules; the accuracy proper is that of the rule in the spec.
    """
    from compiler.training import evaluate_run
    from runtime.training.errors import TrainingError

    try:
        result = evaluate_run(run, data=data, data_dir=data_dir, device=device, workers=workers)
    except TrainingError as error:
        raise failure(error) from error
    if as_json:
        print_json(result)
    else:
        click.echo(f"{run}: test accuracy {result['accuracy']:.2%} on {result['data']}")
        for mode, accuracy in result.get("modes", {}).items():
            click.echo(f"  {accuracy:7.2%}  {LABELS[mode]}")
    if goal_accuracy is not None and result["accuracy"] < goal_accuracy:
        found = f"test accuracy {result['accuracy']:.4f} is below {goal_accuracy}"
        click.echo(f"goal missed: {found}", err=True)
        raise click.exceptions.Exit(1)
