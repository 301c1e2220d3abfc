"""`graphc train`: a spec in, a run folder with a trained network out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compiler.cli._arguments import json_option, read_graph, set_option, spec_argument
from compiler.cli._failures import failure
from compiler.cli._output import figures_text, print_json
from compiler.cli._progress import TrainingProgress

if TYPE_CHECKING:
    from compiler.training.runs import Outcome
    from graphspec import NetworkGraph, NetworkSpec
    from runtime.training.recipe import Recipe

EPILOG = """\b
Examples:
  graphc train examples/dgnet_digits.yaml
  graphc train examples/dgnet_fashion.yaml --data fashion_mnist --data-dir ~/data
  graphc train my.yaml --data arrays.npz --recipe cifar --set stages.layer2.depth=6
  graphc train my.yaml --task detection --data COCO --recipe coco_1x --init-weights FILE
  torchrun --nproc-per-node 4 --no-python graphc train my.yaml --data PATH --recipe resnet
"""
SMALL_STEP = 500_000_000
"""Multiply-adds of a batch below which one CPU thread is enough."""
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(epilog=EPILOG)
@spec_argument
@set_option
@click.option(
    "--task",
    type=click.Choice(["classification", "detection"]),
    default="classification",
    show_default=True,
    help="detection: boxes, by Faster R-CNN with FPN on the network without its head.",
)
@click.option(
    "--data",
    help="digits, cifar10, cifar100, fashion_mnist, mnist, imagenet, a folder with train/ and "
    "val/, or FILE.npz. Default: digits, for a spec of that shape. For detection: a folder with "
    "annotations/instances_{train,val}.json and images/, or COCO's own.",
)
@click.option(
    "--data-dir",
    type=FOLDER,
    default=Path("data"),
    show_default=True,
    help="Where torchvision's sets are.",
)
@click.option("--download", is_flag=True, help="Fetch a torchvision set that is not there.")
@click.option("--recipe", help="A built-in recipe or a file. Default: the one for the data.")
@click.option(
    "--recipe-set",
    "recipe_overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the recipe.",
)
@click.option(
    "--init-weights",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Start from these instead of random ones; whatever `graphc import-weights` reads.",
)
@click.option("--epochs", type=int, help="Fewer epochs shorten the recipe's warm-up too.")
@click.option("--batch-size", type=int, help="Of all processes and micro-batches together.")
@click.option("--lr", type=float, help="Short for --recipe-set lr=X.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of weights, order and augmentation.",
)
@click.option(
    "--run",
    "--run-folder",
    "folder",
    type=FOLDER,
    help="Run folder; torchrun lets the longer name through.  [default: runs/NAME-HASH]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--amp", type=click.Choice(["bf16"]), help="Automatic mixed precision.")
@click.option("--channels-last", is_flag=True, help="Keep features in NHWC layout.")
@click.option("--torch-compile", is_flag=True, help="Run the network through torch.compile.")
@click.option(
    "--accumulate",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Micro-batches a step and process.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Processes that read an image folder.",
)
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(0),
    default=30,
    show_default=True,
    help="Least time between two checkpoints.",
)
@click.option(
    "--tensorboard", is_flag=True, help="Metrics for TensorBoard too, in RUN/tensorboard."
)
@click.option(
    "--goal-accuracy",
    type=click.FloatRange(0, 1),
    help="Exit with 1 if the test accuracy is lower.",
)
@json_option
def command(
    spec: str,
    overrides: tuple[str, ...],
    task: str,
    data: str | None,
    data_dir: Path,
    download: bool,
    recipe: str | None,
    recipe_overrides: tuple[str, ...],
    init_weights: Path | None,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    seed: int,
    folder: Path | None,
    device: str,
    amp: str | None,
    channels_last: bool,
    torch_compile: bool,
    accumulate: int,
    workers: int,
    checkpoint_seconds: float,
    tensorboard: bool,
    goal_accuracy: float | None,
    as_json: bool,
) -> None:
    """Trains the network of SPEC and leaves a run folder.

    The same command goes on where it was stopped, or says that the run is complete.
    """
    loaded, graph = read_graph(spec, overrides)
    chosen_data = data or _default_data(loaded, task)
    short = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    shorts = [f"{key}={value}" for key, value in short.items() if value is not None]
    chosen_recipe = _recipe(recipe, chosen_data, (*recipe_overrides, *shorts), epochs)
    if task == "detection":
        _check_detection(chosen_recipe, goal_accuracy, torch_compile=torch_compile)
    elif chosen_recipe.detection is not None:
        raise click.UsageError("the recipe is for detection; give --task detection")

    _arrange_threads(graph, chosen_recipe.batch_size, task)
    from compiler.training.runs import Job, train
    from runtime.training.engine import Execution
    from runtime.training.errors import TrainingError
    from runtime.training.recipe import RecipeError

    job = Job(
        spec=loaded,
        recipe=chosen_recipe,
        data=chosen_data,
        data_dir=data_dir,
        seed=seed,
        bf16=amp == "bf16",
        initial_weights=init_weights,
    )
    is_first = os.environ.get("RANK", "0") == "0"
    with TrainingProgress(chosen_recipe.epochs, is_silent=not is_first) as progress:
        try:
            folder = folder or Path("runs") / f"{loaded.name}-{job.label}"
            progress.say(f"{loaded.name} on {chosen_data}, {chosen_recipe.epochs} epochs: {folder}")
            outcome = train(
                job,
                folder,
                progress,
                device=device,
                execution=Execution(job.bf16, channels_last, torch_compile, checkpoint_seconds),
                accumulate=accumulate,
                workers=workers,
                download=download,
                tensorboard=tensorboard,
            )
        except TrainingError as error:
            raise failure(error, folder) from error
        except RecipeError as error:
            raise click.UsageError(f"recipe: {error}") from None
    if is_first:
        _report(outcome, as_json=as_json)
    if goal_accuracy is not None and outcome.figures["accuracy"] < goal_accuracy:
        found = f"test accuracy {outcome.figures['accuracy']:.4f} is below {goal_accuracy}"
        click.echo(f"goal missed: {found}", err=True)
        raise click.exceptions.Exit(1)


def _arrange_threads(graph: NetworkGraph, batch_size: int, task: str) -> None:
    """Makes CPU threads cheap where the cores are shared with other work.

    Threads that wait go to sleep instead of spinning: with two threads on two busy cores a step
    of dgnet_fashion took 0.32 s instead of 4.1 s. A small step gets one thread: 0.15 s for
    dgnet_digits, against 0.42 s sleeping and 4.8 s spinning. Steps of detection are never small.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    import torch

    from compiler.complexity import count

    is_small = task != "detection" and count(graph).macs * batch_size < SMALL_STEP
    if is_small and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def _check_detection(recipe: Recipe, goal_accuracy: float | None, *, torch_compile: bool) -> None:
    """Refuses what only classification has."""
    if recipe.detection is None:
        names = ", ".join(_detection_recipes())
        raise click.UsageError(
            f"the recipe has no section `detection`: the sizes of a detector; give --recipe "
            f"({names}, or a file that extends one)"
        )
    if goal_accuracy is not None:
        raise click.UsageError("--goal-accuracy: detection has an average precision, no accuracy")
    if torch_compile:
        raise click.UsageError("a detector's boxes differ in number: not for --torch-compile")


def _detection_recipes() -> list[str]:
    from compiler.training.recipes import load_recipe, recipe_names

    return [name for name in recipe_names() if load_recipe(name).detection is not None]


def _default_data(spec: NetworkSpec, task: str) -> str:
    """The data set that a spec can only be meant for."""
    if task == "detection":
        raise click.UsageError(
            "detection needs --data: a folder with annotations/instances_train.json, "
            "annotations/instances_val.json and images/"
        )
    if spec.input_shape == (1, 8, 8) and spec.head.num_classes == 10:
        return "digits"
    raise click.UsageError(
        f"nothing says what to train {spec.name} on; give --data (digits, cifar10, cifar100, "
        "fashion_mnist, mnist, imagenet, a folder with train/ and val/, or FILE.npz)"
    )


def _recipe(name: str | None, data: str, overrides: tuple[str, ...], epochs: int | None) -> Recipe:
    from compiler.training.recipes import (
        NoSuchRecipeError,
        default_recipe,
        load_recipe,
        recipe_names,
    )
    from runtime.training.recipe import RecipeError

    name = name or default_recipe(data)
    if name is None:
        _check_data(data)
        names = ", ".join(recipe_names())
        raise click.UsageError(f"no recipe is made for {data}; give --recipe ({names}, or a file)")
    try:
        recipe = load_recipe(name)
        names = {override.partition("=")[0] for override in overrides}
        if epochs is not None and epochs < recipe.epochs and "warmup_epochs" not in names:
            # A short run would be warm-up alone, and end at the highest learning rate.
            warmup = recipe.warmup_epochs * epochs / recipe.epochs
            overrides = (*overrides, f"warmup_epochs={warmup:.6g}")
        return load_recipe(name, overrides)
    except NoSuchRecipeError as error:
        raise click.UsageError(str(error)) from None
    except RecipeError as error:
        raise click.UsageError(f"--recipe-set {error}") from None


def _check_data(name: str) -> None:
    from runtime.training.errors import DataError
    from runtime.training.sources import check_name

    try:
        check_name(name)
    except DataError as error:
        raise failure(error) from None


def _report(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        result = {
            "run": str(outcome.folder),
            **outcome.figures,
            "epochs": len(outcome.history),
            "seconds": outcome.seconds,
            "trained": outcome.trained,
        }
        print_json(result)
        return
    state = "trained" if outcome.trained else "was complete already"
    click.echo(
        f"{outcome.folder} {state}: {figures_text(outcome.figures)} "
        f"after {len(outcome.history)} epochs, {outcome.seconds:.0f} s"
    )
