from __future__ import annotations

import pytest
import torch

from compiler import compile
from compiler.edges.observations import observe
from compiler.training.mac_share import node_macs
from graphspec import loads
from runtime.edge_statistics import THRESHOLDS, Analysis, Moments, StageStatistics, analyze_edges
from runtime.outputs import stages, with_outputs
from runtime.routes import MacShare

SPEC = """\
version: 1
name: small
input_shape: [1, 8, 8]
stem: {kind: conv_bn_relu, width: 4}
stage_defaults: {depth: 3, width: 4, block: conv_bn_relu, wiring: complete}
stages:
  - {name: layer1, edge_weights: routed}
  - {name: layer2, edge_weights: learned}
head: {kind: pooled_linear, num_classes: 3}
"""


@pytest.fixture(scope="module")
def everything():
    torch.manual_seed(0)
    spec = loads(SPEC)
    model = compile(spec).eval()
    with torch.no_grad():
        for name in ("input", "n1", "n2"):
            model.layer1.get_submodule(f"router.{name}").fc.weight.normal_(0, 2)
        model.layer1.threshold.copy_(torch.tensor([0.97, 0.94, 0.99, 0.5]))
    images = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(50) % 3
    macs = MacShare(model, *node_macs(spec))
    batches = list(zip(images.split(7), labels.split(7), strict=True))
    result = analyze_edges(model, batches, 3, macs, chosen=(8, 49))
    with torch.no_grad():
        logits, adjacency, _ = with_outputs(model)(images)
    return model, labels, logits, adjacency["layer1"], result


@pytest.mark.parametrize("sizes", [[1] * 40, [40], [7, 20, 13], [0, 39, 1]])
def test_moments_of_a_stream_are_those_of_the_whole(sizes):
    values = torch.randn(40, 3, dtype=torch.float64) * 1e-3 + 1e3
    moments = Moments((3,))
    for part in values.split(sizes):
        moments.add(part)
    assert moments.count == 40
    assert torch.allclose(moments.mean, values.mean(0), rtol=0, atol=1e-9)
    assert torch.allclose(moments.std, values.std(0, correction=0), rtol=1e-6)


def test_weights_are_those_of_inference(everything):
    _, labels, _, adjacency, result = everything
    stage = result.stages["layer1"]
    assert torch.allclose(stage.weights.mean, adjacency.double().mean(0), atol=1e-6)
    assert torch.allclose(stage.weights.std, adjacency.double().std(0, correction=0), atol=1e-6)
    for label in range(3):
        mean = adjacency[labels == label].double().mean(0)
        assert torch.allclose(stage.by_class[label].mean, mean, atol=1e-6)


def test_closed_and_removed_are_the_zeros_of_masked_inference(everything):
    _, labels, _, adjacency, result = everything
    stage = result.stages["layer1"]
    is_closed = (adjacency == 0) & stage.edges
    assert 0 < int(is_closed.sum()) < int(stage.edges.sum()) * len(labels)
    assert torch.allclose(stage.closed.mean, is_closed.double().mean(0), atol=1e-6)
    is_removed = (adjacency[:, 1:4] == 0).all(2)
    assert torch.allclose(stage.removed.mean[1:4], is_removed.double().mean(0), atol=1e-6)
    shares = is_closed.sum((1, 2)) / stage.edges.sum()
    for label in range(3):
        expected = float(shares[labels == label].mean())
        assert float(stage.closed_by_class[label].mean) == pytest.approx(expected, abs=1e-6)


def test_more_is_closed_at_a_higher_threshold(everything):
    stage = everything[-1].stages["layer1"]
    for moments in (stage.closed_at, stage.removed_at):
        shares = [float(m.mean) for m in moments]
        assert shares == sorted(shares)
        assert shares[0] == 0
        assert shares[-1] == pytest.approx(1, abs=1e-6)
    assert len(stage.closed_at) == len(THRESHOLDS)


def test_learned_stages_are_equal_for_all_images(everything):
    stage = everything[-1].stages["layer2"]
    assert not stage.is_routed
    assert float(stage.weights.std.max()) == pytest.approx(0, abs=1e-9)
    assert float(stage.weights.mean[stage.edges].min()) > 0


def test_single_images(everything):
    _, labels, logits, adjacency, result = everything
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert result.easiest.index == int(losses.argmin())
    assert result.hardest.index == int(losses.argmax())
    assert [sample.index for sample in result.chosen] == [8, 49]
    for sample in (result.easiest, result.hardest, *result.chosen):
        assert torch.allclose(sample.weights["layer1"], adjacency[sample.index], atol=1e-6)
        assert sample.label == int(labels[sample.index])
        assert sample.prediction == int(logits[sample.index].argmax())


def test_mac_share_and_accuracy(everything):
    _, labels, logits, _, result = everything
    accuracy = float((logits.argmax(1) == labels).double().mean())
    assert float(result.correct.mean) == pytest.approx(accuracy)
    assert 0 < float(result.mac_share.mean) < 1
    by_class = [float(m.mean) * m.count for m in result.mac_share_by_class]
    assert sum(by_class) / 50 == pytest.approx(float(result.mac_share.mean))


def test_variance_between_classes_is_all_where_classes_are_constant(everything):
    model = everything[0]
    statistics = StageStatistics(dict(stages(model))["layer1"], 2)
    labels = torch.tensor([0, 0, 1, 1])
    weights = statistics.edges.float() * labels.view(-1, 1, 1).float()
    statistics.add_weights(weights, labels)
    share = statistics.class_share
    assert torch.allclose(share[statistics.edges], torch.ones(10, dtype=torch.float64))
    assert bool(share[~statistics.edges].isnan().all())


def test_observations_are_those_of_weights_that_are_known(everything):
    """Edges weigh a tenth of their distance; those of the input node differ between images."""
    statistics = StageStatistics(dict(stages(everything[0]))["layer1"], 2)
    labels = torch.tensor([0, 1, 0, 1])
    places = torch.arange(5)
    distance = (places.view(-1, 1) - places).float() / 10
    weights = torch.where(statistics.edges, distance, 0.0).repeat(4, 1, 1)
    weights[:2, 1:, 0] += 0.2
    weights[2:, 1:, 0] -= 0.2
    statistics.add_weights(weights, labels)
    found = observe(Analysis(2, {"layer1": statistics}))["layer1"]
    assert found["mean"] == pytest.approx(0.2)  # 4 edges over 1, 3 over 2, 2 over 3, 1 over 4
    assert found["correlation_with_distance"] == pytest.approx(1)
    assert found["mean_to_next"] == pytest.approx(0.1)
    assert found["mean_over_nodes"] == pytest.approx(0.8 / 3)
    assert found["mean_to_output"] == pytest.approx(0.25)
    assert (found["std"], found["std_from_input"]) == (pytest.approx(0.08), pytest.approx(0.2))
    assert found["steady"] == pytest.approx(0.6)
    assert found["between_classes"] == pytest.approx(0)
    assert found["between_extremes"] is None


def test_learned_stages_have_no_figure_of_images(everything):
    found = observe(everything[-1])
    assert found["layer2"]["std"] is None
    assert found["layer1"]["std"] != 0
    assert found["layer1"]["between_extremes"] not in (None, 0)
    # Learned weights begin equal.
    assert found["layer2"]["correlation_with_distance"] is None
