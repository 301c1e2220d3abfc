"""Networks in folders and repositories of the Hugging Face hub.

A folder holds `config.json` with the resolved spec and its hash, `model.safetensors` and
`README.md`; nothing in it is code. Folders need no package but graphc; repositories need
huggingface_hub.

Example:
    >>> push("runs/RUN", "me/small")
    >>> load("me/small", revision="main")(images)
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from torch import fx

from compiler.analysis import analyze
from compiler.complexity import count
from compiler.driver import compile
from compiler.files import RESOLVED_SPEC, replacing
from compiler.training.runs import load_network
from graphspec import NetworkSpec, as_plain, content_hash, dump, loads, resolve
from graphspec import load as load_spec
from runtime.training.checkpoint import save_weights
from runtime.training.errors import StorageError

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


class HubError(Exception):
    """A network cannot be saved or loaded; the message says why and what to do."""


def save(
    network: fx.GraphModule | Path | str,
    folder: Path | str,
    spec: NetworkSpec | Path | str | None = None,
) -> Path:
    """Writes a network into a folder: that of a run folder, or one compiled from `spec`.

    An earlier `README.md` stays as it is.

    Raises:
        HubError: the folder is no run, or the network was not compiled from the spec.
    """
    folder = Path(folder)
    model, spec = _network(network, spec)
    resolved, spec_hash = resolve(spec), content_hash(spec)
    content = {"library_name": "graphc", "spec_hash": spec_hash, "spec": as_plain(resolved)}
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "spec_hash": spec_hash}
    save_weights(folder / WEIGHTS, model.state_dict(), metadata)
    with replacing(folder / CONFIG) as path:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if not (folder / CARD).exists():
        with replacing(folder / CARD) as path:
            path.write_text(_card(resolved), encoding="utf-8")
    return folder


def push(
    network: fx.GraphModule | Path | str,
    repository: str,
    spec: NetworkSpec | Path | str | None = None,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload a network of graphc",
) -> str:
    """Saves a network into a repository `owner/name`; returns the address of the commit.

    The repository is made if need be; `revision` is a branch that exists. The token is the one
    of `hf auth login`.

    Raises:
        HubError: it cannot be saved, or the hub refused.
    """
    hub = _hub()
    with tempfile.TemporaryDirectory() as scratch:
        folder = save(network, Path(scratch) / "network", spec)
        try:
            hub.create_repo(repository, private=private, exist_ok=True)
            # The card may have been written by hand there.
            kept = [CARD] if hub.file_exists(repository, CARD, revision=revision) else None
            commit = hub.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision,
                commit_message=message,
                ignore_patterns=kept,
            )
        except (OSError, ValueError) as error:
            raise HubError(f"cannot push to {repository!r}: {_first_line(error)}") from error
    return str(commit)


def load(source: Path | str, *, revision: str | None = None) -> fx.GraphModule:
    """The network of a folder, or of a repository `owner/name`; in eval mode, on the CPU.

    `revision` is a branch, tag or commit of a repository.

    Raises:
        HubError: there is none, or it is damaged.
        SpecError: its spec is wrong for this version.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(str(source), revision)
    elif revision is not None:
        raise HubError(f"{source} is a folder; only a repository has revisions")
    spec = _read_spec(folder / CONFIG)
    model = compile(spec, device="cpu")

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise HubError(f"cannot read {folder / WEIGHTS}: {_first_line(error)}") from error
    return model.eval()


def _network(
    network: fx.GraphModule | Path | str, spec: NetworkSpec | Path | str | None
) -> tuple[fx.GraphModule, NetworkSpec]:
    if isinstance(network, fx.GraphModule):
        if spec is None:
            raise HubError("a compiled network does not hold its spec; pass it as `spec`")
        spec = spec if isinstance(spec, NetworkSpec) else load_spec(spec)
        expected = {key: t.shape for key, t in compile(spec, device="meta").state_dict().items()}
        if {key: tensor.shape for key, tensor in network.state_dict().items()} != expected:
            raise HubError("the network has other weights than one compiled from this spec")
        return network, spec
    folder = Path(network)
    if not (folder / RESOLVED_SPEC).is_file():
        raise HubError(f"{folder} is no run folder: it has no {RESOLVED_SPEC}")
    try:
        return load_network(folder), load_spec(folder / RESOLVED_SPEC)
    except StorageError as error:
        raise HubError(str(error)) from error


def _read_spec(path: Path) -> NetworkSpec:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        data, expected = content["spec"], content["spec_hash"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "graphc did not write it"
        raise HubError(f"cannot read {path}: {reason}") from error
    spec = loads(json.dumps(data))
    if content_hash(spec) != expected:
        raise HubError(
            f"{path}: the spec's hash is {content_hash(spec)}, not {expected}; the spec was "
            "changed, or is read by a version of graphc that means something else by it"
        )
    return spec


def _download(repository: str, revision: str | None) -> Path:
    hub = _hub()
    try:
        return Path(
            hub.snapshot_download(repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS])
        )
    except (OSError, ValueError) as error:
        raise HubError(
            f"{repository!r} is no folder, and no repository that can be loaded: "
            f"{_first_line(error)}"
        ) from error


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise HubError("repositories need huggingface_hub: pip install 'graphc-nn[hub]'") from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _card(spec: NetworkSpec) -> str:
    """What a visitor reads first."""
    cost = count(analyze(spec)[0])
    channels, height, width = cost.input_shape
    return f"""\
---
library_name: graphc
pipeline_tag: image-classification
tags:
- graphc
---

# {spec.name}

{cost.params:,} parameters, {cost.conv_macs:,} conv MACs, images of {channels} x {height} x {width},
{spec.head.num_classes} classes. Load it with its folder or repository:

```python
from compiler.interop import hub

model = hub.load("FOLDER OR OWNER/NAME")
```

The network, as graphc reads it:

```yaml
{dump(spec)}```
"""
