"""`graphc analyze`: what the edges of a run's network weigh over a test set, seen and counted."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.cli._arguments import json_option
from compiler.cli._failures import failure
from compiler.cli._output import print_json

FOLDER = click.Path(path_type=Path, file_okay=False)
NOTE = (
    "These are figures of this network on these images. They can be set beside figures 5-7 of the "
    "paper, of its networks on ImageNet; no agreement is claimed."
)


@click.command(
    epilog="""\b
Examples:
  graphc analyze runs/dgnet_digits-1a2b3c4d
  graphc analyze runs/dgnet_digits-1a2b3c4d --sample 3 --sample 17 -o edges
"""
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--data", help="Other data than the run was trained on; see graphc train.")
@click.option("--data-dir", type=FOLDER, help="Where torchvision's sets are now.")
@click.option(
    "--sample",
    "samples",
    type=click.IntRange(0),
    multiple=True,
    help="Show the edges of this test image too. Repeatable.",
)
@click.option("-o", "--output", type=FOLDER, help="Where to write.  [default: RUN/analysis]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Processes that read an image folder.",
)
@json_option
def command(
    run: Path,
    data: str | None,
    data_dir: Path | None,
    samples: tuple[int, ...],
    output: Path | None,
    device: str,
    workers: int,
    as_json: bool,
) -> None:
    """Measures every edge of the network in the folder RUN over its test set.

    Writes arrays (edges.npz), pictures and one page (index.html): mean and standard deviation
    of each weight, closed edges and removed nodes against tau, the same by class, and the
    matrices of single images.
    """
    from compiler.edges.report import (
        analyze_run,
        as_data,
        describe,
        describe_observations,
        write_report,
    )
    from runtime.training.errors import TrainingError

    try:
        report = analyze_run(
            run, data=data, data_dir=data_dir, samples=samples, device=device, workers=workers
        )
    except TrainingError as error:
        raise failure(error) from error
    missing = sorted(set(samples) - {sample.index for sample in report.analysis.chosen})
    if missing:
        count = report.analysis.correct.count
        raise click.UsageError(f"--sample {missing[0]}: the test set has images 0 .. {count - 1}")
    paths = write_report(report, output or run / "analysis")
    if as_json:
        print_json(as_data(report))
        return
    for line in describe(report):
        click.echo(line)
    click.echo()
    for line in describe_observations(report):
        click.echo(line)
    if report.routed:
        click.echo(f"\n{NOTE}")
    click.echo(f"written: {paths[0]} and {len(paths) - 1} files beside it")
