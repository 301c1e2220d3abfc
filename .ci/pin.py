"""Resolves every dependency anew and pins it: `uv run python .ci/pin.py`.

The pins are written twice, without an index address: to constraints.txt for
`pip install -c constraints.txt`, and to `[tool.uv] constraint-dependencies` in pyproject.toml,
which `uv sync` and `uv run` obey. tests/test_architecture.py holds the two equal.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "pyproject.toml"
PINS = re.compile(r"(?<=^constraint-dependencies = \[\n).*?(?=^\]$)", re.MULTILINE | re.DOTALL)
COMMAND = (
    "uv pip compile pyproject.toml --universal --all-extras --group dev --python-version 3.11 "
    "--no-header --no-annotate --no-emit-index-url --no-emit-package graphc-nn --quiet"
)


def write_pins(lines: list[str]) -> None:
    """Replaces the list in pyproject.toml."""
    quoted = "".join(f'    "{line}",\n' for line in lines)
    PROJECT.write_text(PINS.sub(lambda _: quoted, PROJECT.read_text(), count=1))


def main() -> None:
    """Old pins go first: uv would obey them."""
    before = PROJECT.read_text()
    try:
        write_pins([])
        compiled = subprocess.run(
            COMMAND.split(), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    except BaseException:
        PROJECT.write_text(before)
        raise
    (ROOT / "constraints.txt").write_text(compiled)
    write_pins(compiled.splitlines())


if __name__ == "__main__":
    main()
