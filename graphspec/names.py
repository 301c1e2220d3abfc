"""What stages and nodes may be called: names are also module attributes and Python names."""

from __future__ import annotations

import builtins
import keyword
from typing import Annotated

from pydantic import BeforeValidator, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]

KIND_ALONE = BeforeValidator(lambda value: {"kind": value} if isinstance(value, str) else value)
"""A bare kind is short for `{kind: ...}`."""

OURS = frozenset(
    {"input", "output", "stem", "head", "router", "gate", "aggregate", "threshold", "adjacency"}
)
"""Words with a meaning of their own in a stage, in a `state_dict` or in the compiled graph."""

_PREFIXES = ("router_", "gate_", "aggregate_")
"""The compiler calls the values it adds to a node `n2` `router_n2`, `gate_n2`, `aggregate_n2`."""

# fmt: off
_TORCH = frozenset({
    "add_module", "add_submodule", "apply", "bfloat16", "buffers", "call_super_init", "children",
    "code", "compile", "cpu", "cuda", "delete_all_unused_submodules", "delete_submodule", "device",
    "double", "dump_patches", "eval", "extra_repr", "float", "forward", "fx_pytree", "get_buffer",
    "get_extra_state", "get_parameter", "get_submodule", "graph", "half", "inf", "ipu",
    "load_state_dict", "meta", "modules", "mtia", "named_buffers", "named_children",
    "named_modules", "named_parameters", "nan", "parameters", "print_readable", "pytree",
    "recompile", "register_backward_hook", "register_buffer", "register_forward_hook",
    "register_forward_pre_hook", "register_full_backward_hook", "register_full_backward_pre_hook",
    "register_load_state_dict_post_hook", "register_load_state_dict_pre_hook", "register_module",
    "register_parameter", "register_state_dict_post_hook", "register_state_dict_pre_hook",
    "requires_grad_", "self", "set_extra_state", "set_submodule", "shape_env", "share_memory",
    "state_dict", "to", "to_empty", "to_folder", "torch", "train", "training", "type", "xpu",
    "zero_grad",
})
# fmt: on
"""Attributes of `torch.fx.GraphModule` and globals of its code, which a child module would hide."""


def reserved_for(name: str) -> str | None:
    """Who already uses `name`, or None where it is free."""
    if name in OURS:
        return "graphc"
    if name.startswith(_PREFIXES):
        return "the compiled graph"
    if keyword.iskeyword(name) or hasattr(builtins, name):
        return "Python"
    if name in _TORCH:
        return "torch"
    return None
