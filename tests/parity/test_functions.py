"""Static networks compute what torchvision and timm compute: logits, statistics, gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, fx, nn

from compiler import compile
from compiler.transfer import Transfer, import_weights
from tests.parity.networks import BY_OVERRIDES, IN_EXAMPLES, PUBLISHED, Published, randomise

RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-11}


def pair(published: Published) -> tuple[nn.Module, fx.GraphModule, Transfer]:
    """The reference, and the compiled network with its weights."""
    torch.manual_seed(0)
    reference, spec = published.build_reference(), published.spec()
    randomise(reference, seed=1)
    model = compile(spec)
    transfer = import_weights(model, spec, reference.state_dict())
    assert transfer.fresh == ()
    assert transfer.unused == ()
    return reference, model, transfer


def assert_close(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Equal to the precision of the dtype, measured by the largest value of a tensor."""
    difference = (ours.detach() - theirs.detach()).abs().max().item()
    scale = theirs.detach().abs().max().item()
    assert difference <= RELATIVE[ours.dtype] * max(scale, 1e-3), what


def images(size: Sequence[int], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 3, *size, generator=generator, dtype=dtype)


def compare(
    published: Published,
    size: Sequence[int],
    dtype: torch.dtype,
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> None:
    reference, model, transfer = pair(published)
    x = images(size, dtype).to(memory_format=memory_format)
    for module in (reference, model):
        module.to(dtype).to(memory_format=memory_format)

    with torch.no_grad():
        assert_close(model.eval()(x), reference.eval()(x), "logits in eval mode")

    logits = []
    for module in (model.train(), reference.train()):
        torch.manual_seed(3)  # dropout
        y = module(x)
        logits.append(y)
        (y * torch.linspace(-1, 1, y.shape[1], dtype=dtype)).sum().backward()
    assert_close(*logits, "logits in train mode")
    their_tensors = reference.state_dict()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert_close(tensor, their_tensors[transfer.copied[name]], name)
    their_parameters = dict(reference.named_parameters())
    ours = dict(model.named_parameters())
    assert {transfer.copied[name] for name in ours} == their_parameters.keys()
    for name, parameter in ours.items():
        theirs = their_parameters[transfer.copied[name]]
        assert parameter.grad is not None
        assert theirs.grad is not None
        assert_close(parameter.grad, theirs.grad, f"gradient of {name}")


FAST = ("resnet18", "resnext50_32x4d", "mobilenet_v2", "densenet121", "regnety_006")


@pytest.mark.parametrize("name", FAST)
def test_small_images(name: str):
    compare(PUBLISHED[name], (64, 96), torch.float32)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(224, 224), (160, 192)], ids=str)
@pytest.mark.parametrize("name", IN_EXAMPLES)
def test_every_static_example(name: str, size: tuple[int, int], dtype: torch.dtype):
    compare(PUBLISHED[name], size, dtype)


@pytest.mark.parity
@pytest.mark.parametrize("name", IN_EXAMPLES)
def test_channels_last(name: str):
    compare(PUBLISHED[name], (224, 224), torch.float32, memory_format=torch.channels_last)


@pytest.mark.parity
@pytest.mark.parametrize("name", BY_OVERRIDES)
def test_networks_written_as_overrides(name: str):
    compare(PUBLISHED[name], (128, 160), torch.float64)
    compare(PUBLISHED[name], (224, 224), torch.float32)


@pytest.mark.parity
@pytest.mark.parametrize(
    "name", [name for name in PUBLISHED if PUBLISHED[name].reference.startswith("torchvision:")]
)
def test_initial_weights_have_the_distribution_of_torchvision(name: str):
    """Not timm's: its RegNets draw by fan-out per group, and start with branches of weight 0."""
    torch.manual_seed(0)
    spec = PUBLISHED[name].spec()
    model, theirs = compile(spec), PUBLISHED[name].build_reference().state_dict()
    ours = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copied = import_weights(model, spec, theirs).copied

    for our_name, their_name in copied.items():
        tensor, their_tensor = ours[our_name].double(), theirs[their_name].double()
        if their_tensor.numel() == 1 or their_tensor.std() == 0:
            assert torch.equal(tensor, their_tensor), our_name
        elif tensor.numel() >= 1000:
            spread = their_tensor.std().item()
            assert tensor.std().item() == pytest.approx(spread, rel=0.1), our_name
            assert tensor.mean().item() == pytest.approx(their_tensor.mean().item(), abs=spread / 5)
