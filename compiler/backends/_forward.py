"""The `forward` of a generated class, written from an fx graph, one line a node of the stage."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from compiler.backends._base import EmitError
from compiler.backends._layers import Layers
from compiler.backends._layout import (
    BODY,
    MARGIN,
    Bracket,
    Code,
    call,
    fits,
    flat,
    lay_out,
    literal,
)
from compiler.lower import Origin

_LOOP_FROM = 4
"""Nodes in a row that read all earlier ones, from which they may be a loop."""
_LONG = 60
"""Characters of a list of node names, from which a loop reads better."""


@dataclass
class Expressions:
    """What stands for the values of a program, so far.

    `collected` are the values that the variable `outputs` holds; where `name` is given, it is
    the expression for the name of the layers that are called.
    """

    module: fx.GraphModule
    layers: Layers
    codes: dict[fx.Node, Code] = field(default_factory=dict[fx.Node, Code])
    collected: tuple[fx.Node, ...] = ()
    name: str | None = None

    def call(self, node: fx.Node) -> Code:
        """The call of a layer; arguments that are None by default are left out at the end."""
        module = self.module.get_submodule(str(node.target))
        arguments = list(node.args)
        parameters = list(inspect.signature(module.forward).parameters.values())
        while arguments[-1] is None and parameters[len(arguments) - 1].default is None:
            arguments.pop()
        layer = self.layers.reference(str(node.target), self.name)
        return call(layer, [self.value(argument) for argument in arguments])

    def value(self, value: Any) -> Code:
        """The expression for an argument. Raises: KeyError for a value that has none."""
        if isinstance(value, fx.Node):
            return self.codes[value]
        if not isinstance(value, list | tuple):
            return literal(value)
        count = len(self.collected)
        if not count or tuple(value[:count]) != self.collected:
            return Bracket("[", tuple(map(self.value, value)), "]")
        if len(value) == count:
            return "outputs"
        return Bracket("[", ("*outputs", *map(self.value, value[count:])), "]")


@dataclass(frozen=True)
class Run:
    """Nodes `n<first>` .. `n<last>` that all read every earlier node and are all computed alike."""

    first: int
    last: int
    calls: tuple[tuple[fx.Node, ...], ...]
    before: tuple[fx.Node, ...]
    values: tuple[fx.Node, ...]
    lines: tuple[str, ...]
    """The body of the loop; `name` holds the node's name."""


class Forward:
    """The lines of one `forward`.

    `names` says what each value would like to be called. A name is free again after the last
    use of the value that had it.
    """

    def __init__(
        self, module: fx.GraphModule, names: Mapping[fx.Node, str], layers: Layers
    ) -> None:
        self._module, self._names, self._layers = module, names, layers
        self._order = {node: index for index, node in enumerate(module.graph.nodes)}
        self._holders: dict[str, fx.Node] = {}
        self._now = Expressions(module, layers)
        self._lines: list[str] = []
        self.run = self._find_run()

    def lines(self) -> list[str]:
        """The method, signature first."""
        parameters: list[Code] = []
        looped = {node for calls in self.run.calls for node in calls} if self.run else set()
        for node in self._module.graph.nodes:
            if node.op == "placeholder":
                name = self._claim(node)
                self._now.codes[node] = name
                parameters.append(f"{name}: Tensor")
            elif node.op == "get_attr":
                self._now.codes[node] = f"self.{node.target}"
            elif node.op == "output":
                self._return(node.args[0])
            elif node.op != "call_module":
                raise EmitError(f"emitted source cannot hold the instruction {node.format_node()}")
            elif node in looped:
                if self.run and node is self.run.calls[0][0]:
                    self._loop(self.run)
            elif _is_part_of_next(node):
                self._now.codes[node] = self._now.call(node)
            else:
                self._assign(node)
        signature = Bracket("def forward(", ("self", *parameters), ") -> Tensor:")
        return [*lay_out(signature, indent=BODY - 1), *self._lines]

    def _return(self, value: Any) -> None:
        if isinstance(value, fx.Node) and isinstance(self._now.codes[value], Bracket):
            self._write(value, "return ")
        else:
            self._lines.append(f"{MARGIN}return {flat(self._now.value(value))}")

    def _claim(self, node: fx.Node) -> str:
        """A name for a value; nobody who is still needed has it."""
        name = self._names[node]
        while name == "self" or (
            name in self._holders and self._last_use(self._holders[name]) > self._order[node]
        ):
            name += "_"
        self._holders[name] = node
        return name

    def _last_use(self, node: fx.Node) -> int:
        return max((self._order[user] for user in node.users), default=self._order[node])

    def _write(self, node: fx.Node, prefix: str) -> None:
        """Writes a statement; what was to stand inside gets its own if the line is too long."""
        code = self._now.call(node)
        if not fits(f"{MARGIN}{prefix}{flat(code)}"):
            for argument in node.args:
                code = self._now.codes[argument] if isinstance(argument, fx.Node) else ""
                if isinstance(argument, fx.Node) and isinstance(code, Bracket):
                    self._assign(argument)
            code = self._now.call(node)
        self._lines += lay_out(code, indent=BODY, prefix=prefix)

    def _assign(self, node: fx.Node) -> None:
        name = self._claim(node)
        self._write(node, f"{name} = ")
        self._now.codes[node] = name

    def _loop(self, run: Run) -> None:
        before = Bracket("[", tuple(self._now.codes[value] for value in run.before), "]")
        self._lines.append(f"{MARGIN}# From here on, every node reads all earlier ones.")
        self._lines += lay_out(before, indent=BODY, prefix="outputs = ")
        self._lines += [
            f"{MARGIN}for index in range({run.first}, {run.last + 1}):",
            f'{MARGIN}    name = f"n{{index}}"',
            *(f"{MARGIN}    {line}" for line in run.lines),
            f"{MARGIN}    outputs = [*outputs, output]",
        ]
        for node in run.calls[-1]:
            if part_of(node) == "gate":
                self._now.codes[node] = self._claim(node)
        self._now.collected = (*run.before, *run.values)

    def _find_run(self) -> Run | None:
        """The first long run of nodes that can be a loop."""
        steps = self._steps()
        if steps is None:
            return None
        start = 0
        while start < len(steps):
            lines = self._symbolic(steps, start)
            stop = start + 1
            first = number_of(steps[start][0])
            while (
                lines is not None
                and first is not None
                and stop < len(steps)
                and number_of(steps[stop][0]) == first + stop - start
                and self._symbolic(steps, stop) == lines
            ):
                stop += 1
            if lines is not None and first is not None and stop - start >= _LOOP_FROM:
                run = Run(
                    first=first,
                    last=first + stop - start - 1,
                    calls=tuple(calls for _, calls, _ in steps[start:stop]),
                    before=tuple(value for _, _, value in steps[:start]),
                    values=tuple(value for _, _, value in steps[start:stop]),
                    lines=lines,
                )
                names = [name for name, _, _ in steps[:stop]]
                return run if len(", ".join(names)) > _LONG and self._is_closed(run) else None
            start = stop
        return None

    def _steps(self) -> list[tuple[str, tuple[fx.Node, ...], fx.Node]] | None:
        """Name, calls and value of each node of the stage; None if one has no value of its own."""
        nodes = [n for n in self._module.graph.nodes if n.op in ("placeholder", "call_module")]
        inputs = iter(self._module.meta.get("graphc", {"nodes": ()})["nodes"])
        calls: dict[str, list[fx.Node]] = {}
        for node in nodes:
            name = next(inputs, "") if node.op == "placeholder" else _node_name(node)
            calls.setdefault(name, []).append(node)
        steps: list[tuple[str, tuple[fx.Node, ...], fx.Node]] = []
        for name, group in calls.items():
            values = [n for n in group if n.op == "placeholder" or self._names[n] == name]
            if not values:
                return None
            steps.append((name, tuple(group), values[-1]))
        return steps

    def _symbolic(
        self, steps: Sequence[tuple[str, tuple[fx.Node, ...], fx.Node]], index: int
    ) -> tuple[str, ...] | None:
        """The lines of a step where it reads nothing but `outputs` and `adjacency`."""
        _, calls, value = steps[index]
        earlier = tuple(value for _, _, value in steps[:index])
        if not earlier or calls[0].op == "placeholder":
            return None
        codes: dict[fx.Node, Code] = {}
        for node in self._module.graph.nodes:
            if node.op == "get_attr":
                codes[node] = f"self.{node.target}"
            elif part_of(node) == "gate" and self._order[node] < self._order[calls[0]]:
                codes = {n: code for n, code in codes.items() if code != "adjacency"}
                codes[node] = "adjacency"
        then = Expressions(self._module, self._layers, codes, earlier, "name")
        lines: list[str] = []
        try:
            for node in calls:
                code = then.call(node)
                then.codes[node] = code
                if not _is_part_of_next(node):
                    then.codes[node] = "adjacency" if part_of(node) == "gate" else "output"
                    lines.append(f"{then.codes[node]} = {flat(code)}")
        except KeyError:
            return None
        is_short = all(fits(f"{MARGIN}    {line}") for line in lines)
        return tuple(lines) if is_short and then.codes[value] == "output" else None

    def _is_closed(self, run: Run) -> bool:
        """Whether later nodes read the values of a run all together or not at all."""
        collected = (*run.before, *run.values)
        last = self._order[run.calls[-1][-1]]
        for value in collected:
            for user in value.users:
                if self._order[user] <= last:
                    continue
                lists = [a for a in user.args if isinstance(a, list | tuple)]
                if value in user.args or user.op == "output":
                    return False
                if any(value in a and tuple(a[: len(collected)]) != collected for a in lists):
                    return False
        return True


def _is_part_of_next(node: fx.Node) -> bool:
    """Whether a call reads best inside the expression of the call that follows it."""
    if list(node.users) != [node.next]:
        return False
    if node.next.op == "output":
        return node.next.args == (node,)
    return node in node.next.args and (
        part_of(node) in ("aggregate", "router") or part_of(node.next) == "tap"
    )


def part_of(node: fx.Node) -> str:
    """What a call does for its node of the stage: block, router, gate, ..."""
    origin = node.meta.get("graphc")
    return origin.part if isinstance(origin, Origin) else ""


def _node_name(node: fx.Node) -> str:
    origin = node.meta.get("graphc")
    return origin.node if isinstance(origin, Origin) else ""


def number_of(name: str) -> int | None:
    """7 of `n7`, None for other names."""
    digits = name.removeprefix("n")
    is_number = digits != name and digits.isdecimal() and digits == str(int(digits))
    return int(digits) if is_number else None
