from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("gate", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("gate")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite the files under tests/golden instead of comparing with them",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Two test workers on two cores: more threads only wait for each other. The language's own
    # tests run where torch is not installed.
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded_weights() -> None:
    """Initial weights do not depend on the tests that ran before, or on the worker."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture
def rng() -> random.Random:
    """Randomness that is the same in every run."""
    return random.Random("graphc tests")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds pyproject.toml."""
    return Path(__file__).parents[1]


@pytest.fixture
def golden(request: pytest.FixtureRequest):
    """Compares text with the file `tests/golden/<name>`, or rewrites it with `--update-golden`."""
    folder = Path(__file__).parent / "golden"

    def compare(name: str, text: str) -> None:
        path = folder / name
        if request.config.getoption("update_golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden {name}; write it with `pytest --update-golden`"
        assert text == path.read_text(encoding="utf-8")

    return compare
