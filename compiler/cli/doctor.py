"""`graphc doctor`: versions, devices, data folders, and packages that stand in each other's way."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import click

from compiler.cli import package_folders
from compiler.cli._arguments import json_option
from compiler.cli._output import print_json

REQUIRED = (
    *("torch", "torchvision", "accelerate", "numpy", "networkx", "pydantic", "pyyaml"),
    *("scikit-learn", "safetensors", "matplotlib", "resvg-py", "click", "rich", "jinja2"),
)
OPTIONAL = ("timm", "onnx", "onnxscript", "onnxruntime", "pycocotools", "tensorboard")
DISTRIBUTION = "graphc-nn"


@click.command(
    epilog="""\b
Examples:
  graphc doctor
  graphc doctor --data-dir ~/data --json
"""
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="The folder with data sets that `graphc train` would look in.",
)
@json_option
def command(data_dir: Path, as_json: bool) -> int:
    """Says what graphc runs on, and what is wrong with the installation. Exits 1 if anything is."""
    problems: list[str] = []
    report: dict[str, Any] = {
        "versions": _versions(problems),
        "devices": _devices(problems),
        "packages": _packages(problems),
        "data": _data(data_dir),
    }
    if as_json:
        print_json({"ok": not problems, "problems": problems, **report})
        return 1 if problems else 0
    for section, entries in report.items():
        click.echo(f"{section}:")
        for name, value in entries.items():
            text = ", ".join(value) if isinstance(value, list) else value
            click.echo(f"  {name:<14} {text or 'none'}")
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    return 1 if problems else 0


def _versions(problems: list[str]) -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in (DISTRIBUTION, *REQUIRED, *OPTIONAL):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed" + (" (optional)" if name in OPTIONAL else "")
            if name not in OPTIONAL:
                problems.append(f"{name} is not installed; run `uv sync`")
    return versions


def _devices(problems: list[str]) -> dict[str, Any]:
    devices: dict[str, Any] = {"cpu": f"{os.cpu_count()} cores"}
    try:
        import torch
    except ImportError as error:
        problems.append(f"torch does not import: {error}")
        return devices
    try:
        from runtime.kernels import cpu

        has_kernels = cpu.library() is not None
    except ImportError:  # another package is called `runtime`: see `packages`
        has_kernels = False
    devices["threads"] = str(torch.get_num_threads())
    devices["cpu kernels"] = "compiled" if has_kernels else "none: no C compiler that works"
    devices["cuda"] = [
        f"cuda:{index} {torch.cuda.get_device_name(index)}"
        for index in range(torch.cuda.device_count())
    ]
    devices["mps"] = "yes" if torch.backends.mps.is_available() else ""
    return devices


def _packages(problems: list[str]) -> dict[str, str]:
    """Where our packages lie; other distributions on the package index have the same names."""
    folders = package_folders()
    owners = packages_distributions()
    if len(set(folders.values())) > 1:
        problems.append(
            "graphspec, compiler and runtime come from different folders: graphc's own and "
            "those of another package. Work in an environment that has graphc alone, and start "
            "the `graphc` script from a folder without a package of these names"
        )
    for name in folders:
        others = sorted(set(owners.get(name, ())) - {DISTRIBUTION})
        if others:
            problems.append(
                f"{', '.join(others)} also installs a package {name!r} and overwrites ours; "
                f"uninstall it, then reinstall {DISTRIBUTION}"
            )
    places = {name: str(folder) if folder else "not found" for name, folder in folders.items()}
    return {**places, "script": sys.argv[0]}


def _data(folder: Path) -> dict[str, Any]:
    found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return {
        "digits": "comes with scikit-learn",
        "folder": str(folder.absolute()) + ("" if folder.is_dir() else " (not there)"),
        "holds": found,
    }
