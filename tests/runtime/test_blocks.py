"""The contract of blocks, stems, heads and routers, over everything the catalogue finds."""

from __future__ import annotations

import copy
import inspect
import itertools
from importlib.util import find_spec

import pytest
import torch
from torch import fx, nn

from compiler import catalog
from graphspec.graph import BlockCall

CHANNELS = 16
REGNETS = ("regular_bottleneck", "timm_regnet", "torchvision_regnet")
REQUIRED = {kind: {"group_width": 8} for kind in REGNETS}

HAS_TIMM = find_spec("timm") is not None
BLOCKS = [
    kind for kind in catalog.constructors("blocks") if HAS_TIMM or not kind.startswith("timm_")
]
STEMS = sorted(catalog.classes("stems"))
HEADS = sorted(catalog.classes("heads"))
ROUTERS = sorted(catalog.classes("routers"))


def call(kind: str, **params) -> BlockCall:
    return BlockCall(kind, tuple(sorted((REQUIRED.get(kind, {}) | params).items())))


def variants(role: str, kind: str) -> list[dict]:
    """The defaults, then every boolean flipped and every other literal, one at a time."""
    params = catalog.describe()[role][kind]["params"]
    changes = [{}]
    for name, schema in params.items():
        if schema.get("type") == "boolean":
            changes.append({name: not schema["default"]})
        changes += [{name: v} for v in schema.get("enum", []) if v != schema.get("default")]
    return changes


def cases(role: str, kinds: list[str]):
    return [
        pytest.param(kind, params, id=f"{kind}-{'-'.join(f'{k}={v}' for k, v in params.items())}")
        for kind in kinds
        for params in variants(role, kind)
    ]


def entry(role: str, kind: str) -> dict:
    return catalog.describe()[role][kind]


def out_size(size: int, stride: int, rounding: str) -> int:
    return -(-size // stride) if rounding == "ceil" else size // stride


def assert_every_parameter_gets_a_gradient(module: nn.Module, output: torch.Tensor) -> None:
    (output * torch.randn_like(output)).sum().backward()
    without = [name for name, p in module.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize(("kind", "params"), cases("blocks", BLOCKS))
@pytest.mark.parametrize(("size", "out_channels"), [((9, 12), CHANNELS), ((8, 7), 24)])
def test_a_block_keeps_its_catalogue_promises(kind, params, size, out_channels):
    facts = entry("blocks", kind)
    for stride in facts["strides"] or (1, 2, 3):
        block = catalog.make_block(call(kind, **params), CHANNELS, out_channels, stride)
        x = torch.randn(2, CHANNELS, *size, requires_grad=True)
        before = x.detach().clone()

        y = block(x)

        expected = [out_size(edge, stride, facts["rounding"]) for edge in size]
        channels = CHANNELS if facts["keeps_channels"] else out_channels
        assert y.shape == (2, channels, *expected)
        assert torch.equal(x, before), "another node may read the same features"
        assert_every_parameter_gets_a_gradient(block, y)


@pytest.mark.parametrize(("kind", "params"), cases("stems", STEMS))
def test_a_stem_keeps_its_catalogue_promises(kind, params):
    facts = entry("stems", kind)
    for stride, size in itertools.product(facts["strides"] or (1, 2), (32, 33)):
        stem = catalog.make_stem(call(kind, **params), 3, CHANNELS, stride)
        x = torch.randn(2, 3, size, size + 4)

        y = stem(x)

        height, width = (out_size(edge, stride, facts["rounding"]) for edge in (size, size + 4))
        assert y.shape == (2, CHANNELS, height, width)
        assert_every_parameter_gets_a_gradient(stem, y)


@pytest.mark.parametrize("kind", BLOCKS)
def test_any_block_is_a_stem(kind):
    assert entry("stems", kind) == entry("blocks", kind)
    stem, block = (
        make(call(kind), CHANNELS, CHANNELS, 1) for make in (catalog.make_stem, catalog.make_block)
    )
    assert type(stem) is type(block)


@pytest.mark.parametrize(("kind", "params"), cases("heads", HEADS))
def test_a_head_gives_logits_of_any_feature_size(kind, params):
    head = catalog.make_head(call(kind, **params), CHANNELS, 5)
    for size in ((7, 7), (3, 5)):
        y = head(torch.randn(2, CHANNELS, *size))
        assert y.shape == (2, 5)
        assert_every_parameter_gets_a_gradient(head, y)


@pytest.mark.parametrize("kind", ROUTERS)
def test_a_router_starts_at_its_bias_and_scores_each_sample_alone(kind):
    router = catalog.make_router(kind, CHANNELS, 3, bias_init=3.0).eval()
    x = torch.rand(4, CHANNELS, 5, 6)

    scores = router(x)

    assert scores.shape == (4, 3)
    assert scores.min() > 0
    assert scores.max() < 1
    torch.testing.assert_close(scores, torch.full((4, 3), 3.0).sigmoid(), rtol=0, atol=0.02)
    torch.testing.assert_close(router(x[:1]), scores[:1])


def every_module():
    for kind in BLOCKS:
        yield kind, lambda kind=kind: catalog.make_block(call(kind), CHANNELS, CHANNELS, 1)
    for kind in STEMS:
        stride = (entry("stems", kind)["strides"] or [1])[0]
        yield kind, lambda k=kind, s=stride: catalog.make_stem(call(k), CHANNELS, CHANNELS, s)
    for kind in HEADS:
        yield kind, lambda kind=kind: catalog.make_head(call(kind), CHANNELS, 5)
    for kind in ROUTERS:
        yield f"router-{kind}", lambda k=kind: catalog.make_router(k, CHANNELS, 3, bias_init=3.0)


@pytest.mark.parametrize(("kind", "make"), [pytest.param(*m, id=m[0]) for m in every_module()])
def test_a_module_is_traceable_copyable_and_made_without_memory(kind, make):
    module = make().eval()
    x = torch.randn(2, CHANNELS, 16, 16)

    y = module(x)

    if not kind.startswith("router-"):  # a router may pool by the dtype that autocast gives it
        assert torch.equal(fx.symbolic_trace(module)(x), y)
    assert torch.equal(copy.deepcopy(module)(x), y)
    with torch.device("meta"):
        on_meta = make()
    assert {p.device.type for p in on_meta.state_dict().values()} <= {"meta"}
    assert on_meta.state_dict().keys() == module.state_dict().keys()


@pytest.mark.parametrize("role", catalog.ROLES)
def test_constructor_arguments_before_the_parameters_are_fixed(role):
    first = {
        "blocks": ["in_channels", "out_channels", "stride"],
        "stems": ["in_channels", "out_channels", "stride"],
        "heads": ["in_channels", "num_classes"],
        "routers": ["in_channels", "num_targets"],
    }[role]
    for cls in catalog.constructors(role).values():
        parameters = inspect.signature(cls).parameters.values()
        assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == first


def test_shortcuts_are_as_published_or_absent():
    def make(kind, in_channels, stride, **params):
        return catalog.make_block(call(kind, **params), in_channels, 16, stride)

    for kind, projection in {
        "basic": "downsample",
        "bottleneck": "downsample",
        "regular_bottleneck": "proj",
        "separable_conv": "downsample",
    }.items():
        assert getattr(make(kind, 16, 1, shortcut=True), projection) is None
        assert getattr(make(kind, 16, 2, shortcut=True), projection) is not None
        assert getattr(make(kind, 8, 1, shortcut=True), projection) is not None
        assert getattr(make(kind, 8, 2, shortcut=False), projection) is None

    x = torch.randn(2, 16, 6, 6)
    for kind in ("basic", "bottleneck", "regular_bottleneck"):
        with_shortcut, without = (make(kind, 16, 1, shortcut=s).eval() for s in (True, False))
        without.load_state_dict(with_shortcut.state_dict())
        last_norm = [m for m in with_shortcut.modules() if isinstance(m, nn.BatchNorm2d)][-1]
        seen = []
        last_norm.register_forward_hook(lambda _m, _a, y, seen=seen: seen.append(y.clone()))
        torch.testing.assert_close(with_shortcut(x), torch.relu(seen[0] + x))
        torch.testing.assert_close(without(x), torch.relu(seen[0]))


def test_an_inverted_bottleneck_adds_its_input_only_where_shapes_agree():
    def adds_input(in_channels, stride, **params):
        block = catalog.make_block(call("inverted_bottleneck", **params), in_channels, 16, stride)
        x = torch.randn(2, in_channels, 6, 6)
        block.eval()
        return not torch.equal(block(x), block.conv(x))

    assert adds_input(16, 1)
    assert not adds_input(16, 2)
    assert not adds_input(8, 1)
    assert not adds_input(16, 1, shortcut=False)
