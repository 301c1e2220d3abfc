"""The compiled network computes what the paper's equations say, and is an ordinary module."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from torch import fx, nn

import graphspec
from compiler import analyze, compile
from compiler.lower import NoDraws
from graphspec import Routed, SpecWarning
from runtime.gating import gates, inference
from runtime.outputs import stages, with_outputs
from tests.reference import run_stage
from tests.strategies import specs

TINY = """
version: 1
name: tiny
seed: 1
input_shape: [3, 8, 8]
stem: {kind: conv_bn_relu, width: 6}
stages:
  - {name: layer1, depth: 3, width: 6, block: conv_bn_relu, wiring: complete,
     input_node: {kind: conv_bn_relu, kernel: 1}, edge_weights: {kind: routed, bias_init: 0.0}}
  - {name: layer2, depth: 6, width: 8, stride: 2, block: separable_conv,
     wiring: {kind: ws, k: 4, p: 0.75}, edge_weights: learned,
     output_node: {aggregate: mean, edge_weights: fixed}}
head: {kind: pooled_linear, num_classes: 5}
"""


def tiny():
    return graphspec.loads(TINY)


def randomized(spec, seed: int = 0):
    """A float64 network whose parameters and statistics are far from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    model = compile(spec).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.dim() > 1 else 0.5
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise)
            if name.endswith("threshold"):
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.5 + 0.25)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
            elif name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return model


def images(spec, batch: int = 3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *spec.input_shape, generator=generator, dtype=dtype)


def reference(graph, model, x, **options):
    """Logits, runs by stage: the whole network through `run_stage`."""
    features = {"stem": model.stem(x) if hasattr(model, "stem") else x}
    runs = {}
    for stage in graph.stages:
        inputs = [features[name] for name in stage.inputs]
        runs[stage.name] = run_stage(stage, getattr(model, stage.name), inputs, **options)
        features[stage.name] = runs[stage.name].outputs[len(stage.nodes) - 1]
    return model.head(features[graph.stages[-1].name]), runs


@given(spec=specs())
@settings(max_examples=25)
def test_training_forward_and_every_gradient_equal_the_equations(spec):
    graph, _ = analyze(spec)
    model = randomized(spec)
    x = images(spec)
    # Evaluation statistics, training weights: batch norm of a 1x1 map would divide by zero.
    model.eval()
    with inference(model, mode="soft"):
        ours = model(x)
        ours_grads = torch.autograd.grad(
            ours.square().sum(), list(model.parameters()), allow_unused=True
        )
    theirs, _ = reference(graph, model, x, mode="soft")
    theirs_grads = torch.autograd.grad(
        theirs.square().sum(), list(model.parameters()), allow_unused=True
    )

    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for (name, _), our, their in zip(
        model.named_parameters(), ours_grads, theirs_grads, strict=True
    ):
        assert our is not None, name
        torch.testing.assert_close(our, their, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("rule", ["consistent", "literal"])
@given(spec=specs())
@settings(max_examples=20)
def test_masked_inference_equals_the_equations(spec, rule):
    graph, _ = analyze(spec)
    model = randomized(spec).eval()
    x = images(spec)
    with torch.no_grad(), inference(model, mode="masked", rule=rule):
        theirs, runs = reference(graph, model, x, mode="masked", rule=rule)
        logits, adjacency, features = with_outputs(
            model, features=[stage.name for stage in graph.stages]
        )(x)
        torch.testing.assert_close(model(x), theirs, rtol=1e-10, atol=1e-10)

    torch.testing.assert_close(logits, theirs, rtol=1e-10, atol=1e-10)
    for stage in graph.stages:
        run, matrix = runs[stage.name], adjacency[stage.name]
        torch.testing.assert_close(
            features[stage.name], run.outputs[len(stage.nodes) - 1], rtol=1e-10, atol=1e-10
        )
        for (source, target), weight in run.weights.items():
            node = stage.nodes[target]
            if node.aggregate == "concat":
                continue
            expected = weight
            if any(isinstance(e.weights, Routed) for e in stage.edges):
                expected = torch.where(run.removed[source], 0.0, weight)
            elif node.aggregate == "mean":
                expected = weight / len(stage.sources_of(target))
            torch.testing.assert_close(
                matrix[:, target, source], expected.expand(len(matrix)), rtol=1e-10, atol=1e-10
            )


def test_every_node_input_is_the_sum_over_its_adjacency_row():
    """Eq. 3, read from the outside: hooks on the blocks, weights from the adjacency."""
    spec = tiny()
    graph, _ = analyze(spec)
    model = randomized(spec).eval()
    inputs, outputs = {}, {}
    for node in graph.stages[0].nodes[:-1]:
        block = model.layer1.get_submodule(node.name)

        def keep(_module, arguments, output, name=node.name) -> None:
            inputs[name], outputs[name] = arguments[0], output

        block.register_forward_hook(keep)
    _, adjacency, _ = with_outputs(model)(images(spec))

    matrix = adjacency["layer1"]
    names = [node.name for node in graph.stages[0].nodes]
    for target in range(1, len(names) - 1):
        expected = sum(
            matrix[:, target, source].reshape(-1, 1, 1, 1) * outputs[names[source]]
            for source in range(target)
        )
        torch.testing.assert_close(inputs[names[target]], expected, rtol=1e-12, atol=1e-12)
    assert not matrix.triu().any(), "edges run from lower to higher index"


def test_names_are_those_of_the_spec():
    model = compile(tiny())

    assert [name for name, _ in stages(model)] == ["layer1", "layer2"]
    keys = set(model.state_dict())
    assert {"stem.conv.weight", "layer1.n2.conv.weight", "layer1.router.n2.fc.bias"} <= keys
    assert {"layer1.threshold", "layer2.aggregate.n3.weight", "head.fc.weight"} <= keys
    calls = dict(stages(model))["layer1"].graph.find_nodes(op="call_module")
    called = {node.name for node in calls}
    assert {"input_node", "n1", "router_n1", "gate_n1", "aggregate_n1"} <= called
    origins = {str(node.meta["graphc"]) for node in calls}
    assert origins == {f"layer1.{name}" for name in ("input", "n1", "n2", "n3", "output")}


def test_pickle_deepcopy_and_state_dict_keep_the_function():
    spec = tiny()
    model = compile(spec).eval()
    x = images(spec, dtype=torch.float32)
    expected = model(x)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    again = compile(spec).eval()
    again.load_state_dict(model.state_dict())

    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(saved, weights_only=False),
        again,
    ):
        assert isinstance(other, fx.GraphModule)
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
        assert [name for name, _ in stages(other)] == ["layer1", "layer2"]
        for name, matrix in with_outputs(other)(x)[1].items():
            torch.testing.assert_close(matrix, with_outputs(model)(x)[1][name], rtol=0, atol=0)


def test_meta_device_allocates_nothing_and_takes_weights_by_assignment():
    spec = tiny()
    meta = compile(spec, device="meta").eval()
    assert all(tensor.is_meta for tensor in meta.state_dict().values())
    model = compile(spec).eval()
    x = images(spec, dtype=torch.float32)

    meta.load_state_dict(model.state_dict(), assign=True)

    torch.testing.assert_close(meta(x), model(x), rtol=0, atol=0)


def test_training_updates_every_parameter_and_keeps_gates_soft():
    spec = tiny()
    torch.manual_seed(0)
    model = compile(spec).train()
    with inference(model, mode="masked"):
        model(images(spec, dtype=torch.float32)).square().sum().backward()

    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing
    assert all(gate.mode == "masked" for gate in gates(model))


def test_autocast_keeps_bfloat16_features():
    """Router weights in float32 must not promote the features of a stage."""
    spec = tiny()
    model = compile(spec)
    dtypes = []
    model.layer1.aggregate.n3.register_forward_hook(lambda _m, _a, out: dtypes.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(images(spec, dtype=torch.float32)).sum().backward()

    assert dtypes == [torch.bfloat16]


def test_equal_seeds_give_equal_weights():
    spec = tiny()
    torch.manual_seed(3)
    first = compile(spec).state_dict()
    torch.manual_seed(3)
    second = compile(spec).state_dict()

    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_compile_warns_of_what_is_odd():
    spec = graphspec.loads(TINY.replace("seed: 1\n", ""))

    with pytest.warns(SpecWarning, match="seed-defaulted"):
        compile(spec)


def test_what_is_not_read_is_not_drawn_and_rejection_ends():
    weight = torch.full((4, 4), 1e30)
    with NoDraws():
        nn.init.kaiming_normal_(weight)
        assert (weight == 1e30).all()
        nn.init.trunc_normal_(weight)  # draws until every number lies between -2 and 2
    assert (weight.abs() <= 2).all() or (weight == 1e30).all()
