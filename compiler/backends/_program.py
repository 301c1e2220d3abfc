"""The classes of a network's stages, and of the network, written from their fx graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from torch import fx, nn

from compiler.backends._excerpt import Excerpt
from compiler.backends._forward import Forward, Run, number_of, part_of
from compiler.backends._layers import Layers, constructor, looped_constructor
from compiler.backends._layout import BODY, MARGIN, WIDTH, Code, call, flat, lay_out, literal
from graphspec import Fixed, NetworkGraph, Routed, StageGraph
from runtime.aggregate import Sum


@dataclass(frozen=True)
class Class:
    """A class by its lines, for the template."""

    name: str
    base: str
    docstring: list[str]
    methods: list[list[str]]


def network_class(
    name: str,
    graph: NetworkGraph,
    program: fx.GraphModule,
    stage_classes: Mapping[str, str],
    excerpt: Excerpt,
) -> Class:
    """The class of the whole network: stem, stages, head."""
    init = _init_head()
    for node in program.graph.find_nodes(op="call_module"):
        target = str(node.target)
        if target in stage_classes:
            made: Code = f"{stage_classes[target]}()"
        else:
            made = constructor(program.get_submodule(target), excerpt)
        init += lay_out(made, indent=BODY, prefix=f"self.{target} = ")
    channels, height, width = graph.input_shape
    text = [
        f"`{graph.name}`: images to logits.",
        "",
        f"Shape: (B, {channels}, {height}, {width}) -> (B, {graph.num_classes})",
    ]
    names = {node: str(node.target) for node in program.graph.nodes}
    forward = Forward(program, names, Layers(program))
    return Class(name, "nn.Module", _docstring(text), [init, forward.lines()])


def stage_class(name: str, stage: StageGraph, module: nn.Module, excerpt: Excerpt) -> Class:
    """The class of one stage."""
    assert isinstance(module, fx.GraphModule)
    chain = chain_of(module)
    text = _describe(stage, [str(node.target) for node in chain or ()])
    if chain is not None:
        return Class(name, "nn.Sequential", _docstring(text), [_chain_init(module, chain, excerpt)])
    layers = Layers(module)
    forward = Forward(module, _names(stage, module), layers)
    init = _init_head() + _threshold(stage, module, excerpt)
    looped: set[fx.Node] = set()
    for node in module.graph.find_nodes(op="call_module"):
        if node in looped:
            continue
        if forward.run and node is forward.run.calls[0][0]:
            loop = _loop_init(module, forward.run, layers, excerpt)
            looped = {node for calls in forward.run.calls for node in calls} if loop else set()
            init += loop
        if node not in looped:
            target = str(node.target)
            init += layers.assignment(target, constructor(module.get_submodule(target), excerpt))
    return Class(name, "nn.Module", _docstring(text), [init, forward.lines()])


def _loop_init(module: fx.GraphModule, run: Run, layers: Layers, excerpt: Excerpt) -> list[str]:
    """The lines that make the layers of a run in a loop; none where their arguments forbid it."""
    head: list[str] = []
    body: list[str] = []
    for calls in zip(*run.calls, strict=True):
        targets = [str(node.target) for node in calls]
        made = looped_constructor([module.get_submodule(t) for t in targets], run.first, excerpt)
        if made is None:
            return []
        head += layers.group_head(targets[0], made)
        body += layers.looped_assignment(targets[0], made)
    loop = [
        f"{MARGIN}for index in range({run.first}, {run.last + 1}):",
        f'{MARGIN}    name = f"n{{index}}"',
    ]
    return [*head, *loop, *body]


def drop_copies(module: fx.GraphModule) -> None:
    """Lets the readers of a sum over one edge of weight 1 read that edge's source."""
    for node in module.graph.find_nodes(op="call_module"):
        layer = module.get_submodule(str(node.target))
        if isinstance(layer, Sum) and layer.weights == (1.0,):
            (value,) = node.args[0]
            node.replace_all_uses_with(value)
            module.graph.erase_node(node)


def chain_of(module: fx.GraphModule) -> list[fx.Node] | None:
    """The calls of a program where each reads nothing but the one before, else None."""
    value, *rest = module.graph.nodes
    calls: list[fx.Node] = []
    for node in rest:
        if node.all_input_nodes != [value] or node.args != (value,):
            return None
        if node.op == "output":
            break
        if node.op != "call_module" or not _is_own_attribute(str(node.target)):
            return None
        calls.append(node)
        value = node
    return calls


def _is_own_attribute(name: str) -> bool:
    return "." not in name and not hasattr(nn.Sequential, name)


def _chain_init(module: fx.GraphModule, chain: Sequence[fx.Node], excerpt: Excerpt) -> list[str]:
    """The constructor of a chain; layers that are alike and numbered in a row are a loop."""
    made = [
        (str(node.target), constructor(module.get_submodule(str(node.target)), excerpt))
        for node in chain
    ]
    init = _init_head()
    index = 0
    while index < len(made):
        name, code = made[index]
        stop = index + 1
        number = number_of(name)
        while (
            stop < len(made)
            and made[stop][1] == code
            and number is not None
            and number_of(made[stop][0]) == number + stop - index
        ):
            stop += 1
        if number is not None and stop - index > 2:
            init.append(f"{MARGIN}for index in range({number}, {number + stop - index}):")
            adding = call("self.add_module", ['f"n{index}"', code])
            init += lay_out(adding, indent=BODY + 1)
        else:
            stop = index + 1
            init += lay_out(code, indent=BODY, prefix=f"self.{name} = ")
        index = stop
    return init


def _names(stage: StageGraph, module: fx.GraphModule) -> dict[fx.Node, str]:
    """What the values of a stage's program would like to be called."""
    blocks = {node.name: node.block for node in stage.nodes}
    names: dict[fx.Node, str] = {}
    inputs = iter(stage.nodes)
    for node in module.graph.nodes:
        origin, part = node.meta.get("graphc"), part_of(node)
        if node.op == "placeholder":
            receiver = next(inputs)
            several = len(stage.inputs) > 1
            names[node] = receiver.name if receiver.block is None or several else "x"
        elif part in ("block", "tap") or (part == "aggregate" and blocks[origin.node] is None):
            names[node] = origin.node
        elif part == "gate":
            names[node] = "adjacency"
        else:
            names[node] = node.name
    return names


def _threshold(stage: StageGraph, module: fx.GraphModule, excerpt: Excerpt) -> list[str]:
    """The line that makes a routed stage's thresholds, one for every node that receives."""
    threshold = (dict(module.named_parameters()) | dict(module.named_buffers())).get("threshold")
    if threshold is None:
        return []
    values = {e.weights.threshold for e in stage.edges if isinstance(e.weights, Routed)}
    (value,) = values
    torch_name = excerpt.use("torch")
    made = f"{torch_name}.full(({threshold.numel()},), {flat(literal(value))})"
    if isinstance(threshold, nn.Parameter):
        return [f"{MARGIN}self.threshold = nn.Parameter({made})"]
    return [f'{MARGIN}self.register_buffer("threshold", {made})']


def _init_head() -> list[str]:
    return ["    def __init__(self) -> None:", f"{MARGIN}super().__init__()"]


def _docstring(lines: Sequence[str]) -> list[str]:
    margin = " " * 4
    wrapped = [part for line in lines for part in (wrap(line, WIDTH - 8) or [""])]
    wrapped[0] = f'"""{wrapped[0]}'
    return [f"{margin}{line}".rstrip() for line in (*wrapped, '"""')]


def _describe(stage: StageGraph, chain: Sequence[str]) -> list[str]:
    """What a stage is, its nodes, its shape."""
    names = [node.name for node in stage.nodes]
    depth = sum(node.role == "block" for node in stage.nodes)
    if chain:
        text = f"Stage `{stage.name}`, a chain: {_arrows(chain)}."
    else:
        kinds = Counter(edge.weights.kind for edge in stage.edges)
        edges = " and ".join(f"{count} {kind}" for kind, count in kinds.items())
        plural = "s" if len(stage.edges) > 1 else ""
        text = f"Stage `{stage.name}`: {depth} block nodes, {edges} edge{plural}."
    lines = [text, ""]
    if any(node.router for node in stage.nodes):
        numbered = ", ".join(f"{index} {name}" for index, name in enumerate(names))
        lines += [f"Nodes: {numbered}", ""]
    inputs = ", ".join(_shape(node.in_shape) for node in stage.nodes[: len(stage.inputs)])
    for index, node in enumerate(stage.nodes):
        edges = stage.sources_of(index)
        plain = len(edges) == 1 and edges[0].weights == Fixed() and node.aggregate != "concat"
        if node.role == "block" and node.block is None and plain:
            lines += [f"`{node.name}` is what `{names[edges[0].source]}` puts out.", ""]
    return [*lines, f"Shape: {inputs} -> {_shape(stage.nodes[-1].out_shape)}"]


def _arrows(names: Sequence[str]) -> str:
    shown = names if len(names) < 6 else [names[0], names[1], "...", names[-1]]
    return " -> ".join(shown)


def _shape(shape: tuple[int, int, int] | None) -> str:
    assert shape is not None, "infer-shapes runs before lowering"
    return f"(B, {', '.join(map(str, shape))})"
