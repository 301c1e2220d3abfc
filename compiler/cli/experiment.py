"""`graphc experiment`: networks x seeds from a file, trained one after another and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compiler.cli._arguments import json_option
from compiler.cli._failures import CannotGoOnError
from compiler.cli._output import print_json, print_table
from compiler.cli.sample import Seeds

if TYPE_CHECKING:
    from compiler.experiments.plan import Experiment, Run
    from compiler.experiments.results import Results

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False, readable=True)


@click.command(
    epilog="""\b
Examples:
  graphc experiment examples/experiments/table6_digits.yaml
  graphc experiment examples/experiments/table4_digits.yaml --seeds 0-9 --jobs 2
  graphc experiment examples/experiments/table6_paper.yaml --commands
  graphc experiment FILE --commands | parallel -j 8
"""
)
@click.argument("file", type=FILE)
@click.option("--seeds", type=Seeds(), help="Instead of the file's: 0-9, or 0-4,7.")
@click.option("--epochs", type=click.IntRange(1), help="Short for --recipe-set epochs=N.")
@click.option(
    "--recipe-set",
    "recipe_overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the recipe of all networks.",
)
@click.option(
    "--data-dir",
    type=FOLDER,
    default=Path("data"),
    show_default=True,
    help="Where torchvision's sets are.",
)
@click.option("--run", "folder", type=FOLDER, help="Folder of all runs.  [default: runs/NAME]")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Runs at the same time.",
)
@click.option("--commands", is_flag=True, help="Print the training commands and run nothing.")
@json_option
def command(
    file: Path,
    seeds: tuple[int, ...] | None,
    epochs: int | None,
    recipe_overrides: tuple[str, ...],
    data_dir: Path,
    folder: Path | None,
    jobs: int,
    commands: bool,
    as_json: bool,
) -> int:
    """Trains every network of FILE with every seed and prints a table of what came out.

    Finished runs are not repeated, broken ones go on. Exits with 1 if a run diverged.
    """
    from compiler.experiments.plan import plan, read_experiment
    from runtime.training.recipe import RecipeError

    experiment = read_experiment(file)
    folder = folder or Path("runs") / experiment.name
    changes = recipe_overrides if epochs is None else (*recipe_overrides, f"epochs={epochs}")
    try:
        runs = plan(
            experiment, file, folder, seeds=seeds, recipe_overrides=changes, data_dir=data_dir
        )
    except RecipeError as error:
        raise click.UsageError(f"--recipe-set {error}") from None
    if commands or experiment.commands_only:
        _print_commands(experiment, runs)
        return 0
    results = _results(experiment, runs, folder, data_dir, jobs)
    _print_results(results, folder, as_json=as_json)
    return 0 if all(run.is_finished for run in runs) else 1


def _print_commands(experiment: Experiment, runs: list[Run]) -> None:
    for run in runs:
        click.echo(f"{experiment.launch} {run.command}".strip())


def _results(
    experiment: Experiment, runs: list[Run], folder: Path, data_dir: Path, jobs: int
) -> Results:
    from compiler.experiments.plan import ExperimentError, execute, last_lines, scores
    from compiler.experiments.results import measure, summarize, write_results

    ended = sum(run.is_finished for run in runs)
    click.echo(f"{experiment.name}: {len(runs)} runs, {ended} finished before", err=True)

    def on_end(run: Run, status: int, seconds: float) -> None:
        nonlocal ended
        ended += 1
        manifest = run.manifest
        came = f"{manifest[experiment.score[0]]:.2%}" if status == 0 and manifest else "failed"
        count = f"[{ended}/{len(runs)}]"
        click.echo(f"{count} {run.network}, seed {run.seed}: {came}, {seconds:.0f} s", err=True)
        if came == "failed":
            click.echo(last_lines(run.log), err=True)

    try:
        execute(runs, jobs, on_end)
        measurements = [
            measurement
            for run in runs
            if run.is_finished
            for measurement in measure(run, scores(experiment, run, data_dir))
        ]
    except ExperimentError as error:
        raise CannotGoOnError(str(error)) from None
    results = summarize(experiment, runs, measurements)
    if results.rows:
        write_results(results, folder)
    return results


def _print_results(results: Results, folder: Path, *, as_json: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from compiler.experiments.results import as_data, columns, explanation

    if as_json:
        print_json(as_data(results))
        return
    table = Table(title=results.experiment.title, title_justify="left", box=SIMPLE_HEAD)
    for index, column in enumerate(columns(results.experiment)):
        table.add_column(column, justify="right" if index else "left")
    for row in results.rows:
        table.add_row(*row.cells())
    print_table(table)
    for line in explanation(results):
        click.echo(line)
    click.echo(f"written to {folder}: results.json, .csv, .md, .png, .svg")
