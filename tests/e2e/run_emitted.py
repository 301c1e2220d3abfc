"""Runs emitted networks as a stranger would: a script that can import torch, and nothing of ours.

Arguments: folders with `network.py`, `weights.safetensors` and `expected.pt`. Prints one JSON
object: by folder, what is wrong with the network in it; nothing, if it is as expected.
"""

import importlib.util
import json
import sys
from pathlib import Path

HIDDEN = {
    "accelerate", "click", "compiler", "graphspec", "jinja2", "matplotlib", "networkx", "pydantic",
    "runtime", "safetensors", "timm", "torchvision", "yaml",
}  # fmt: skip


class Hiding:
    """A finder of modules that finds none of ours, nor of what they need."""

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] in HIDDEN:
            return None
        return self._finder.find_spec(fullname, path, target)


sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
import torch  # noqa: E402

torch.set_num_threads(1)


def load(path: Path):
    spec = importlib.util.spec_from_file_location("network", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["network"] = module
    spec.loader.exec_module(module)
    return module


def find_faults(folder: Path) -> list[str]:
    module = load(folder / "network.py")
    expected = torch.load(folder / "expected.pt", weights_only=True)
    network = getattr(module, expected["class"])().to(expected["x"].dtype)
    faults = []
    if list(network.state_dict()) != list(expected["state"]):
        return ["state_dict keys differ"]
    x = expected["x"]
    for mode, run in expected["runs"].items():
        network.load_state_dict(expected["state"])
        network.train(mode == "train")
        if mode != "train" and hasattr(module, "set_inference"):
            module.set_inference(network, mode=mode)
        torch.manual_seed(5)
        outputs = network(x)
        grads = torch.autograd.grad(
            outputs.square().sum(), list(network.parameters()), materialize_grads=True
        )
        pairs = [("outputs", outputs, run["outputs"])]
        names = [name for name, _ in network.named_parameters()]
        pairs += zip(names, grads, run["grads"], strict=True)
        for name, ours, theirs in pairs:
            scale = theirs.abs().max().clamp_min(1)
            if not torch.allclose(ours / scale, theirs / scale, rtol=1e-6, atol=1e-6):
                faults.append(f"{mode}: {name} differs by {(ours - theirs).abs().max():.2e}")
    network.load_state_dict(expected["state"])
    if hasattr(module, "use_sparse"):
        faults += compare_sparse(module, network, x)
    return faults + train(network, x)


def compare_sparse(module, network, x) -> list[str]:
    """Skipping changes no output and no name."""
    network.eval()
    module.set_inference(network, mode="masked")
    keys = list(network.state_dict())
    with torch.inference_mode():
        expected = network(x)
        module.use_sparse(network)
        outputs = network(x)
    faults = [] if list(network.state_dict()) == keys else ["sparse: state_dict keys differ"]
    if not torch.allclose(outputs, expected, rtol=1e-6, atol=1e-6):
        faults.append(f"sparse: outputs differ by {(outputs - expected).abs().max():.2e}")
    return faults


def train(network, x) -> list[str]:
    """A few steps on one batch; the loss falls."""
    network.train()
    classes = network(x).shape[1]
    labels = torch.arange(len(x)) % classes
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        torch.manual_seed(6)  # the same units drop out in every step
        loss = torch.nn.functional.cross_entropy(network(x), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    faults = [f"no gradient: {missing}"] if missing else []
    return faults if losses[-1] < losses[0] else [*faults, f"the loss does not fall: {losses}"]


if __name__ == "__main__":
    found = {folder: find_faults(Path(folder)) for folder in sys.argv[1:]}
    imported = sorted(HIDDEN & {name.split(".")[0] for name in sys.modules})
    sys.stdout.write(json.dumps({"faults": found, "imported": imported}))
