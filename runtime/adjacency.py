"""Per-sample edge weights of one stage, `M[b, target, source]` (DG-Net section 3.4).

A row holds a node's input edges, a column its output edges. The matrix is a value that the
program threads, never a buffer that it mutates: it grows by one column a node, so that
autograd, torch.compile and concurrent forwards need no special care.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def selector(positions: Sequence[int]) -> slice | list[int]:
    """An index for `positions`: a slice where they are consecutive (a view, no copy)."""
    first, last = positions[0], positions[-1]
    if list(positions) == list(range(first, last + 1)):
        return slice(first, last + 1)
    return list(positions)


def append_column(
    adjacency: Tensor | None, weights: Tensor, targets: Sequence[int], num_nodes: int
) -> Tensor:
    """The matrix with one more column: the next node's output edges, in order of `targets`.

    Shape: adjacency (B, N, j) or None for j = 0, weights (B, T) -> (B, N, j + 1)
    """
    where = selector(targets)
    if isinstance(where, slice):
        column = F.pad(weights, (where.start, num_nodes - where.stop))
    else:
        column = weights.new_zeros(weights.shape[0], num_nodes)
        column[:, where] = weights
    column = column.unsqueeze(2)
    return column if adjacency is None else torch.cat((adjacency, column), dim=2)


def read_row(adjacency: Tensor, target: int, sources: Sequence[int]) -> Tensor:
    """The weights of `target`'s input edges, in the order of `sources`.

    Shape: adjacency (B, N, j) -> (B, S)
    """
    return adjacency[:, target, selector(sources)]
