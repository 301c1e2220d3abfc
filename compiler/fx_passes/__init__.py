"""Passes on the compiled network. Each returns a new `torch.fx.GraphModule`.

`runtime.sparse` and `runtime.outputs` rewrite programs too; they stand there because a trained
network needs them without the compiler.
"""

from __future__ import annotations

from compiler.fx_passes.fold_batch_norm import fold_batch_norm as fold_batch_norm
from compiler.fx_passes.specialise import Specialised as Specialised
from compiler.fx_passes.specialise import open_shares as open_shares
from compiler.fx_passes.specialise import specialise as specialise
