"""Sparse inference computes what masked inference computes, and less of it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import graphspec
from compiler import compile
from runtime import kernels
from runtime.gating import gates, inference, pin_routes, set_inference
from runtime.kernels import cpu
from runtime.outputs import stages, wiring, with_outputs
from runtime.sparse import SparseStage, sparse
from tests.strategies import specs

SPEC = """
version: 1
name: routes
input_shape: [3, 8, 8]
stem: {kind: conv_bn_relu, width: 6}
stages:
  - {name: layer1, depth: 4, width: 6, block: conv_bn_relu, wiring: complete,
     input_node: {kind: conv_bn_relu, kernel: 1}, edge_weights: {kind: routed, bias_init: 0.0}}
  - {name: layer2, depth: 4, width: 8, stride: 2, block: separable_conv,
     wiring: chain, edge_weights: learned}
head: {kind: pooled_linear, num_classes: 5}
"""
NODES = 6


def randomized(spec, threshold: float = 0.5, seed: int = 0):
    """A float64 network in eval mode whose routers differ much from sample to sample."""
    generator = torch.Generator().manual_seed(seed)
    model = compile(spec).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 3.0 if ".router." in name else 0.3
            parameter.add_(
                scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
        for name, tensor in model.state_dict().items():
            if name.endswith("threshold"):
                tensor.fill_(threshold)
    return model


def images(spec, batch: int):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *spec.input_shape, generator=generator, dtype=torch.float64)


def tiny(threshold: float = 0.5):
    spec = graphspec.loads(SPEC)
    return spec, randomized(spec, threshold, seed=11)


def called(model, x):
    """How many samples each block of layer1 was called for."""
    counts = dict.fromkeys(("n1", "n2", "n3", "n4"), 0)
    handles = [
        model.layer1.get_submodule(name).register_forward_hook(
            lambda _m, args, _out, name=name: counts.__setitem__(name, len(args[0]))
        )
        for name in counts
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize("rule", ["consistent", "literal"])
@given(
    spec=specs(),
    batch=st.sampled_from([1, 2, 5]),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    seed=st.integers(0, 9),
    with_gradients=st.booleans(),
)
def test_sparse_equals_masked(spec, batch, threshold, seed, rule, with_gradients):
    model = randomized(spec, threshold, seed)
    x = images(spec, batch)
    with inference(model, mode="masked", rule=rule), torch.set_grad_enabled(with_gradients):
        torch.testing.assert_close(sparse(model)(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(cpu.library() is None, reason="no C compiler")
@pytest.mark.parametrize("batch", [1, 5])
def test_sparse_equals_masked_by_kernels(monkeypatch, batch):
    """The kernels take float32, which the networks above are not."""
    used = []
    call = kernels.weighted_sum
    monkeypatch.setattr(
        kernels, "weighted_sum", lambda *args: used.append(len(args)) or call(*args)
    )
    for seed in range(10):
        model = randomized(graphspec.loads(SPEC), seed=seed).float()
        x = images(graphspec.loads(SPEC), batch).float()
        with torch.no_grad():
            torch.testing.assert_close(sparse(model)(x), model(x), rtol=1e-4, atol=1e-4)
    assert used.count(4) > 20, "sums over open edges alone"


def test_an_empty_batch_is_that_of_masked_inference():
    _, model = tiny()
    x = torch.zeros(0, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert sparse(model)(x).shape == model(x).shape == (0, 5)


def test_what_does_not_go_together_is_refused():
    _, model = tiny()
    with pytest.raises(ValueError, match="logits alone"):
        sparse(with_outputs(model))
    with pytest.raises(ValueError, match="'layer1' is sparse"):
        with_outputs(sparse(model))
    with pytest.raises(ValueError, match="sparse already"):
        sparse(sparse(model))


def test_both_ways_of_a_sparse_stage_move_together():
    spec = graphspec.loads(SPEC.replace("bias_init: 0.0", "learnable_threshold: false"))
    skipping = sparse(compile(spec)).double().eval()
    with torch.no_grad(), inference(skipping, mode="soft"):
        assert skipping(images(spec, 2)).dtype == torch.float64
    whole = skipping.layer1._stage[0]
    assert {tensor.dtype for tensor in whole.state_dict().values()} <= {torch.float64, torch.int64}


@given(data=st.data(), batch=st.sampled_from([1, 3]), is_mask=st.booleans())
def test_sparse_equals_masked_under_pinned_routes(data, batch, is_mask):
    spec, model = tiny()
    x = images(spec, batch)
    shape = (data.draw(st.sampled_from([1, batch])), NODES, NODES)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    routes = torch.rand(shape, generator=generator) < data.draw(st.floats(0, 1))
    if not is_mask:
        routes = routes * torch.rand(shape, generator=generator)
    pin_routes(model, {"layer1": routes})
    with torch.no_grad():
        torch.testing.assert_close(sparse(model)(x), model(x), rtol=1e-5, atol=1e-5)


def test_soft_mode_and_training_run_the_whole_stage():
    spec, model = tiny(threshold=1.0)
    x = images(spec, 3)
    skipping = sparse(model)
    with torch.no_grad(), inference(model, mode="soft"):
        torch.testing.assert_close(skipping(x), model(x), rtol=0, atol=0)
    assert set(called(skipping, x).values()) == {0}, "a score is below 1: all edges closed"
    skipping.train()
    assert set(called(skipping, x).values()) == {3}


def test_samples_are_grouped_by_node():
    spec, model = tiny()
    x = images(spec, 8)
    with torch.no_grad():
        _, adjacency, _ = with_outputs(model)(x)
    alive = (adjacency["layer1"] != 0).any(2).sum(0).tolist()
    counts = called(sparse(model), x)

    assert counts == dict(zip(counts, alive[1:5], strict=True))
    assert 0 < sum(counts.values()) < 32, "the example has open and closed nodes"
    assert set(called(model, x).values()) == {8}


def test_a_node_without_an_open_way_to_the_output_is_not_computed():
    """Pinned routes are known beforehand: n2 is fed but nobody uses it, n3 feeds only n2's kin."""
    spec, model = tiny()
    routes = torch.zeros(NODES, NODES, dtype=torch.bool)
    for source, target in [(0, 1), (1, 5), (0, 2), (2, 3), (0, 4), (4, 5)]:
        routes[target, source] = True
    pin_routes(model, {"layer1": routes})

    assert called(sparse(model), images(spec, 2)) == {"n1": 2, "n2": 0, "n3": 0, "n4": 2}


def test_everything_closed_gives_zeros_and_logits_of_the_rest():
    spec, model = tiny(threshold=1.0)
    x = images(spec, 2)
    with torch.no_grad():
        _, _, features = with_outputs(model, features=["layer1"])(x)
        torch.testing.assert_close(sparse(model)(x), model(x))

    assert not features["layer1"].any()
    assert torch.isfinite(model(x)).all()


def test_with_nothing_closed_the_dense_sum_runs():
    spec, model = tiny(threshold=0.0)
    x = images(spec, 8)
    skipping = sparse(model)
    sums = []
    for name in ("n2", "n3", "n4", "output"):
        module = model.layer1.get_submodule(f"aggregate.{name}")
        module.register_forward_hook(lambda _m, _a, _o, name=name: sums.append(name))
    with torch.no_grad():
        skipping(x)

    assert sums == ["n2", "n3", "n4", "output"]


def test_a_sample_s_result_does_not_depend_on_its_batch():
    spec, model = tiny()
    x = images(spec, 6)
    skipping = sparse(model)
    with torch.no_grad():
        together = skipping(x)
        alone = torch.cat([skipping(image.unsqueeze(0)) for image in x])

    torch.testing.assert_close(together, alone)


def test_it_shares_weights_and_keys_and_can_be_copied():
    spec, model = tiny()
    skipping = sparse(model)
    assert set(skipping.state_dict()) == set(model.state_dict())
    x = images(spec, 8)
    with torch.no_grad():
        before = skipping(x)
        torch.testing.assert_close(copy.deepcopy(skipping)(x), before)
        model.layer1.n1.conv.weight.mul_(2)
        assert not torch.equal(skipping(x), before)
    assert not isinstance(skipping.layer2, SparseStage), "a stage without routes stays as it is"


def test_gradients_flow_through_open_edges():
    spec, model = tiny()
    x = images(spec, 8)
    grads = []
    for network in (model, sparse(model)):
        network.zero_grad()
        network(x).square().sum().backward()
        grads.append(
            {
                name: p.grad.clone()
                for name, p in network.named_parameters()
                if p.grad is not None and ".router." not in name
            }
        )

    for name, grad in grads[1].items():
        torch.testing.assert_close(grad, grads[0][name])


def test_channels_last_stays():
    spec, model = tiny()
    model = model.to(memory_format=torch.channels_last)
    formats = []
    for name in ("n1", "n2", "n3", "n4"):
        model.layer1.get_submodule(name).register_forward_hook(
            lambda _m, args, _o: formats.append(
                args[0].is_contiguous(memory_format=torch.channels_last)
            )
        )
    with torch.no_grad():
        sparse(model)(images(spec, 8).to(memory_format=torch.channels_last))

    assert formats
    assert all(formats)


def test_a_pinned_matrix_is_the_adjacency_and_a_mask_opens_what_thresholds_close():
    spec, model = tiny(threshold=1.0)
    x = images(spec, 2)
    matrix = torch.rand(NODES, NODES, dtype=torch.float64).tril(-1)
    pin_routes(model, {"layer1": matrix})
    with torch.no_grad():
        _, pinned, _ = with_outputs(model)(x)
        pin_routes(model, {"layer1": torch.ones(NODES, NODES, dtype=torch.bool)})
        _, masked, _ = with_outputs(model)(x)
        pin_routes(model, {"layer1": None})
        _, free, _ = with_outputs(model)(x)
        with inference(model, mode="soft"):
            _, soft, _ = with_outputs(model)(x)

    torch.testing.assert_close(pinned["layer1"], matrix.expand(2, -1, -1))
    torch.testing.assert_close(masked["layer1"], soft["layer1"])
    assert not free["layer1"].any()
    assert not any("pinned" in key for key in model.state_dict())


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ({"layer9": torch.ones(6, 6)}, "no stage 'layer9' with routes (known: layer1)"),
        ({"layer2": torch.ones(6, 6)}, "no stage 'layer2' with routes (known: layer1)"),
        ({"layer1": torch.ones(5, 5)}, "has 6 nodes: its routes are a matrix (6, 6)"),
    ],
)
def test_routes_that_do_not_fit_are_refused(routes, message):
    _, model = tiny()
    with pytest.raises(ValueError) as error:
        pin_routes(model, routes)
    assert message in str(error.value)


def test_modes_are_those_of_the_gates():
    _, model = tiny()
    set_inference(model, mode="soft", rule="literal")
    assert {(gate.mode, gate.rule) for gate in gates(sparse(model))} == {("soft", "literal")}
    assert [name for name, _ in stages(model)] == ["layer1", "layer2"]
    assert wiring(dict(stages(model))["layer1"]).nodes[0] == "input"
    assert isinstance(sparse(model), nn.Module)
