"""The layers of generated classes: the calls that make them, and the expressions that name them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import fx, nn

from compiler.backends._base import EmitError
from compiler.backends._excerpt import Excerpt
from compiler.backends._layout import (
    BODY,
    MARGIN,
    Code,
    call,
    counts,
    lay_out,
    literal,
    prefixed,
    sequence,
)
from compiler.construction import Construction, construction_of


def constructor(module: nn.Module, excerpt: Excerpt) -> Code:
    """The call that made `module`, without arguments that are the defaults.

    Raises:
        EmitError: when nobody knows how it was made.
    """
    made = _construction(module)
    arguments = [
        prefixed(prefix, sequence(value) if is_any_sequence else literal(value))
        for prefix, value, is_any_sequence in _arguments(made)
    ]
    return call(excerpt.add(made.cls), arguments)


def looped_constructor(modules: Sequence[nn.Module], first: int, excerpt: Excerpt) -> Code | None:
    """One call that makes all `modules` while `index` counts from `first`, if there is one."""
    made = [_construction(module) for module in modules]
    rows = [_arguments(construction) for construction in made]
    columns = list(zip(*rows, strict=True)) if len({len(row) for row in rows}) == 1 else []
    if len({construction.cls for construction in made}) > 1 or len(columns) != len(rows[0]):
        return None
    arguments: list[Code] = []
    for column in columns:
        prefixes = {prefix for prefix, _, _ in column}
        code = _counting([value for _, value, _ in column], first, is_any_sequence=column[0][2])
        if len(prefixes) > 1 or code is None:
            return None
        arguments.append(prefixed(prefixes.pop(), code))
    return call(excerpt.add(made[0].cls), arguments)


def _construction(module: nn.Module) -> Construction:
    made = construction_of(module)
    if made is None:
        raise EmitError(f"{type(module).__name__} was not made by the compiler; emit the spec")
    return made


def _arguments(made: Construction) -> list[tuple[str, Any, bool]]:
    """Keyword or nothing, value, and whether any sequence will do, of every argument needed."""
    parameters = inspect.signature(made.cls).parameters
    arguments = [
        ("", value, _is_any_sequence(parameter))
        for value, parameter in zip(made.args, parameters.values(), strict=False)
    ]
    for name, value in made.kwargs:
        is_any_sequence = _is_any_sequence(parameters[name])
        default = parameters[name].default
        if is_any_sequence and isinstance(default, tuple) and tuple(value) == default:
            continue
        if type(value) is not type(default) or value != default:
            arguments.append((f"{name}=", value, is_any_sequence))
    return arguments


def _is_any_sequence(parameter: inspect.Parameter) -> bool:
    """Whether a parameter takes lists, tuples and ranges alike."""
    return str(parameter.annotation).startswith("Sequence[")


def _counting(values: Sequence[Any], first: int, *, is_any_sequence: bool) -> Code | None:
    """An expression in `index` that takes `values` one after the other, if there is one."""
    if all(type(value) is type(values[0]) and value == values[0] for value in values):
        return sequence(values[0]) if is_any_sequence else literal(values[0])
    if all(type(value) is int for value in values):
        return _linear(values, first)
    if is_any_sequence and all(value and counts(value) for value in values):
        start = _linear([value[0] for value in values], first)
        stop = _linear([value[-1] + 1 for value in values], first)
        if start is not None and stop is not None:
            return f"range({stop})" if start == "0" else f"range({start}, {stop})"
    return None


def _linear(values: Sequence[int], first: int) -> str | None:
    step = values[1] - values[0]
    if any(b - a != step for a, b in pairwise(values)):
        return None
    offset = values[0] - step * first
    if step == 0:
        return str(offset)
    if step == -1:
        return f"{offset} - index"
    scaled = "index" if step == 1 else f"{step} * index"
    if offset == 0:
        return scaled
    return f"{scaled} {'+' if offset > 0 else '-'} {abs(offset)}"


class Layers:
    """How a stage's class holds what the program calls `router.n2`: under the same keys."""

    def __init__(self, module: fx.GraphModule) -> None:
        members: dict[str, dict[str, nn.Module]] = {}
        for node in module.graph.find_nodes(op="call_module"):
            group, _, child = str(node.target).rpartition(".")
            members.setdefault(group, {})[child] = module.get_submodule(str(node.target))
        # One layer does for a group of equal layers that have no state and no parameters.
        self._shared = {
            group
            for group, layers in members.items()
            if group
            and len({_stateless_class(layer) for layer in layers.values()} - {None}) == 1
            and all(_stateless_class(layer) for layer in layers.values())
        }
        # A ModuleDict cannot hold what is called like one of its methods.
        self._plain = {
            group
            for group, layers in members.items()
            if any(hasattr(nn.ModuleDict, child) for child in layers)
        }
        self._made: set[str] = set()

    def assignment(self, target: str, made: Code) -> list[str]:
        """The lines that add a layer; the first of a group makes the group."""
        group, _, child = target.rpartition(".")
        if not group:
            return lay_out(made, indent=BODY, prefix=f"self.{child} = ")
        head = self.group_head(target, made)
        if group in self._shared:
            return head
        if group in self._plain:
            adding = call(f"self.{group}.add_module", [literal(child), made])
            return head + lay_out(adding, indent=BODY)
        return head + lay_out(made, indent=BODY, prefix=f'self.{group}["{child}"] = ')

    def looped_assignment(self, target: str, made: Code) -> list[str]:
        """The lines that add one layer of a loop; the variable `name` holds its name."""
        group, _, _ = target.rpartition(".")
        if group in self._shared:
            return []
        if not group or group in self._plain:
            adding = call(".".join(filter(None, ("self", group, "add_module"))), ["name", made])
            return lay_out(adding, indent=BODY + 1)
        return lay_out(made, indent=BODY + 1, prefix=f"self.{group}[name] = ")

    def group_head(self, target: str, made: Code) -> list[str]:
        """The lines that make the group of a layer, if it is the first one."""
        group, _, _ = target.rpartition(".")
        if not group or group in self._made:
            return []
        self._made.add(group)
        if group in self._shared:
            return lay_out(made, indent=BODY, prefix=f"self.{group} = ")
        return [
            f"{MARGIN}self.{group} = {'nn.Module' if group in self._plain else 'nn.ModuleDict'}()"
        ]

    def reference(self, target: str, name: str | None = None) -> str:
        """The expression for a layer; `name` is the expression for its name, if not itself."""
        group, _, child = target.rpartition(".")
        if group in self._shared:
            return f"self.{group}"
        if not group:
            return f"self.{child}" if name is None else f"self.get_submodule({name})"
        name = f'"{child}"' if name is None else name
        if group in self._plain:
            return f"self.{group}.get_submodule({name})"
        return f"self.{group}[{name}]"


def _stateless_class(module: nn.Module) -> type | None:
    """The class of a module that was made without arguments and owns no tensor."""
    made = construction_of(module)
    is_plain = made is not None and not made.args and not made.kwargs
    return type(module) if is_plain and not [*module.parameters(), *module.buffers()] else None
