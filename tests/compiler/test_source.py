"""Emitted source has the structure its graph says, whatever a spec says, and computes the same."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import types
from builtins import compile as compile_python
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphspec
from compiler import analyze, compile
from compiler.backends import BACKENDS, EmitError
from compiler.backends._excerpt import Excerpt, read_module
from compiler.backends._layout import Bracket, call, flat, lay_out, literal
from compiler.backends.source import render
from compiler.construction import Construction, construction_of
from compiler.lower import lower
from runtime.aggregate import Sum
from runtime.gating import Gate
from runtime.outputs import Wiring
from runtime.parameter import Param
from runtime.sparse import SparseStage
from tests.strategies import specs

TINY = """
version: 1
name: tiny
seed: 1
input_shape: [3, 8, 8]
stem: {kind: conv_bn_relu, width: 8}
stages:
  - {name: layer1, depth: 3, width: 8, block: {kind: basic, shortcut: false}, wiring: complete,
     input_node: {kind: conv_bn_relu, kernel: 1}, edge_weights: {kind: routed, bias_init: 0.0}}
  - {name: layer2, depth: 5, width: 12, stride: 2, block: separable_conv, wiring: chain}
  - {name: layer3, depth: 14, width: 4, block: dense_layer, wiring: complete, aggregate: concat}
  - {name: layer4, depth: 14, width: 8, block: {kind: basic, shortcut: false}, wiring: complete,
     input_node: {kind: conv_bn_relu, kernel: 1}, edge_weights: routed}
head: {kind: pooled_linear, num_classes: 5}
"""
ROOT = Path(__file__).parents[2]
# All that the classes of stages and networks may call, besides the constructors of layers.
BUILDING = {
    "super",
    "super().__init__",
    "nn.Module",
    "nn.ModuleDict",
    "nn.Parameter",
    "torch.full",
    "range",
    "self.add_module",
    "self.get_submodule",
    "self.register_buffer",
}


def emitted(spec) -> str:
    graph, _ = analyze(spec)
    with torch.device("meta"):
        program = lower(graph)
    return render(graph, program, graphspec.content_hash(spec))


def executed(text: str) -> types.ModuleType:
    module = types.ModuleType("network")
    module.__file__ = "network.py"
    exec(compile_python(text, "network.py", "exec"), module.__dict__)
    return module


def network_of(text: str) -> nn.Module:
    """An instance of the file's network, which is what `load` returns."""
    module = executed(text)
    return getattr(module, module.load.__annotations__["return"])()


def layer_classes(graph) -> set[type]:
    """The classes of all layers that a compiled network calls, and that do something."""
    with torch.device("meta"):
        program = lower(graph)
    made = filter(None, map(construction_of, program.modules()))
    return {made.cls for made in made if made != Construction(Sum, ([1.0],), (("mean", False),))}


def check_structure(text: str, graph) -> None:
    """Nothing is in the file that the graph does not ask for."""
    tree = ast.parse(text)
    assert text.isascii()
    layers = layer_classes(graph)
    tail = needs(SparseStage) | {Wiring} if Gate in layers else frozenset()
    copied = {cls for layer in layers for cls in needs(layer)}
    kinds = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign)
    docstrings = [node for node in tree.body if isinstance(node, ast.Expr)]
    assert all(isinstance(node.value, ast.Constant) for node in docstrings)
    assert {type(node) for node in tree.body} <= {*kinds, ast.Expr}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            )
            roots = {name.split(".")[0] for name in modules}
            assert roots <= {"torch", *sys.stdlib_module_names}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    own = classes[len(copied) : len(copied) + len(graph.stages) + 1]
    assert len(classes) == len(own) + len(copied | tail)
    assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef)][-1] == "load"
    constructors = {node.name for node in classes}
    for node in own:
        calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
        for made in calls:
            function = ast.unparse(made.func)
            assert function in BUILDING | constructors or (
                function.startswith("self.")
                and isinstance(made.func, ast.Attribute | ast.Subscript | ast.Call)
            ), function
        methods = [inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)]
        assert methods in (["__init__"], ["__init__", "forward"])


@cache
def needs(cls: type) -> frozenset[type]:
    """The runtime's classes that a class needs, itself included."""
    found: set[type] = set()
    todo: list = [cls]
    done: set[str] = set()
    while todo:
        value = todo.pop()
        if getattr(value, "__qualname__", "") in done:
            continue
        done.add(value.__qualname__)
        if isinstance(value, type):
            found.add(value)
        module = importlib.import_module(value.__module__)
        for read in ast.walk(ast.parse(inspect.getsource(value))):
            other = getattr(module, read.id, None) if isinstance(read, ast.Name) else None
            if isinstance(other, type | types.FunctionType) and other is not Param:
                todo += [other] if other.__module__.startswith("runtime") else []
    return frozenset(found)


def formatted(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--diff", "-q", "--stdin-filename", "network.py"],
        input=text,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@settings(max_examples=20)
@given(spec=specs())
def test_fuzzed_specs_give_the_expected_structure_and_the_same_network(spec):
    graph, _ = analyze(spec)
    text = emitted(spec)
    check_structure(text, graph)

    torch.manual_seed(2)
    theirs = compile(spec).double().eval()
    torch.manual_seed(2)
    ours = network_of(text).double().eval()

    # The same order and the same draws: optimizers and seeds carry over.
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    x = torch.randn(3, *spec.input_shape, dtype=torch.float64)
    ours_out, theirs_out = ours(x), theirs(x)
    torch.testing.assert_close(ours_out, theirs_out, rtol=1e-12, atol=1e-12)
    ours_grads = torch.autograd.grad(
        ours_out.square().sum(), list(ours.parameters()), materialize_grads=True
    )
    theirs_grads = torch.autograd.grad(
        theirs_out.square().sum(), list(theirs.parameters()), materialize_grads=True
    )
    torch.testing.assert_close(ours_grads, theirs_grads, rtol=1e-10, atol=1e-12)


@settings(max_examples=15)
@given(spec=specs())
def test_fuzzed_specs_give_formatted_source(spec):
    done = formatted(emitted(spec))
    assert not done.stdout and not done.stderr and done.returncode == 0


def test_edges_and_loops_can_be_seen():
    text = emitted(graphspec.loads(TINY))
    assert not formatted(text).stdout

    assert 'n3 = self.n3(self.aggregate["n3"]([input, n1, n2], adjacency))' in text
    assert "class Layer2(nn.Sequential):" in text
    assert (
        'for index in range(2, 6):\n            self.add_module(f"n{index}", SeparableConv' in text
    )
    assert "outputs = [*outputs, output]" in text
    assert "DenseLayer(4 * index + 8, 4, 1)" in text
    assert "Gate(\n" not in text.split("class Layer4")[0].split("class Layer1")[1]
    assert "Shape: (B, 12, 4, 4) -> (B, 68, 4, 4)" in text
    assert "Param(" not in text and "Annotated" not in text and "ClassVar" not in text
    assert "kernels" not in text


def test_head_says_where_the_file_comes_from():
    spec = graphspec.loads(TINY)
    lines = emitted(spec).splitlines()

    assert "SPDX-License-Identifier: MIT" in lines[1]
    assert f"Spec: content hash {graphspec.content_hash(spec)}" in lines


def test_copied_definitions_are_the_real_ones():
    text = emitted(graphspec.loads(TINY))
    copies = {n.name: n for n in ast.parse(text).body if isinstance(n, ast.ClassDef)}
    for cls, name in (("blocks.basic", "Basic"), ("gating", "Gate"), ("aggregate", "Concat")):
        source = inspect.getsource(importlib.import_module(f"runtime.{cls}"))
        original = next(
            node
            for node in ast.parse(source).body
            if isinstance(node, ast.ClassDef) and node.name == name
        )
        for copy, real in zip(methods(copies[name]), methods(original), strict=True):
            assert [ast.dump(s) for s in copy.body] == [ast.dump(s) for s in real.body]
            assert [a.arg for a in copy.args.kwonlyargs] == [a.arg for a in real.args.kwonlyargs]


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]


def test_names_that_mean_something_in_python():
    spec = graphspec.loads(
        """
version: 1
name: none
input_shape: [3, 8, 8]
stem: {kind: conv_bn_relu, width: 8}
stages:
  - name: basic
    width: 8
    block: basic
    wiring: {kind: explicit, edges: [[input, x], [input, nn], [x, keys], [nn, keys],
      [keys, outputs], [x, outputs], [outputs, output], [nn, output]]}
    edge_weights: learned
  - {name: tensor, depth: 2, width: 8, block: basic, wiring: chain}
  - {name: layer_1, depth: 2, width: 8, block: basic, wiring: residual}
  - {name: layer1, depth: 2, width: 8, block: basic, wiring: residual}
  - name: f
    width: 8
    block: basic
    wiring: {kind: explicit, edges: [[input, append], [append, output]]}
head: {kind: pooled_linear, num_classes: 5}
"""
    )
    text = emitted(spec)
    check_structure(text, analyze(spec)[0])
    network, model = network_of(text).eval(), compile(spec).eval()
    network.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 8, 8)

    assert type(network).__name__ == "NoneNetwork"
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=0)
    assert not formatted(text).stdout


def test_backends_are_named_like_their_files():
    files = {path.stem for path in (ROOT / "compiler" / "backends").glob("[!_]*.py")}

    assert set(BACKENDS) == files


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
)


@given(value=PLAIN)
def test_literals_are_their_values_and_nothing_else(value):
    code = flat(literal(value))

    assert code.isascii() and "\n" not in code
    assert repr(eval(code, {"__builtins__": {"float": float}})) == repr(value)
    tree = ast.parse(code, mode="eval")
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert called <= {"float"}


@settings(max_examples=40)
@given(value=st.text(alphabet="'\"\\{}%a\n\u00e9") | st.lists(st.integers(0, 10**9), max_size=30))
def test_layout_is_the_formatters(value):
    arguments: list = [literal(value), Bracket("key=[", ("1", literal(value)), "]")]
    lines = ["def f() -> None:"]
    for count in (1, 2):
        lines += lay_out(call("self.function", arguments[-count:]), indent=1, prefix="x = ")
    text = "\n".join(lines) + "\n"

    assert formatted(text).stdout == ""


def test_literals_refuse_what_is_not_plain_data():
    with pytest.raises(TypeError, match="not plain data"):
        literal(object())


class Sneaky(str):
    def __repr__(self) -> str:
        return "__import__('os')"


def test_literals_trust_no_subclass():
    with pytest.raises(TypeError, match="not plain data"):
        literal(Sneaky("x"))


def test_every_block_stem_head_and_router_can_be_copied():
    from compiler import catalog

    for role in catalog.ROLES:
        for cls in catalog.classes(role).values():
            excerpt = Excerpt()
            name = excerpt.add(cls)
            text = "\n\n\n".join(
                [
                    "from __future__ import annotations",
                    *("\n".join(section) for section in excerpt.imports()),
                    *excerpt.definitions(),
                ]
            )
            copy = getattr(executed(text), name)
            theirs, ours = inspect.signature(cls), inspect.signature(copy)
            assert list(theirs.parameters) == list(ours.parameters)


def test_a_block_that_needs_another_package_is_refused(tmp_path, monkeypatch):
    (tmp_path / "foreign_blocks.py").write_text(
        "import numpy\nfrom torch import nn\n\n\n"
        "class Foreign(nn.Module):\n    scale = numpy.float32(2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    foreign = importlib.import_module("foreign_blocks")

    with pytest.raises(EmitError, match="needs the package 'numpy'"):
        Excerpt().add(foreign.Foreign)


def test_definitions_of_one_name_are_told_apart(tmp_path, monkeypatch):
    for number in (1, 2):
        (tmp_path / f"blocks_{number}.py").write_text(
            "from torch import nn\n\n\n"
            f"def width():\n    return {number}\n\n\n"
            "class Block(nn.Module):\n    size = width()\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    excerpt = Excerpt()
    names = [excerpt.add(importlib.import_module(f"blocks_{n}").Block) for n in (1, 2)]
    text = "from torch import nn\n\n\n" + "\n\n\n".join(excerpt.definitions())
    module = executed(text)

    assert names == ["Block", "Block2"]
    assert (module.Block.size, module.Block2.size) == (1, 2)


def test_annotations_and_catalogue_attributes_are_stripped():
    statement = read_module(__name__).statements
    text = next(s.text for s in statement if "Decorated" in s.binds)

    assert "groups: int = 1," not in text  # it fits on one line
    assert "def __init__(self, in_channels: int, *, groups: int = 1) -> None:" in text
    assert "divides" not in text and "kept" in text


class Decorated(nn.Module):
    divides: ClassVar = {"groups": ("in_channels",)}
    kept = 1

    def __init__(
        self, in_channels: int, *, groups: Annotated[int, Param("a description", ge=1)] = 1
    ) -> None:
        super().__init__()


def test_a_rewritten_module_is_refused(tmp_path):
    spec = graphspec.loads(TINY)
    graph, _ = analyze(spec)
    model = lower(graph)
    model.head = nn.Linear(1, 1)

    with pytest.raises(EmitError, match="rewritten after it was compiled"):
        BACKENDS["source"]().emit(spec, graph, model, tmp_path / "out")
    assert not (tmp_path / "out" / "network.py").exists()
