"""Every pass on a compiled network: same numbers before and after, and what it is for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphspec
from compiler import analyze, compile, count
from compiler.fx_passes import fold_batch_norm, open_shares, specialise
from runtime.gating import inference, pin_routes
from runtime.sparse import sparse
from tests.runtime.test_sparse import SPEC, images, randomized
from tests.strategies import specs

MIXED = """
version: 1
name: mixed
input_shape: [3, 8, 8]
stem: {kind: conv_bn_relu, width: 6}
stages:
  - name: layer1
    width: 6
    depth: 2
    block: conv_bn_relu
    edge_weights: learned
    wiring:
      kind: explicit
      edges:
        - [input, n1]
        - [n1, n2]
        - {source: input, target: n2, edge_weights: routed}
        - {source: n1, target: output, edge_weights: routed}
        - [n2, output]
        - [input, output]
head: {kind: pooled_linear, num_classes: 5}
"""


def batch_norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def with_statistics(model):
    generator = torch.Generator().manual_seed(2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        elif name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return model


@settings(max_examples=30)
@given(spec=specs())
def test_folding_keeps_the_numbers_and_the_original(spec):
    model = with_statistics(randomized(spec))
    x = images(spec, 2)
    before = batch_norms(model)
    with torch.no_grad():
        expected = model(x)
        folded = fold_batch_norm(model)
        torch.testing.assert_close(folded(x), expected)
        torch.testing.assert_close(sparse(folded)(x), expected)
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)

    assert batch_norms(model) == before
    assert batch_norms(folded) < before


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "regnety_006", "vgg16_bn"])
def test_folding_leaves_no_batch_norm_in_networks_where_it_follows_convolutions(name, repository):
    spec = graphspec.load(repository / f"examples/{name}.yaml", ["input_shape=[3,32,32]"])
    model = with_statistics(compile(spec).eval())
    x = torch.randn(1, 3, 32, 32)
    folded = fold_batch_norm(model)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-3, atol=1e-3)

    assert batch_norms(folded) == 0


@settings(max_examples=30)
@given(spec=specs(), threshold=st.sampled_from([0.0, 0.4, 0.5, 0.6]), seed=st.integers(0, 9))
def test_specialising_to_the_calibration_set_keeps_its_numbers(spec, threshold, seed):
    graph, _ = analyze(spec)
    model = with_statistics(randomized(spec, threshold, seed))
    x = images(spec, 4)
    result = specialise(model, graph, open_shares(model, [x[:2], x[2:]]))
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), model(x))

    assert all(edge.share == 0 for edge in result.edges)
    before, after = count(graph), count(result.graph)
    assert after.params == sum(p.numel() for p in result.model.parameters())
    assert after.macs < before.macs if result.edges else after == before


def test_specialising_removes_what_seldom_opens_and_reports_it():
    spec = graphspec.loads(SPEC)
    graph, _ = analyze(spec)
    model = randomized(spec)
    share = torch.ones(6, 6).tril(-1)
    share[2, 0], share[2, 1] = 0.03, 0.01  # nothing feeds n2 any more
    share[4, 3] = 0.04
    result = specialise(model, graph, {"layer1": share}, at_most=0.05)

    assert result.nodes == ("layer1.n2",)
    shares = {(edge.source, edge.target): edge.share for edge in result.edges}
    assert shares[("input", "n2")] == pytest.approx(0.03)
    assert shares[("n3", "n4")] == pytest.approx(0.04)
    assert ("n2", "n3") in shares, "edges of a node that goes"
    assert ("input", "n1") not in shares
    names = [node.name for node in result.graph.stages[0].nodes]
    assert names == ["input", "n1", "n3", "n4", "output"]
    keys = set(result.model.state_dict())
    assert keys < set(model.state_dict())
    routes = torch.ones(6, 6).bool()
    for source, target in [(0, 2), (1, 2), (3, 4)]:
        routes[target, source] = False
    pin_routes(model, {"layer1": routes})
    pin_routes(result.model, {"layer1": torch.ones(5, 5).bool()})
    x = images(spec, 3)
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), model(x))


def test_a_specialised_network_trains():
    spec = graphspec.loads(SPEC)
    graph, _ = analyze(spec)
    model = randomized(spec)
    share = torch.ones(6, 6).tril(-1)
    share[3, :] = 0
    smaller = specialise(model, graph, {"layer1": share}).model.train()
    smaller(images(spec, 3)).square().sum().backward()

    assert all(parameter.grad is not None for parameter in smaller.parameters())
    assert all(p.grad is None for p in model.parameters()), "weights are copied, not shared"


def test_learned_edges_stay_where_no_routed_edge_does():
    spec = graphspec.loads(MIXED)
    graph, _ = analyze(spec)
    model = randomized(spec)
    share = torch.ones(4, 4).tril(-1)
    share[2, 0] = share[3, 1] = 0
    result = specialise(model, graph, {"layer1": share})
    pin_routes(model, {"layer1": share.bool()})
    x = images(spec, 3)
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), model(x))


def test_pinned_routes_are_no_thresholds():
    spec = graphspec.loads(SPEC)
    graph, _ = analyze(spec)
    model = randomized(spec)
    share = torch.ones(6, 6).tril(-1)
    pin_routes(model, {"layer1": share.bool()})
    with pytest.raises(ValueError, match="routes are pinned"):
        specialise(model, graph, {"layer1": share})


def test_a_block_that_cannot_be_traced_stays(monkeypatch):
    model = compile(graphspec.loads(SPEC)).eval()
    block = type(model.layer1.get_submodule("n1"))
    forward = block.forward
    monkeypatch.setattr(block, "forward", lambda self, x: forward(self, x) if len(x) else x)
    assert 0 < batch_norms(fold_batch_norm(model)) < batch_norms(model)


def test_an_empty_calibration_set_is_refused():
    model = randomized(graphspec.loads(SPEC))
    with pytest.raises(ValueError, match="calibration set is empty"):
        open_shares(model, [])


def test_settings_of_gates_are_kept():
    spec = graphspec.loads(SPEC)
    graph, _ = analyze(spec)
    model = randomized(spec)
    share = torch.ones(6, 6).tril(-1)
    share[4, 1] = 0
    with inference(model, mode="soft", rule="literal"):
        smaller = specialise(model, graph, {"layer1": share}).model
    gate = smaller.layer1.gate.n1
    assert (gate.mode, gate.rule) == ("soft", "literal")
