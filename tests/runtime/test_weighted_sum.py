"""Weighted sums and taps: one meaning under every way to run, differentiate or copy them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from runtime import kernels
from runtime.adjacency import append_column, read_row
from runtime.kernels import cpu
from runtime.weighted_sum import Tap, tapped_column, weighted_sum

DEPTH = 4

# dynamo looks at `.grad` of every input; forward mode compiles its formulas by torch.jit.
dynamo_warns = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
jit_warns = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


class Stage(nn.Module):
    """A complete graph of 1x1 convolutions, with or without taps; `products` is the plain sum.

    Its weights are parameters, or with `routed` what a linear layer makes of each value.
    """

    def __init__(
        self, channels: int = 3, *, batch: int = 1, plain: bool = False, routed: bool = False
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.ParameterList(
            torch.rand(batch, j, generator=generator) for j in range(1, 0 if routed else DEPTH + 1)
        )
        self.blocks = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(DEPTH))
        self.routers = nn.ModuleList(
            nn.Linear(channels, DEPTH - i) for i in range(DEPTH if routed else 0)
        )
        with torch.no_grad():
            for parameter in (*self.blocks.parameters(), *self.routers.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        self.tap = nn.Identity() if plain else Tap()
        self.sum = products if plain else weighted_sum
        self.column = untapped if plain else tapped_column
        self.breaks, self.checkpoints = False, None

    def forward(self, x: Tensor) -> Tensor:
        values, adjacency = [self.tap(x)], None
        for index, block in enumerate(self.blocks):
            if self.breaks:
                torch._dynamo.graph_break()
            if self.routers:
                adjacency = self.route(index, values[-1], adjacency)
                row = read_row(adjacency, index + 1, range(index + 1))
            else:
                row = self.weights[index]
            total = self.sum(values, row, index + 1)
            if self.checkpoints is not None:
                total = checkpoint(block, total, use_reentrant=self.checkpoints)
            else:
                total = block(total)
            values.append(self.tap(torch.tanh(total)))
        return values[-1]

    def route(self, index: int, value: Tensor, adjacency: Tensor | None) -> Tensor:
        targets = range(index + 1, DEPTH + 1)
        weights = torch.sigmoid(self.routers[index](value.mean((2, 3))))
        return append_column(adjacency, self.column(weights, targets, value), targets, DEPTH + 1)


def products(values, weights, _node=None):
    return sum(v * weights[:, i].reshape(-1, 1, 1, 1) for i, v in enumerate(values))


def untapped(weights, _nodes, _value):
    return weights


both_kinds = pytest.mark.parametrize("routed", [False, True])
both_paths = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], indirect=True)


@pytest.fixture
def dtype(request, monkeypatch):
    """float64 takes torch's operations; float32 the kernels, for tensors of any size."""
    if request.param is torch.float32:
        if cpu.library() is None:
            pytest.skip("no C compiler on this machine")
        monkeypatch.setattr(kernels.fits, "__defaults__", (0,))
    return request.param


def pair(dtype=torch.float64, **options):
    """Our stage, the plain one with equal parameters, and images."""
    ours, plain = Stage(**options), Stage(**options, plain=True)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(1))
    return ours.to(dtype), plain.to(dtype), x.to(dtype)


def gradients(stage, x, forward=None):
    x = x.clone().requires_grad_()
    out = stage(x) if forward is None else forward(x)
    grads = torch.autograd.grad(out.square().sum(), [x, *stage.parameters()])
    return [out.detach(), *grads]


def assert_equal(ours, theirs, **tolerance):
    assert len(ours) == len(theirs)
    if not tolerance and any(tensor.dtype is torch.float32 for tensor in theirs):
        tolerance = {"rtol": 1e-4, "atol": 1e-4}
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, **tolerance)


@both_kinds
@pytest.mark.parametrize("batch", [1, 2])
def test_values_and_gradients_are_those_of_products(batch, routed):
    ours, plain, x = pair(batch=batch, routed=routed)
    assert_equal(gradients(ours, x), gradients(plain, x))


@pytest.mark.parametrize("batch", [1, 2])
def test_gradcheck_of_sums_and_taps(batch):
    ours, _, x = pair(batch=batch)
    inputs = (x[:, :, :2, :2].clone().requires_grad_(), *ours.weights)

    def run(x, *weights):
        tap, values = Tap(), [x]
        for row in weights:
            values = [
                tap(value) if index == len(values) - 1 else value
                for index, value in enumerate(values)
            ]
            values.append(torch.tanh(weighted_sum(values, row)))
        return values[-1]

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@both_kinds
@both_paths
def test_a_second_backward_over_a_retained_graph(routed, dtype):
    ours, plain, x = pair(dtype, routed=routed)
    for stage in (ours, plain):
        loss = stage(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()

    assert_equal([p.grad for p in ours.parameters()], [p.grad for p in plain.parameters()])


@both_kinds
@both_paths
def test_a_backward_that_stops_early_leaves_nothing_for_the_next(routed, dtype):
    """Gradients of the last weights alone do not run the taps; nor may they feed them."""

    def last(stage):
        return stage.routers[-1].weight if routed else stage.weights[-1]

    ours, plain, x = pair(dtype, routed=routed)
    results = []
    for stage in (ours, plain):
        x = x.clone().requires_grad_()
        loss = stage(x).square().sum()
        partial = torch.autograd.grad(loss, last(stage), retain_graph=True)
        inputs = [x, *stage.parameters()]
        results.append([*partial, *torch.autograd.grad(loss, inputs)])

    assert_equal(*results)


def test_a_backward_that_fails_leaves_nothing_for_the_next():
    ours, plain, x = pair()

    def fail(_grad):
        raise RuntimeError("on purpose")

    x.requires_grad_()
    loss = ours(x).square().sum()
    handle = ours.weights[1].register_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        loss.backward(retain_graph=True)
    handle.remove()

    again = torch.autograd.grad(loss, [x, *ours.parameters()])
    assert_equal(list(again), gradients(plain, x.detach())[1:])


@pytest.mark.parametrize(
    "wanted",
    [
        ["x"],
        ["weights.2"],
        ["blocks.1.weight"],
        ["x", "weights.0"],
        ["routers.1.weight"],
        ["routers.0.bias", "routers.3.bias"],
        ["x", "routers.2.weight"],
        ["x", "blocks.1.weight", "routers.1.bias"],
    ],
)
@pytest.mark.parametrize("asks", ["requires_grad", "grad"])
@both_paths
def test_only_some_inputs_need_gradients(wanted, asks, dtype):
    """Because no others are said to, or because `grad` is asked for no others."""
    routed = any(name.startswith("routers") for name in wanted)
    ours, plain, x = pair(dtype, routed=routed)
    results = []
    for stage in (ours, plain):
        image = x.clone().requires_grad_("x" in wanted or asks == "grad")
        inputs = [image] if "x" in wanted else []
        for name, parameter in stage.named_parameters():
            parameter.requires_grad_(name in wanted or asks == "grad")
            inputs += [parameter] if name in wanted else []
        results.append(torch.autograd.grad(stage(image).square().sum(), inputs))

    assert_equal(*map(list, results))


def test_users_of_a_tapped_value_that_are_no_sums_count_too():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 1, dtype=torch.float64)

    value = Tap()(x * 1)
    loss = weighted_sum([value], weights).sum() + value.mean((2, 3)).square().sum() + value.max()
    (ours,) = torch.autograd.grad(loss, x)
    loss = products([x], weights).sum() + x.mean((2, 3)).square().sum() + x.max()
    (theirs,) = torch.autograd.grad(loss, x)

    torch.testing.assert_close(ours, theirs)


@dynamo_warns
@both_kinds
@pytest.mark.parametrize("fullgraph", [True, False])
def test_gradients_under_torch_compile(fullgraph, routed):
    """fullgraph=False traced taps with wrong gradients once: here the graph breaks at each sum."""
    ours, plain, x = pair(routed=routed)
    ours.breaks = not fullgraph
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=fullgraph, backend="aot_eager")

    assert_equal(gradients(ours, x, compiled), gradients(plain, x))


@dynamo_warns
@both_kinds
@pytest.mark.parametrize("compiled", ["sum", "tap", "column"])
def test_gradients_where_only_a_part_is_compiled(compiled, routed):
    ours, plain, x = pair(routed=routed)
    torch._dynamo.reset()
    setattr(ours, compiled, torch.compile(getattr(ours, compiled), backend="aot_eager"))

    assert_equal(gradients(ours, x), gradients(plain, x))


@dynamo_warns
@pytest.mark.slow
@both_kinds
@pytest.mark.parametrize("fullgraph", [True, False])
def test_gradients_under_inductor(fullgraph, routed):
    ours, plain, x = pair(routed=routed)
    ours.breaks = not fullgraph
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=fullgraph)

    assert_equal(gradients(ours, x, compiled), gradients(plain, x))


@both_kinds
@both_paths
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_of_blocks_and_of_the_whole(use_reentrant, routed, dtype):
    ours, plain, x = pair(dtype, routed=routed)
    expected = gradients(plain, x)

    def forward(x):
        return checkpoint(ours, x, use_reentrant=use_reentrant)

    x = x.requires_grad_()
    forward(x).square().sum().backward()
    assert_equal([x.grad, *(p.grad for p in ours.parameters())], expected[1:])
    ours.checkpoints, x.grad = use_reentrant, None
    ours.zero_grad()
    ours(x).square().sum().backward()
    assert_equal([x.grad, *(p.grad for p in ours.parameters())], expected[1:])


@jit_warns
@both_kinds
def test_function_transforms(routed):
    ours, plain, x = pair(routed=routed)
    parameters = dict(ours.named_parameters())

    def loss(stage):
        return lambda parameters, x: (
            torch.func.functional_call(stage, parameters, (x,)).square().sum()
        )

    called = torch.func.functional_call(ours, parameters, (x,)).square().sum()
    expected = gradients(plain, x)[2:]
    assert_equal(list(torch.autograd.grad(called, list(parameters.values()))), expected)
    assert_equal(list(torch.func.grad(loss(ours))(parameters, x).values()), expected)
    samples = x[:, None]
    per_sample = torch.func.vmap(torch.func.grad(loss(ours)), (None, 0))(parameters, samples)
    assert_equal([grad.sum(0) for grad in per_sample.values()], expected)
    _, tangent = torch.func.jvp(lambda x: ours(x), (x,), (torch.ones_like(x),))
    _, their_tangent = torch.func.jvp(lambda x: plain(x), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, their_tangent)


@jit_warns
@both_kinds
def test_forward_mode_gradients(routed):
    ours, plain, x = pair(routed=routed)
    tangents = []
    for stage in (ours, plain):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            tangents.append(torch.autograd.forward_ad.unpack_dual(stage(dual)).tangent)

    torch.testing.assert_close(*tangents)


@both_kinds
def test_autocast_keeps_bfloat16_and_float32_weights_keep_their_gradient(routed):
    ours, plain, x = pair(routed=routed)
    ours, plain, x = ours.float(), plain.float(), x.float()
    results = []
    for stage in (ours, plain):
        x = x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = stage(x)
        results.append(torch.autograd.grad(out.float().square().sum(), [x, *stage.parameters()]))

    assert all(grad.dtype == torch.float32 for grad in results[0])
    assert_equal(*map(list, results), rtol=0.1, atol=0.1)
    features = [torch.randn(2, 3, 4, 4, dtype=torch.bfloat16) for _ in range(3)]
    assert weighted_sum(features, torch.rand(2, 3)).dtype == torch.bfloat16


def test_values_of_several_types_are_promoted_as_products_are():
    values = [torch.randn(2, 3, 4, 4, dtype=torch.bfloat16), torch.randn(2, 3, 4, 4)]
    total = weighted_sum(values, torch.ones(1, 2))

    torch.testing.assert_close(total, values[0] + values[1])


def test_channels_last_survives_sums_and_their_gradients():
    """Also where the gradient comes in expanded, as from pooling, and with a router's beside it."""
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    leaf = x * 1
    grads = []
    leaf.register_hook(grads.append)
    value = Tap()(leaf)
    weights = torch.rand(2, 2, requires_grad=True)
    first = weighted_sum([value, value], weights)
    second = weighted_sum([value, first], weights)
    assert second.is_contiguous(memory_format=torch.channels_last)
    (second.mean((2, 3)).sum() + value.sum((2, 3)).sum()).backward()

    assert grads[0].is_contiguous(memory_format=torch.channels_last)


def test_without_gradients_nothing_is_kept():
    ours, plain, x = pair()
    with torch.no_grad():
        assert Tap()(x) is x
        torch.testing.assert_close(ours(x), plain(x))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), plain(x))
    assert Tap()(x) is x, "nothing to gather for a value that needs no gradient"


def test_a_sum_keeps_its_values_and_no_product():
    """Peak memory is that of a static stage: what backward keeps is what existed before."""
    values = [(torch.randn(2, 3, 4, 4, requires_grad=True) * 1) for _ in range(3)]
    weights = torch.rand(2, 3, requires_grad=True)
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        weighted_sum([Tap()(value) for value in values], weights)

    storages = {tensor.untyped_storage().data_ptr() for tensor in kept}
    existing = {tensor.untyped_storage().data_ptr() for tensor in (weights, *values)}
    assert storages <= existing


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_trace_holds_the_sums(monkeypatch):
    monkeypatch.setattr(kernels.fits, "__defaults__", (0,))
    ours, plain = Stage(routed=True), Stage(routed=True, plain=True)
    plain.load_state_dict(ours.state_dict())
    first, second = torch.randn(2, 2, 3, 5, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        traced = torch.jit.trace(ours, first)
        torch.testing.assert_close(traced(second), plain(second))


def test_copies_after_a_forward_work():
    ours, plain, x = pair()
    ours(x).sum()
    ours.sum = plain.sum = None
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        other.sum, plain.sum = weighted_sum, products
        assert_equal(gradients(other, x), gradients(plain, x))


def test_distributed_data_parallel(tmp_path):
    ours, plain, x = pair()
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(ours)
        wrapped(x).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()

    assert_equal([p.grad for p in ours.parameters()], gradients(plain, x)[2:])


@both_kinds
def test_large_tensors_go_through_kernels_once_each(monkeypatch, routed):
    if cpu.library() is None:
        pytest.skip("no C compiler on this machine")
    used = []

    def watch(name):
        call = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a: used.append(name) or call(*a))

    for name in ("weighted_sum", "dot_products", "sum_and_dot_products"):
        watch(name)
    ours, plain = (Stage(16, batch=2, routed=routed, plain=p) for p in (False, True))
    plain.load_state_dict(ours.state_dict())
    x = torch.randn((2, 16, 47, 47), generator=torch.Generator().manual_seed(1))

    assert_equal(gradients(ours, x), gradients(plain, x), rtol=1e-3, atol=1e-3)
    forward = ["weighted_sum"] * DEPTH
    if routed:
        assert used == [*forward, *["sum_and_dot_products"] * DEPTH], "one pass a value"
    else:
        assert used == [*forward, *["dot_products", "weighted_sum"] * DEPTH]
