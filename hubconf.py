"""For `torch.hub.load(REPOSITORY, "dgnet_resnet50")`: every example, with initial weights."""

from functools import partial as _partial

from compiler import compile as _compile
from compiler.interop._examples import examples as _examples

dependencies = ["networkx", "pydantic", "torch", "yaml"]
globals().update({name: _partial(_compile, path) for name, path in _examples(lambda name: False)})
