"""Copies definitions out of the real modules, with all that they need, into one file.

Left out is what only the compiler reads - `Annotated[..., Param(...)]` becomes the plain type, and
the class attributes that describe a block to the catalogue go - and what only makes sums faster
where there is a C compiler. All else is the source text.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import keyword
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from compiler.backends._base import EmitError
from compiler.backends._layout import Bracket, Code, import_lines, lay_out, unparse

FOR_THE_CATALOGUE = {"divides", "keeps_channels", "rounding", "strides"}
KERNELS = "kernels.fits"
"""Conditions that ask this take their other branch: it computes the same in torch's operations."""
RESERVED = frozenset(dir(builtins)) | frozenset(keyword.kwlist)
_ROLES = {"blocks": "Block", "stems": "Stem", "heads": "Head", "routers": "Router"}

Edit = tuple[int, int, list[str]]
"""First line, line after the last, what replaces them."""


@dataclass(frozen=True)
class Statement:
    """A top-level statement of a module: its text, the names it binds and those it reads."""

    text: str
    binds: frozenset[str]
    reads: frozenset[str]
    is_simple: bool
    extends: frozenset[str]
    """Names that the statement acts upon at import, as in `@weighted_sum.register_fake`."""


@dataclass(frozen=True)
class Import:
    """What an imported name stands for: `name` of `module`, or the module itself."""

    module: str
    name: str | None
    alias: str | None

    @property
    def bound(self) -> str:
        """The name that the import binds."""
        return self.alias or self.name or self.module.split(".")[0]

    @property
    def names_one_thing(self) -> bool:
        """False for `import torch.nn`, which may stand beside `import torch`."""
        return bool(self.alias or self.name)


@dataclass(frozen=True)
class Module:
    """A parsed module."""

    name: str
    statements: tuple[Statement, ...]
    imports: dict[str, Import]

    def defining(self, name: str) -> int | None:
        """The last statement that binds `name`."""
        found = [i for i, statement in enumerate(self.statements) if name in statement.binds]
        return found[-1] if found else None


@dataclass
class Excerpt:
    """Definitions of several modules for one file, under names that do not clash."""

    taken: set[str] = field(default_factory=set[str])
    _names: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    _used: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    _marked: dict[str, set[int]] | None = None
    _imports: dict[Import, None] = field(default_factory=dict[Import, None])

    def add(self, definition: type | Callable[..., Any]) -> str:
        """Takes in a class or function and what it needs; returns its name in the file.

        Raises:
            EmitError: when it needs a package other than torch, or has no source.
        """
        return self._require(definition.__module__, definition.__qualname__, definition.__name__)

    def use(self, module: str, name: str | None = None, alias: str | None = None) -> str:
        """Takes in an import; returns the name that it binds."""
        wanted = Import(module, name, alias)
        if wanted not in self._imports:
            known = [other for other in self._imports if other.bound == wanted.bound]
            if any(other.names_one_thing or wanted.names_one_thing for other in known) or (
                not known and wanted.bound in self.taken
            ):
                raise EmitError(f"{wanted.bound!r} means two things in this network's blocks")
            self._imports[wanted] = None
            self.taken.add(wanted.bound)
        return wanted.bound

    def claim(self, name: str, *suffixes: str) -> str:
        """A name that nothing in the file has: `name`, or with a suffix, or with a number."""
        for candidate in _candidates(name, suffixes):
            if candidate not in self.taken | RESERVED:
                self.taken.add(candidate)
                return candidate
        raise AssertionError("there are infinitely many candidates")

    def imports(self) -> list[list[str]]:
        """The import statements, by section."""
        modules: set[tuple[str, str | None]] = set()
        names: dict[str, set[tuple[str, str | None]]] = {}
        for imported in self._imports:
            if imported.name is None:
                modules.add((imported.module, imported.alias))
            else:
                names.setdefault(imported.module, set()).add((imported.name, imported.alias))
        return import_lines(modules, names)

    def mark(self) -> None:
        """Ends the first part of `definitions`."""
        self._marked = {name: set(indices) for name, indices in self._used.items()}

    def definitions(self, *, after_mark: bool = False) -> list[str]:
        """The copied texts of one part, each after what it needs."""
        texts: list[str] = []
        was_simple = False
        for name in self._order():
            module = read_module(name)
            was_simple = False
            marked = self._used[name] if self._marked is None else self._marked.get(name, set())
            for index in sorted(self._used[name]):
                if (index not in marked) is not after_mark:
                    continue
                statement = module.statements[index]
                text = _rename(statement.text, self._renamings(module, statement))
                if was_simple and statement.is_simple:
                    texts[-1] += f"\n{text}"
                else:
                    texts.append(text)
                was_simple = statement.is_simple
        return texts

    def _order(self) -> list[str]:
        """The used modules, imported ones first."""
        order: list[str] = []

        def visit(name: str) -> None:
            if name in order:
                return
            module = read_module(name)
            for index in sorted(self._used[name]):
                for read in sorted(module.statements[index].reads):
                    imported = module.imports.get(read)
                    if imported and imported.module in self._used:
                        visit(imported.module)
            if name not in order:
                order.append(name)

        for name in self._used:
            visit(name)
        return order

    def _renamings(self, module: Module, statement: Statement) -> dict[str, str]:
        renamings: dict[str, str] = {}
        for name in statement.reads | statement.binds:
            imported = module.imports.get(name)
            key = (module.name, name)
            if imported and imported.name and (imported.module, imported.name) in self._names:
                key = (imported.module, imported.name)
            if self._names.get(key, name) != name:
                renamings[name] = self._names[key]
        return renamings

    def _require(self, module_name: str, name: str, shown: str) -> str:
        if (module_name, name) in self._names:
            return self._names[module_name, name]
        module = read_module(module_name)
        index = module.defining(name)
        if index is None:
            raise EmitError(f"{module_name} defines no {shown!r} at its top level to copy")
        statement = module.statements[index]
        for bound in sorted(statement.binds):
            self._names[module_name, bound] = self.claim(bound, *_suffixes(module_name, bound))
        self._include(module, index)
        return self._names[module_name, name]

    def _include(self, module: Module, index: int) -> None:
        used = self._used.setdefault(module.name, set())
        if index in used:
            return
        used.add(index)
        for name in sorted(module.statements[index].reads):
            if imported := module.imports.get(name):
                self._follow(module, imported)
            elif module.defining(name) is not None:
                self._require(module.name, name, name)
        for other, statement in enumerate(module.statements):
            if statement.extends & module.statements[index].binds:
                self._include(module, other)

    def _follow(self, module: Module, imported: Import) -> None:
        package = imported.module.split(".")[0]
        if package == "torch" or package in sys.stdlib_module_names:
            self.use(imported.module, imported.name, imported.alias)
        elif package in ("runtime", module.name.split(".")[0]) and imported.name:
            self._require(imported.module, imported.name, imported.name)
        else:
            raise EmitError(
                f"{module.name} needs the package {package!r}, but emitted source needs torch "
                "alone; use a block whose code imports only torch and its own package"
            )


def _candidates(name: str, suffixes: Sequence[str]) -> Iterator[str]:
    yield name
    for suffix in suffixes:
        yield name + suffix
    number = 2
    while True:
        yield f"{name}{number}"
        number += 1


def _suffixes(module_name: str, name: str) -> tuple[str, ...]:
    parts = module_name.split(".")
    if name.lstrip("_")[:1].isupper():
        return (_ROLES[parts[-2]],) if len(parts) > 1 and parts[-2] in _ROLES else ()
    return (f"_{parts[-1]}",)


@cache
def read_module(name: str) -> Module:
    """The module's statements, already without what only the compiler reads."""
    try:
        source = inspect.getsource(importlib.import_module(name))
    except (OSError, TypeError) as failure:
        raise EmitError(f"the source of {name} is not there to copy: {failure}") from failure
    lines = source.splitlines()
    statements: list[Statement] = []
    imports: dict[str, Import] = {}
    for node, following in _with_following(ast.parse(source).body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= _imports(node)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in node.body:
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    imports |= _imports(inner)
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            statements.append(_statement(lines, node, following))
    return Module(name, tuple(statements), imports)


def _with_following(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    return zip(body, [*body[1:], None], strict=False)


def _imports(node: ast.Import | ast.ImportFrom) -> dict[str, Import]:
    if isinstance(node, ast.Import):
        return {
            item.asname or item.name.split(".")[0]: Import(item.name, None, item.asname)
            for item in node.names
        }
    module = node.module or ""
    return {
        item.asname or item.name: Import(
            module, item.name, item.asname if item.asname != item.name else None
        )
        for item in node.names
    }


def _statement(lines: list[str], node: ast.stmt, following: ast.stmt | None) -> Statement:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)]) - 1
    while first and lines[first - 1].startswith("#"):
        first -= 1
    last = node.end_lineno or node.lineno
    is_simple = isinstance(node, ast.Assign | ast.AnnAssign)
    if is_simple and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        last = following.end_lineno or last  # the constant's docstring
    text = _strip("\n".join(lines[first:last]))
    stripped = ast.parse(text)
    reads = frozenset(n.id for n in ast.walk(stripped) if isinstance(n, ast.Name))
    acted_upon = [*decorators, *([node.value] if isinstance(node, ast.Expr) else [])]
    return Statement(
        text=text,
        binds=frozenset(_bound(stripped)),
        reads=reads,
        is_simple=is_simple,
        extends=frozenset(
            name.id for e in acted_upon for name in ast.walk(e) if isinstance(name, ast.Name)
        ),
    )


def _bound(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if node.name != "_":
                yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.If | ast.Try):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    yield inner.id


def _strip(text: str) -> str:
    """The text of one statement without what the file has no use for."""
    text = _edited(text, _otherwise_than_by_kernels)
    text = _edited(text, _attributes_for_the_catalogue)
    return _edited(text, _plain_signatures)


def _edited(text: str, find: Callable[[ast.Module, list[str]], list[Edit]]) -> str:
    lines = text.splitlines()
    for first, last, replacement in sorted(find(ast.parse(text), lines), reverse=True):
        lines[first:last] = replacement
    return "\n".join(lines)


def _otherwise_than_by_kernels(tree: ast.Module, lines: list[str]) -> list[Edit]:
    edits: list[Edit] = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            asking = [
                node
                for node in ast.walk(function)
                if isinstance(node, ast.If) and _asks_for_kernels(node.test)
            ]
            edits += [_otherwise(node, lines) for node in asking]
            edits += _read_only_by(asking, function)
    return edits


def _asks_for_kernels(test: ast.expr) -> bool:
    return any(
        isinstance(node, ast.Attribute) and ast.unparse(node) == KERNELS for node in ast.walk(test)
    )


def _otherwise(node: ast.If, lines: list[str]) -> Edit:
    """The lines of a condition, replaced by those of its `else`."""
    last = node.end_lineno or node.lineno
    if not node.orelse:
        return node.lineno - 1, last, []
    first = node.orelse[0].lineno - 1
    while not lines[first - 1].lstrip().startswith("else:"):
        first -= 1
    return node.lineno - 1, last, [line.removeprefix("    ") for line in lines[first:last]]


def _read_only_by(conditions: list[ast.If], function: ast.FunctionDef) -> list[Edit]:
    """The assignments of a function to names that only `conditions` read."""
    inside = {
        id(inner)
        for node in conditions
        for part in (node.test, *node.body)
        for inner in ast.walk(part)
    }
    read = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in inside
    }
    return [
        (node.lineno - 1, node.end_lineno or node.lineno, [])
        for node in function.body
        if conditions and isinstance(node, ast.Assign) and not _names_in(node.targets) & read
    ]


def _names_in(nodes: Sequence[ast.expr]) -> set[str]:
    return {name.id for node in nodes for name in ast.walk(node) if isinstance(name, ast.Name)}


def _attributes_for_the_catalogue(tree: ast.Module, lines: list[str]) -> list[Edit]:
    edits: list[Edit] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            used = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            for inner in node.body:
                if (
                    isinstance(inner, ast.AnnAssign)
                    and isinstance(inner.target, ast.Name)
                    and inner.target.id in FOR_THE_CATALOGUE - used
                    and ast.unparse(inner.annotation).startswith("ClassVar")
                ):
                    last = inner.end_lineno or inner.lineno
                    last += last < len(lines) and not lines[last]
                    edits.append((inner.lineno - 1, last, []))
    return edits


def _all_arguments(node: ast.FunctionDef) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def _is_annotated(argument: ast.arg) -> bool:
    annotation = argument.annotation
    return isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated"


def _plain_signatures(tree: ast.Module, lines: list[str]) -> list[Edit]:
    return [
        _plain_signature(node, lines)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any(map(_is_annotated, _all_arguments(node)))
    ]


def _plain_signature(node: ast.FunctionDef, lines: list[str]) -> Edit:
    """The lines from `def` to the colon, and the same with plain types."""
    args = node.args
    positional = [*args.posonlyargs, *args.args]
    missing = len(positional) - len(args.defaults)
    items: list[Code] = []
    for index, argument in enumerate(positional):
        default = args.defaults[index - missing] if index >= missing else None
        items.append(_argument(argument, default))
    if args.vararg:
        items.append("*" + _flat_argument(args.vararg))
    elif args.kwonlyargs:
        items.append("*")
    for argument, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        items.append(_argument(argument, default))
    if args.kwarg:
        items.append("**" + _flat_argument(args.kwarg))
    returns = f" -> {unparse(node.returns)}" if node.returns else ""
    signature = Bracket(f"def {node.name}(", tuple(items), f"){returns}:")
    # The colon ends the last line before the body, or before the comments that open it.
    last = node.body[0].lineno - 1
    while not lines[last - 1].rstrip().endswith(":") or lines[last - 1].lstrip().startswith("#"):
        last -= 1
    return node.lineno - 1, last, lay_out(signature, indent=node.col_offset // 4)


def _flat_argument(argument: ast.arg) -> str:
    """`name: type`, the type without its annotations."""
    annotation = argument.annotation
    if annotation is None:
        return argument.arg
    if _is_annotated(argument):
        assert isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple)
        annotation = annotation.slice.elts[0]
    return f"{argument.arg}: {unparse(annotation)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    if default is None:
        return _flat_argument(argument)
    equals = " = " if argument.annotation else "="
    return f"{_flat_argument(argument)}{equals}{unparse(default)}"


def _rename(text: str, renamings: dict[str, str]) -> str:
    """The text with other names for module-level definitions."""
    if not renamings:
        return text
    lines = text.splitlines()
    places: list[tuple[int, int, str]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and node.id in renamings:
            places.append((node.lineno - 1, node.col_offset, node.id))
        elif isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in renamings:
            line = node.lineno - 1
            places.append((line, lines[line].index(node.name, node.col_offset + 4), node.name))
    for line, column, name in sorted(places, reverse=True):
        # Columns of the syntax tree count bytes.
        raw = lines[line].encode()
        raw = raw[:column] + renamings[name].encode() + raw[column + len(name.encode()) :]
        lines[line] = raw.decode()
    return "\n".join(lines)
