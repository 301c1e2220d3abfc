"""`graphc bench`: time and memory of a network beside another's, in one process."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli._arguments import json_option, read_graph, set_option
from compiler.cli._failures import failure
from compiler.cli._output import print_json
from compiler.files import RESOLVED_SPEC

if TYPE_CHECKING:
    import torch
    from torch import Tensor, fx

    from compiler.measure import Comparison, Contender
    from graphspec import NetworkGraph

TEST_BATCH = 500


@click.command(
    epilog="""\b
Examples:
  graphc bench my.yaml --train --batch 8
  graphc bench examples/resnet50.yaml --against torchvision:resnet50 --train
  graphc bench examples/dgnet_resnet50.yaml --against examples/resnet50.yaml --train
  graphc bench examples/dgnet_resnet50.yaml --mode sparse --close 0.5 --against masked --batch 32
  graphc bench examples/randwire_ws_small.yaml --against products --train
  graphc bench runs/RUN --mode sparse --against masked --batch 32
"""
)
@click.argument("spec", type=click.Path(exists=True, readable=True))
@set_option
@click.option(
    "--against",
    metavar="OTHER",
    help=(
        "A spec, torchvision:NAME, or this network again: soft, masked, sparse; "
        "products (each weighted sum a product and an addition an edge); of a run: specialised "
        "(without the edges that no test image opens)."
    ),
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, ...")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1))
@click.option("--train/--infer", "is_training", default=False, help="What is timed. [infer]")
@click.option(
    "--mode",
    type=click.Choice(["soft", "masked", "sparse"]),
    default="masked",
    show_default=True,
    help="Inference with routed edges.",
)
@click.option(
    "--close",
    type=click.FloatRange(0, 1),
    help="Close each block for this share of samples, at random.",
)
@click.option("--fold", is_flag=True, help="Fold batch norms first (inference).")
@click.option("--compile", "is_compiled", is_flag=True, help="Through torch.compile, both.")
@click.option("--channels-last", "is_channels_last", is_flag=True, help="NHWC in memory, both.")
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1))
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [torch's choice]")
@json_option
def command(spec: str, as_json: bool, **options: Any) -> None:
    """Times the network of SPEC, and OTHER in turns with it.

    SPEC may be the folder of a run: its trained network, on images of its test set.

    Times are medians over the rounds, ratios the median of the rounds' ratios. Memory is that
    of the weights and the most that one step holds besides. MACs of sparse inference count
    what is alive.
    """
    comparison, where = compare_networks(spec, **options)
    if as_json:
        first, *others = [vars(measured) for measured in comparison.measured]
        content: dict[str, Any] = {
            "spec": spec,
            **{key: value for key, value in options.items() if value not in (None, ())},
            "machine": where,
            "measured": first,
        }
        if others:
            content |= {"against_measured": others[0], "ratio": comparison.ratio}
        print_json(content)
        return
    click.echo(_text(comparison))


def compare_networks(
    spec: str, *, overrides: tuple[str, ...], device: str, threads: int | None, **options: Any
) -> tuple[Comparison, dict[str, Any]]:
    """What the command measures, and on what; `options` are its own."""
    loaded, _ = read_graph(_spec_of(spec), overrides)
    # Memory is measured by torch's profiler, which talks on stderr unless told before import.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")

    import torch

    from compiler.measure import compare, machine

    if threads:
        torch.set_num_threads(threads)
    place = torch.device(device)
    torch.manual_seed(loaded.seed)
    if Path(spec).is_dir():
        images = next(_test_images(spec, overrides, options["batch"], place))
        if len(images) < options["batch"]:
            raise click.UsageError(f"--batch: the test set has {len(images)} images")
    else:
        images = torch.randn(options["batch"], *loaded.input_shape, device=place)
    if options["is_channels_last"]:
        images = images.to(memory_format=torch.channels_last)
    against: str | None = options["against"]
    contenders = [_contender(spec, overrides, options["mode"], images, options)]
    if against in ("soft", "masked", "sparse", "products", "specialised"):
        contenders.append(_contender(spec, overrides, against, images, options))
    elif against and against.startswith("torchvision:"):
        contenders.append(_torchvision(against, loaded.head.num_classes, images, options))
    elif against:
        other, _ = read_graph(against, overrides)
        if other.input_shape != loaded.input_shape:
            raise click.UsageError(
                f"{against} takes images of {other.input_shape}, {spec} of {loaded.input_shape}; "
                "say --set input_shape=[C,H,W]"
            )
        if Path(spec).is_dir():  # a static twin has the run's classes
            overrides = (f"head.num_classes={loaded.head.num_classes}",)
        contenders.append(_contender(against, overrides, "masked", images, options))
    return compare(contenders, rounds=options["rounds"], device=place), machine(place)


def _contender(
    file: str, overrides: tuple[str, ...], mode: str, images: Tensor, options: dict[str, Any]
) -> Contender:
    """A network of ours, ready to be timed in one of its modes."""
    from compiler.complexity import count
    from compiler.fx_passes import fold_batch_norm
    from compiler.measure import close_nodes, living_macs, with_products
    from runtime.gating import set_inference
    from runtime.sparse import sparse

    graph, model = _network(file, overrides, images.device)
    if mode == "specialised":
        graph, model = _specialised(file, overrides, graph, model, images)
    model.train(options["is_training"])
    if options["close"] is not None:
        close_nodes(model, options["close"], len(images), seed=0)
    set_inference(model, mode="soft" if mode == "soft" else "masked")
    if mode == "sparse":
        macs = living_macs(graph, model.eval(), images)
    else:
        macs = count(graph).macs * len(images)
    model.train(options["is_training"])
    if options["fold"] and not options["is_training"]:
        model = fold_batch_norm(model)
    if mode == "products":
        model = with_products(model)
    if mode == "sparse":
        model = sparse(model)
    return _ready(f"{file} ({mode})", model, graph.num_classes, images, options, macs)


def _network(
    file: str, overrides: tuple[str, ...], device: torch.device
) -> tuple[NetworkGraph, fx.GraphModule]:
    """The network of a spec as it begins, or that of a run as it ended."""
    import torch

    from compiler.lower import lower
    from compiler.training.runs import load_network
    from runtime.training.errors import TrainingError

    _, graph = read_graph(_spec_of(file), overrides)
    if Path(file).is_dir():
        try:
            return graph, load_network(Path(file)).to(device)
        except TrainingError as error:
            raise failure(error) from error
    torch.manual_seed(0)
    with device:
        return graph, lower(graph)


def _specialised(
    run: str,
    overrides: tuple[str, ...],
    graph: NetworkGraph,
    model: fx.GraphModule,
    images: Tensor,
) -> tuple[NetworkGraph, fx.GraphModule]:
    from compiler.fx_passes.specialise import open_shares, specialise

    if not Path(run).is_dir():
        raise click.UsageError(f"{run} is no run: only a trained network can be specialised")
    shares = open_shares(model, _test_images(run, overrides, TEST_BATCH, images.device))
    result = specialise(model, graph, shares)
    return result.graph, result.model


def _spec_of(file: str) -> str:
    """The spec of a run folder; a spec stands for itself."""
    if not Path(file).is_dir():
        return file
    spec = Path(file) / RESOLVED_SPEC
    if not spec.exists():
        raise click.UsageError(f"{file} is no run folder: it has no {spec.name}")
    return str(spec)


def _test_images(
    run: str, overrides: tuple[str, ...], batch: int, device: torch.device
) -> Iterator[Tensor]:
    """The images that a run was tested on, in batches."""
    from compiler.training.runs import read_manifest
    from graphspec import load
    from runtime.training.errors import TrainingError
    from runtime.training.sources import open_data

    if overrides:
        raise click.UsageError(f"--set changes a spec; {run} is trained as it is")
    try:
        data = read_manifest(Path(run))["data"]
        shape = load(_spec_of(run)).input_shape
        dataset = open_data(data["name"], Path(data["folder"]), shape)
        for found, _ in dataset.testing(batch, device, 0):
            yield found
    except TrainingError as error:
        raise failure(error) from error


def _torchvision(name: str, num_classes: int, images: Tensor, options: dict[str, Any]) -> Contender:
    import torch
    from torchvision.models import get_model, list_models

    from compiler.measure import macs_of

    asked = name.removeprefix("torchvision:")
    if asked not in list_models():
        close = difflib.get_close_matches(asked, list_models(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise click.UsageError(f"--against: torchvision has no network {asked!r}{hint}")
    if images.shape[1] != 3:
        raise click.UsageError(
            f"{name} takes images of 3 channels, not {images.shape[1]}; say --set "
            "input_shape=[3,H,W] for a spec"
        )
    torch.manual_seed(0)
    with images.device:
        model = get_model(asked, weights=None, num_classes=num_classes)
    macs = macs_of(model.eval(), images)
    return _ready(name, model, num_classes, images, options, macs)


def _ready(
    name: str,
    model: torch.nn.Module,
    num_classes: int,
    images: Tensor,
    options: dict[str, Any],
    macs: int,
) -> Contender:
    import torch

    from compiler.measure import Contender, inference_step, train_step

    model.train(options["is_training"])
    if options["is_channels_last"]:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    runs: Any = torch.compile(model) if options["is_compiled"] else model
    if options["is_training"]:
        return Contender(name, model, train_step(runs, images, num_classes), macs)
    return Contender(name, model, inference_step(runs, images), macs)


def _text(comparison: Comparison) -> str:
    """A line a network, and one of ratios."""
    width = max(len("first / second"), *(len(each.name) for each in comparison.measured))
    lines = [f"{'':{width}}  {'time ms':>10} {'CPU ms':>10} {'memory MB':>10} {'MMACs':>10}"]
    for measured in comparison.measured:
        macs = "" if measured.macs is None else f"{measured.macs / 1e6:.1f}"
        lines.append(
            f"{measured.name:{width}}  {measured.time_ms:10.2f} {measured.cpu_time_ms:10.2f} "
            f"{measured.memory_mb:10.1f} {macs:>10}"
        )
    ratio = comparison.ratio
    if ratio:
        macs = f"{ratio['macs']:.3f}" if "macs" in ratio else ""
        lines.append(
            f"{'first / second':{width}}  {ratio['time']:10.3f} {ratio['cpu_time']:10.3f} "
            f"{ratio['memory']:10.3f} {macs:>10}"
        )
    return "\n".join(lines)
