"""The whole line over random valid specs: text, graph, program, gradients, resolved form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import fx

import graphspec
from compiler import compile
from runtime.outputs import stages
from tests.strategies import specs


def code(model: fx.GraphModule) -> list[str]:
    """What the network runs, stage by stage; equal code with equal modules is one network."""
    return [model.code, *(stage.code for _, stage in stages(model)), repr(model)]


def check(spec: graphspec.NetworkSpec) -> None:
    text = graphspec.dump(spec)
    again = graphspec.loads(text)
    assert again == spec
    assert graphspec.dump(again) == text

    torch.manual_seed(0)
    model = compile(again)
    # Two by two images at least: batch norm cannot train on one value a channel.
    model(torch.randn(3, *spec.input_shape)).square().sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())

    resolved = graphspec.resolve(spec)
    torch.manual_seed(0)
    twin = compile(graphspec.loads(graphspec.dump(resolved)))
    assert code(twin) == code(model)
    assert list(twin.state_dict()) == list(model.state_dict())
    for name, tensor in compile(resolved, device="meta").state_dict().items():
        assert tensor.shape == model.state_dict()[name].shape


@given(spec=specs())
@settings(max_examples=30)
def test_a_random_spec_survives_the_whole_line(spec):
    check(spec)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(spec=specs())
@settings(max_examples=2000)
def test_two_thousand_random_specs_survive_the_whole_line(spec):
    check(spec)
