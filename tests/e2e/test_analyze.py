"""`graphc analyze` on a run that was trained for a moment."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from compiler.cli import main

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("analyze") / "run"
    spec = ROOT / "examples" / "experiments" / "specs" / "tiny_digits.yaml"
    options = ["--epochs", "1", "--recipe-set", "warmup_epochs=0", "--run", str(folder)]
    assert main(["train", str(spec), *options]) == 0
    return folder


def test_files_and_figures(run, capsys):
    assert main(["analyze", str(run), "--sample", "5"]) == 0
    out = capsys.readouterr().out
    for words in ("between edges", "between images", "between classes", "% of edges closed"):
        assert words in out
    folder = run / "analysis"
    pictures = ["weights_layer1", "weights_layer2", "classes_layer1", "classes_layer2"]
    pictures += ["thresholds", "samples"]
    expected = {f"{name}.{suffix}" for name in pictures for suffix in ("png", "svg")}
    expected |= {"index.html", "summary.json", "edges.npz"}
    assert {path.name for path in folder.iterdir()} == expected
    with np.load(folder / "edges.npz") as arrays:
        assert list(arrays["layer1/nodes"]) == ["input", "n1", "n2", "n3", "output"]
        assert arrays["layer1/weight_mean"].shape == (5, 5)
        assert arrays["layer1/weight_mean_by_class"].shape == (10, 5, 5)
        assert not np.triu(arrays["layer1/weight_mean"]).any()  # rows: targets, columns: sources
        assert arrays["layer2/sample index 5"].shape == (5, 5)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["images"] == 360
    assert summary["stages"]["layer1"]["edges"] == 10
    assert list(summary["observations"]) == ["layer1", "layer2"]
    assert re.search(r"^mean weight +0\.\d{4} +0\.\d{4}$", out, re.MULTILINE)
    svg = (folder / "weights_layer1.svg").read_text()
    assert "to node (target)" in svg and "from node (source)" in svg
    page = html.unescape((folder / "index.html").read_text())
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert page.count("<img ") == len(pictures)


def test_image_that_is_not_there(run, capsys):
    assert main(["analyze", str(run), "--sample", "360"]) == 2
    assert "images 0 .. 359" in capsys.readouterr().err


def test_no_run(tmp_path, capsys):
    assert main(["analyze", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
