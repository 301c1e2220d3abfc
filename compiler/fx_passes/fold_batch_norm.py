from __future__ import annotations

import copy

from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]


def fold_batch_norm(model: fx.GraphModule) -> fx.GraphModule:
    """A copy for inference whose convolutions contain the batch norms that follow them.

    1. A batch norm that alone reads a convolution of its block becomes part of its weights.
    2. Other batch norms (DenseNet's, which come first) stay.
    3. A block that fx cannot trace stays as it is.

    Shape: that of `model`
    """
    folded = copy.deepcopy(model).eval()
    for parent in (folded, *(c for c in folded.children() if isinstance(c, fx.GraphModule))):
        for name, block in parent.named_children():
            if isinstance(block, fx.GraphModule) or not _has_batch_norm(block):
                continue
            try:
                parent.set_submodule(name, fuse(block, inplace=True))
            except Exception:  # tracing runs a block's own code on proxies
                continue
    return folded


def _has_batch_norm(block: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in block.modules())
