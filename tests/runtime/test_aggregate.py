"""What nodes gather: rows of weights, and sums over closed edges."""

from __future__ import annotations

import pytest
import torch

from runtime.aggregate import LearnedSum, RoutedSum, Sum


def test_a_node_whose_edges_are_all_closed_receives_zeros():
    values = [torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2)]
    adjacency = torch.zeros(2, 3, 2, requires_grad=True)

    total = RoutedSum(2, [0, 1])(values, adjacency)
    total.sum().backward()

    assert torch.equal(total, torch.zeros(2, 3, 4, 4))
    assert all(torch.equal(value.grad, torch.zeros_like(value)) for value in values)
    torch.testing.assert_close(adjacency.grad[:, 2, 0], values[0].detach().sum((1, 2, 3)))


@pytest.mark.parametrize(
    ("module", "row"),
    [
        (Sum([1, 2, 0.5]), [1, 2, 0.5]),
        (Sum([1, 1, 1], mean=True), [1 / 3] * 3),
        (LearnedSum([None, 2.0, None], function="free", init=[0.5, 3.0]), [0.5, 2, 3]),
        (LearnedSum([None] * 3, function="sigmoid", init=[0.0] * 3, mean=True), [1 / 6] * 3),
    ],
)
def test_a_row_holds_the_weights_of_the_input_edges(module, row):
    values = [torch.randn(2, 3, 4, 4) for _ in range(3)]

    torch.testing.assert_close(module.row().double(), torch.tensor(row).double())
    torch.testing.assert_close(
        module(values), sum(value * weight for value, weight in zip(values, row, strict=True))
    )
