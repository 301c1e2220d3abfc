from __future__ import annotations

import importlib.metadata
import json
from typing import Annotated, Literal

import pytest
from torch import nn

from compiler import catalog
from graphspec import registry
from graphspec.graph import BlockCall
from runtime.blocks.bottleneck import Bottleneck
from runtime.parameter import Param


def test_the_committed_catalogue_is_current():
    text = catalog.CATALOGUE_FILE.read_text(encoding="utf-8")
    assert text == catalog.render(), "run `python -m compiler.catalog` and commit the result"


def test_a_file_name_is_a_kind():
    for role in catalog.ROLES:
        for kind, cls in catalog.classes(role).items():
            assert cls.__module__ == f"runtime.{role}.{kind}"


def test_keyword_only_arguments_become_json_schema():
    bottleneck = catalog.describe()["blocks"]["bottleneck"]
    assert bottleneck["params"]["groups"] == {
        "type": "integer",
        "minimum": 1,
        "default": 1,
        "description": "groups of the 3x3; ResNeXt: cardinality",
    }
    assert bottleneck["divides"] == {"expansion": ["out_channels"]}
    assert catalog.describe()["blocks"]["regular_bottleneck"]["required"] == ["group_width"]


def test_every_supported_type_has_its_schema():
    class Block(nn.Module):
        def __init__(
            self,
            in_channels: int,
            out_channels: int,
            stride: int,
            *,
            flag: Annotated[bool, Param("a flag")],
            rate: Annotated[float, Param("a rate", ge=0, lt=1)] = 0.5,
            choice: Annotated[Literal["a", "b"], Param("a choice")] = "b",
            sizes: Annotated[tuple[int, ...], Param("sizes", ge=1)] = (3, 4),
            maybe: Annotated[int | None, Param("a count or none", gt=0)] = None,
        ) -> None:
            super().__init__()

    described = catalog._describe_class("block", Block)

    assert described["required"] == ["flag"]
    assert described["params"] == {
        "flag": {"type": "boolean", "description": "a flag"},
        "rate": {
            "type": "number",
            "minimum": 0,
            "exclusiveMaximum": 1,
            "default": 0.5,
            "description": "a rate",
        },
        "choice": {
            "type": "string",
            "enum": ["a", "b"],
            "default": "b",
            "description": "a choice",
        },
        "sizes": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "default": [3, 4],
            "description": "sizes",
        },
        "maybe": {
            "type": ["integer", "null"],
            "exclusiveMinimum": 0,
            "default": None,
            "description": "a count or none",
        },
    }
    json.dumps(described)


def test_a_parameter_without_documentation_or_of_a_strange_type_is_refused():
    class Undocumented(nn.Module):
        def __init__(self, *, groups: int = 1) -> None:
            super().__init__()

    class Strange(nn.Module):
        def __init__(self, *, layer: Annotated[nn.Module, Param("a module")]) -> None:
            super().__init__()

    with pytest.raises(TypeError, match=r"undocumented\.groups must be annotated"):
        catalog._describe_class("undocumented", Undocumented)
    with pytest.raises(TypeError, match=r"strange\.layer: YAML parameters are"):
        catalog._describe_class("strange", Strange)


@pytest.fixture
def third_party(monkeypatch):
    """Pretends that another package offers a class under a name."""

    class EntryPoint:
        def __init__(self, name, cls):
            self.name, self.cls = name, cls

        def load(self):
            return self.cls

    offered: dict[str, list[EntryPoint]] = {}
    monkeypatch.setattr(registry, "entry_points", lambda group: offered.get(group, []))

    def offer(group, name, cls):
        offered.setdefault(group, []).append(EntryPoint(name, cls))
        catalog.classes.cache_clear()

    yield offer
    catalog.classes.cache_clear()


def test_other_packages_add_blocks_by_entry_point(third_party):
    third_party("graphc.blocks", "their_block", Bottleneck)

    assert "their_block" in catalog.describe()["blocks"]
    assert isinstance(catalog.make_block(BlockCall("their_block"), 8, 8, 1), Bottleneck)


def test_what_does_not_load_is_left_out_and_named(monkeypatch):
    lost = importlib.metadata.EntryPoint("lost", "no_such_module:Lost", "graphc.blocks")
    monkeypatch.setattr(registry, "entry_points", lambda group: [lost])
    with pytest.warns(UserWarning, match=r"'lost' .* no_such_module:Lost does not load"):
        assert list(registry.plugins("graphc.blocks")) == []


def test_a_class_may_come_by_decorator_and_by_entry_point():
    rules = registry.Registry[type]("rule", key=lambda cls: cls.__name__)
    rules.register(rules.register(Bottleneck))
    with pytest.raises(ValueError, match="two rules are named 'Bottleneck'"):
        rules.register(type("Bottleneck", (), {}))


def test_two_blocks_of_one_name_are_an_error_that_names_both_modules(third_party):
    class Theirs(nn.Module):
        pass

    third_party("graphc.blocks", "bottleneck", Theirs)

    with pytest.raises(ValueError, match=rf"runtime\.blocks\.bottleneck and {__name__}; rename"):
        catalog.classes("blocks")


def test_a_block_and_a_stem_of_one_name_are_an_error(third_party):
    third_party("graphc.stems", "bottleneck", Bottleneck)

    with pytest.raises(ValueError, match="a block and a stem are named 'bottleneck'"):
        catalog.describe()


def test_lists_of_a_spec_reach_constructors_as_tuples():
    head = catalog.make_head(BlockCall("mlp", (("hidden", [6]), ("pool_size", 2))), 3, 4)
    layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [6, 4]


def test_the_entry_point_groups_of_the_installation_load():
    for role in catalog.ROLES:
        for entry_point in importlib.metadata.entry_points(group=f"graphc.{role}"):
            assert entry_point.name in catalog.classes(role)
