"""The tables of the DG-Net paper beside what the example specs cost.

The figures were printed by the paper; ours are counted anew at each call. Accuracies need
ImageNet or COCO and are listed with the command that trains for them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import compiler
from compiler.complexity import Complexity, count
from graphspec import load

RULE_PARAMS = "params: all parameters, in millions"
RULE_FLOPS = (
    "FLOPs: one multiply-add of a convolution is one, in millions; nothing else is counted "
    "(no linear layer, batch norm, pooling, router or aggregation)"
)
RULE_DETECTION = (
    "GFLOPs: twice the multiply-adds of the backbone's convolutions at 800x1333, without FPN"
)


@dataclass(frozen=True)
class Cell:
    """A figure of the paper (None: not printed) and ours, in the same unit."""

    paper: float | None
    ours: float
    digits: int
    note: str = ""
    """why the paper's figure cannot be reproduced from the paper"""

    @property
    def difference(self) -> float | None:
        return None if self.paper is None else self.ours - self.paper

    @property
    def agrees(self) -> bool | None:
        """Whether ours, rounded or cut off like the paper's, is the paper's figure."""
        if self.difference is None:
            return None
        return abs(self.difference) < 10**-self.digits


@dataclass(frozen=True)
class Row:
    """One network of a table; `spec` is the example that it was counted from."""

    network: str
    spec: str
    cells: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Table:
    """A table of the paper: how it counts, how to make its rows, what training it needs."""

    name: str
    title: str
    rules: tuple[str, ...]
    rows: Callable[[Sequence[int]], Iterable[Row]]
    training: tuple[str, ...]
    """the commands for its accuracies, or what they need"""


_FITS_NO_HYPOTHESIS = "no structure that gives the other figures gives this one"

# network, example, params in millions, FLOPs in millions, columns that cannot be reproduced
_TABLE1 = (
    ("MobileNetV2-1.0", "mobilenet_v2", "3.51", 299, ""),
    ("DG-MobileNetV2-1.0", "dgnet_mobilenet_v2", "3.58", 312, "params"),
    ("ResNet18", "resnet18", "11.69", 1813, ""),
    ("DG-ResNet18", "dgnet_resnet18", "11.71", 1826, "params"),
    ("ResNet50", "resnet50", "25.55", 4087, ""),
    ("DG-ResNet50", "dgnet_resnet50", "25.62", 4125, ""),
    ("ResNet101", "resnet101", "44.54", 7799, ""),
    ("DG-ResNet101", "dgnet_resnet101", "44.90", 7837, "params"),
    ("ResNeXt50-32x4d", "resnext50_32x4d", "25.02", 4228, ""),
    ("DG-ResNeXt50-32x4d", "dgnet_resnext50_32x4d", "25.09", 4305, ""),
    ("RegNetX-600M", "regnetx_006", "6.19", 599, "FLOPs"),
    ("DG-RegNetX-600M", "dgnet_regnetx_006", "6.22", 600, ""),
    ("RegNetX-1600M", "regnetx_016", "9.19", 1602, ""),
    ("DG-RegNetX-1600M", "dgnet_regnetx_016", "9.22", 1604, "FLOPs"),
)
_TABLE2 = (
    ("ResNet50", "resnet50", 174),
    ("DG-ResNet50", "dgnet_resnet50", 176),
    ("ResNet101", "resnet101", 333),
    ("DG-ResNet101", "dgnet_resnet101", 335),
    ("ResNeXt50-32x4d", "resnext50_32x4d", 181),
    ("DG-ResNeXt50-32x4d", "dgnet_resnext50_32x4d", 183),
)
_TABLE4 = (
    ("RandWire ER(0.2)", "randwire_er_small", 602, _FITS_NO_HYPOTHESIS),
    ("RandWire BA(5)", "randwire_ba_small", 582, ""),
    ("RandWire WS(4, 0.75)", "randwire_ws_small", 572, "one draw of the paper's; ours is a mean"),
    ("DG-Net, complete", "dgnet_randwire_small", 611, ""),
)
_TABLE5 = (
    ("DG-Net-A", "dgnet_regnetx_006", "6.22", 600, ""),
    ("DG-Net-B", "dgnet_regnety_006", "6.3", 601, "params"),
)


def example(name: str) -> Path:
    """The file of an example spec: in the checkout, or as the wheel brings it."""
    package = Path(compiler.__file__).parent
    installed = package / "examples" / f"{name}.yaml"
    return installed if installed.is_file() else package.parent / "examples" / f"{name}.yaml"


def _count(name: str, *overrides: str) -> Complexity:
    return count(load(example(name), overrides=overrides))


def _costs(rows: Iterable[tuple[str, str, str, float, str]]) -> Iterator[Row]:
    for network, name, params, flops, broken in rows:
        cost = _count(name)
        digits = len(params.partition(".")[2])
        cells = (
            ("params", Cell(float(params), cost.params / 1e6, digits, _note("params", broken))),
            ("FLOPs", Cell(flops, cost.conv_macs / 1e6, 0, _note("FLOPs", broken))),
        )
        yield Row(network, name, cells)


def _note(column: str, broken: str) -> str:
    return _FITS_NO_HYPOTHESIS if column == broken else ""


def _table1(_: Sequence[int]) -> Iterator[Row]:
    return _costs(_TABLE1)


def _table2(_: Sequence[int]) -> Iterator[Row]:
    for network, name, paper in _TABLE2:
        gflops = 2 * _count(name, "input_shape=[3, 800, 1333]").conv_macs / 1e9
        yield Row(network, name, (("GFLOPs", Cell(paper, gflops, 0)),))


def _table4(seeds: Sequence[int]) -> Iterator[Row]:
    for network, name, paper, note in _TABLE4:
        drawn = seeds if name.startswith("randwire") else seeds[:1]
        counts = [_count(name, f"seed={seed}") for seed in drawn]
        flops = [cost.conv_macs / 1e6 for cost in counts]
        params = statistics.mean(cost.params for cost in counts) / 1e6
        cells = (
            ("params", Cell(None, params, 3)),
            ("FLOPs", Cell(paper, statistics.mean(flops), 0, note)),
            ("lowest", Cell(None, min(flops), 0)),
            ("highest", Cell(None, max(flops), 0)),
        )
        yield Row(network, f"{name}, seeds {drawn[0]}-{drawn[-1]}", cells)


def _table5(_: Sequence[int]) -> Iterator[Row]:
    return _costs(_TABLE5)


_FAMILIES = ("mobilenet", "regnet", "randwire")


def _training(names: Iterable[str], more: str = "") -> tuple[str, ...]:
    """The command that trains each example on ImageNet, by the recipe for its family."""
    return tuple(
        f"graphc train examples/{name}.yaml --data imagenet --data-dir DIR "
        f"--recipe {_recipe(name)}{more}"
        for name in names
    )


def _recipe(name: str) -> str:
    return next((family for family in _FAMILIES if family in name), "resnet")


_TABLE6 = tuple(
    f"{kind}{name}"
    for name in (
        *("mobilenet_v2", "resnet18", "resnet50", "resnet101", "resnext50_32x4d"),
        *("regnetx_006", "regnetx_016", "regnety_006"),
    )
    for kind in ("", "alpha_", "dgnet_")
)

TABLES = {
    table.name: table
    for table in (
        Table(
            "table1",
            "Static networks and their dynamic twins on ImageNet",
            (RULE_PARAMS, RULE_FLOPS),
            _table1,
            _training(row[1] for row in _TABLE1),
        ),
        Table(
            "table2",
            "Backbones for detection on COCO",
            (RULE_DETECTION,),
            _table2,
            tuple(
                f"graphc train examples/{row[1]}.yaml --task detection --data COCO "
                "--recipe coco_1x --init-weights WEIGHTS_OF_TABLE1"
                for row in _TABLE2
            ),
        ),
        Table(
            "table4",
            "Random wirings and the complete graph, 32 nodes, small regime",
            (RULE_PARAMS, RULE_FLOPS, "means over seeds; lowest and highest: of one draw"),
            _table4,
            _training(row[1] for row in _TABLE4),
        ),
        Table(
            "table5",
            "DG-Net-A and DG-Net-B",
            (RULE_PARAMS, RULE_FLOPS),
            _table5,
            _training((row[1] for row in _TABLE5), " --epochs 250"),
        ),
    )
}

TRAINING_ONLY = {
    "table6": (
        "fixed, learned (alpha) and routed (alpha_b) edge weights on ImageNet",
        _training(_TABLE6),
    ),
    "figure4": (
        "initial router bias 3, 0 and -3 on ImageNet",
        tuple(
            command
            for bias in (3, 0, -3)
            for command in _training(
                ["dgnet_resnet50"], f" --set stage_defaults.edge_weights.bias_init={bias}"
            )
        ),
    ),
}
