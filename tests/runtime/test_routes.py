from __future__ import annotations

import itertools

import pytest
import torch

from compiler import compile, count
from compiler.training.mac_share import node_macs
from graphspec import loads
from runtime import weighted_sum
from runtime.gating import inference
from runtime.outputs import Wiring, stages, wiring, with_outputs
from runtime.routes import MacShare, Recorder, living, recording, routed_targets
from runtime.training.budget import TEMPERATURE, MacBudget
from runtime.training.recipe import Recipe, RecipeError

SPEC = """\
version: 1
name: small
input_shape: [1, 8, 8]
stem: {kind: conv_bn_relu, width: 4}
stages:
  - name: layer1
    depth: 3
    width: 4
    block: conv_bn_relu
    wiring: complete
    edge_weights: %s
head: {kind: pooled_linear, num_classes: 2}
"""
CHAIN = Wiring(("input", "n1", "n2", "output"), ((1, (0,), ""), (2, (0, 1), ""), (3, (1, 2), "")))


def network(weights="routed"):
    torch.manual_seed(0)
    spec = loads(SPEC % weights)
    return spec, compile(spec)


def shares(spec, model, images, temperature=None):
    macs, total = node_macs(spec)
    share = MacShare(model, macs, total)
    with recording(model) as recorder, torch.no_grad():
        model(images)
        return share, share(share.openings(recorder.take(), temperature))


def test_node_macs_add_up_to_the_count():
    spec, _ = network()
    macs, total = node_macs(spec)
    assert total == count(spec).macs
    assert sum(sum(node) for nodes in macs.values() for node in nodes.values()) == total


def test_living_is_the_probability_of_being_reached():
    rng = torch.Generator().manual_seed(0)
    probability = torch.rand(4, 4, generator=rng)
    expected = torch.zeros(4)
    edges = [(1, 0), (2, 0), (2, 1)]
    for states in itertools.product((0.0, 1.0), repeat=3):
        is_open = dict(zip(edges, states, strict=True))
        alive1 = is_open[1, 0]
        alive2 = max(is_open[2, 0], is_open[2, 1] * alive1)
        chance = 1.0
        for edge, state in is_open.items():
            chance *= float(probability[edge] if state else 1 - probability[edge])
        expected += chance * torch.tensor([1.0, alive1, alive2, 1.0])
    assert torch.allclose(living(probability.unsqueeze(0), CHAIN)[0], expected)


def test_everything_open_is_everything():
    spec, model = network()
    _, found = shares(spec, model.eval(), torch.rand(3, 1, 8, 8))
    assert torch.allclose(found, torch.ones(3))


def test_share_counts_what_masked_inference_leaves_open():
    spec, model = network()
    with torch.no_grad():
        model.layer1.get_submodule("router.input").fc.weight.normal_(0, 3)
        model.layer1.threshold.copy_(torch.tensor([0.97, 0.94, 0.99, 0.5]))
    images = torch.randn(6, 1, 8, 8)
    macs, total = node_macs(spec)
    share, found = shares(spec, model.eval(), images)
    with inference(model, mode="masked", rule="literal"), torch.no_grad():
        _, adjacency, _ = with_outputs(model)(images)
    rows = wiring(dict(stages(model))["layer1"])
    is_open = adjacency["layer1"] != 0
    assert not bool(is_open[:, 1:, :].all())
    for sample in range(6):
        used = total - sum(
            sum(macs["layer1"][name]) for name in rows.nodes if name in macs["layer1"]
        )
        for target, sources, _ in rows.rows:
            node = macs["layer1"][rows.nodes[target]]
            opened = int(is_open[sample, target, list(sources)].sum())
            is_computed = opened or target == len(rows.nodes) - 1
            used += node.computing * bool(is_computed) + node.gathering / len(sources) * opened
        if "input" in macs["layer1"]:
            used += macs["layer1"]["input"].computing
        assert float(found[sample]) == pytest.approx(used / share.total, abs=1e-6)


def test_recorder_names_edges_as_the_adjacency_does():
    _, model = network()
    images = torch.rand(2, 1, 8, 8)
    with recording(model) as recorder, inference(model.eval(), mode="soft"), torch.no_grad():
        _, adjacency, _ = with_outputs(model)(images)
        found = recorder.take()
    for gate, (scores, thresholds) in found.items():
        weights = scores * torch.sigmoid(scores - thresholds)
        assert torch.allclose(adjacency["layer1"][:, routed_targets(gate), gate.node], weights)
    assert len(found) == 4
    assert not recorder.take()


def budget(spec, model, target=0.5):
    macs, total = node_macs(spec)
    return MacBudget(model, macs, total, target=target, weight=10.0)


def test_budget_pulls_thresholds_up():
    spec, model = network()
    term = budget(spec, model)
    model(torch.rand(4, 1, 8, 8))
    loss = term.loss()
    loss.backward()
    assert float(loss.detach()) > 0
    assert bool((model.layer1.threshold.grad[:-1] < 0).all())  # a step goes against the gradient
    assert all(p.grad is None for p in model.head.parameters())


def test_with_a_budget_training_computes_as_masked_inference_does():
    spec, model = network()
    with torch.no_grad():
        model.layer1.get_submodule("router.input").fc.weight.normal_(0, 3)
        model.layer1.threshold.copy_(torch.tensor([0.97, 0.94, 0.99, 0.5]))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # evaluation then normalises as the last batch did
    images = torch.randn(64, 1, 8, 8)
    budget(spec, model)
    trained = model.train()(images)
    with torch.no_grad():
        _, adjacency, _ = with_outputs(model.eval())(images)
    assert not bool((adjacency["layer1"] != 0)[:, 1:].all())
    assert torch.allclose(trained, model(images), atol=2e-2)
    soft = compile(spec).train()
    soft.load_state_dict(model.state_dict())
    assert not torch.allclose(trained, soft(images), atol=2e-2)


def test_gradients_with_a_budget_are_those_of_products(monkeypatch):
    spec, model = network()
    with torch.no_grad():
        model.layer1.threshold.copy_(torch.tensor([0.97, 0.94, 0.99, 0.5]))
    images = torch.randn(8, 1, 8, 8).double()
    term = budget(spec, model.double().train())

    def gradients():
        model.zero_grad()
        (model(images).square().sum() + term.loss()).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    ours = gradients()
    monkeypatch.setattr(weighted_sum, "_is_seen_through", lambda: True)
    for our, their in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(our, their)


def test_a_closed_edge_into_a_living_node_can_open_again():
    spec, model = network()
    bias = model.layer1.get_submodule("router.input").fc.bias
    with torch.no_grad():
        model.layer1.threshold[1] = 0.5
        bias[1] = -3.0
    budget(spec, model, target=1.0)
    model(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert float(bias.grad[1]) != 0


def test_budget_brings_removed_nodes_back_below_its_target():
    spec, model = network()
    optimizer = torch.optim.SGD([model.layer1.threshold], lr=0.1)
    with torch.no_grad():
        model.layer1.threshold.fill_(1.5)
    images = torch.rand(4, 1, 8, 8)
    term = budget(spec, model, target=0.9)
    _, before = shares(spec, model.eval(), images)
    for _ in range(60):
        optimizer.zero_grad()
        model.train()(images)
        term.loss().backward()
        optimizer.step()
    _, after = shares(spec, model.eval(), images)
    assert float(before.mean()) < 0.7 < float(after.mean())


@pytest.mark.parametrize("weights", ["learned", "{kind: routed, threshold: null}"])
def test_budget_without_thresholds_is_refused(weights):
    with pytest.raises(RecipeError, match="no edge of the network has a threshold"):
        budget(*network(weights))


def test_recipe_bounds():
    with pytest.raises(RecipeError, match="mac_budget"):
        Recipe(epochs=1, batch_size=1, lr=0.1, mac_budget=1.5)


def test_training_with_a_budget_closes_edges_and_without_does_not():
    """Two classes told apart by brightness, 60 steps of SGD on the tiny network."""
    labels = torch.arange(32) % 2
    images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    images += labels.view(-1, 1, 1, 1) * 2.0
    found = {}
    for target in (None, 0.6):
        spec, model = network()
        term = budget(spec, model, target) if target else None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(60):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model.train()(images), labels)
            (loss if term is None else loss + term.loss()).backward()
            optimizer.step()
        _, share = shares(spec, model.eval(), images)
        accuracy = float((model(images).argmax(1) == labels).float().mean())
        found[target] = float(share.mean()), accuracy
    assert found[None] == (pytest.approx(1.0), 1.0)
    assert found[0.6][0] < 0.75
    assert found[0.6][1] > 0.9


def test_temperature_leaves_a_gradient_at_the_start():
    above = torch.tensor(0.95, requires_grad=True)
    torch.sigmoid(above / TEMPERATURE).backward()
    assert float(above.grad) > 0.05


def test_recorder_lets_go():
    _, model = network()
    recorder = Recorder(model)
    recorder.close()
    model(torch.rand(2, 1, 8, 8))
    assert not recorder.take()
