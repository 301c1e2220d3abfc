"""What a user may write. No graphs, no torch: see build.py for what it means.

These models describe a spec after `extends`, `stage_defaults` and overrides were merged
(layers.py). Rules that need two fields are in verify.py, so that every error has its place.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr

from graphspec.errors import Provenance
from graphspec.names import KIND_ALONE, Name
from graphspec.weights import AnyEdgeWeights, Fixed
from graphspec.wiring import AnyWiring

Count = Annotated[int, Field(strict=True, ge=1)]
Size = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
"""Channels, pixels, strides, classes: their products fit in the 64 bits of torch's sizes."""
Aggregate = Literal["sum", "mean", "concat"]


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


Parameter = Annotated[Any, AfterValidator(_frozen)]
"""Of a block; what the catalogue says of it is checked with the whole spec."""


class Spec(BaseModel):
    """Base of the models without free parameters: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class BlockSpec(BaseModel):
    """A block by name; all other keys are its parameters (see `graphc schema`)."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Parameter] = Field(init=False)

    kind: Name = Field(description="name of the block; a bare name is short for {kind: name}")

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class NodeSpec(BaseModel):
    """What one node does differently from the rest of its stage.

    All other keys are parameters of its block. Without `kind`, or with the stage's own, they
    are laid over the parameters of the stage's block; another kind starts afresh.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Parameter] = Field(init=False)

    kind: Name | None = Field(default=None, description="name of the node's block")
    width: Size | None = Field(
        default=None, description="output channels; default: the stage's width"
    )
    stride: Size | None = Field(
        default=None, description="default: the stage's stride on sources, else 1"
    )
    aggregate: Aggregate | None = Field(default=None, description="default: the stage's")

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class EndNodeSpec(NodeSpec):
    """The input or the output node of a stage."""

    kind: Name = Field(default="identity", description="name of the node's block; identity: none")
    edge_weights: AnyEdgeWeights | None = Field(
        default=None,
        description="weights of the edges that leave the input node, or enter the output node; "
        "default: the stage's",
    )


class StemSpec(BlockSpec):
    """The layers before the first stage."""

    width: Size | None = Field(default=None, description="output channels; default: input channels")
    stride: Size | None = Field(
        default=None, description="total stride; default: 1, or the kind's own"
    )


class HeadSpec(BlockSpec):
    """The layers after the last stage: features to logits."""

    num_classes: Size = Field(description="outputs of the network")


class StageSpec(Spec):
    """A DAG of `depth` block nodes between an input and an output node.

    Where the input node is a block, it takes the stage's stride and channel change. Where it
    is `identity` (the default), the nodes fed by nothing but input nodes take them.
    """

    name: Name = Field(description="prefix of its nodes' names, e.g. layer1.n2; unique")
    depth: Count | None = Field(
        default=None,
        description="block nodes; input and output nodes come on top; explicit: counted",
    )
    width: Size = Field(description="output channels of every node")
    stride: Size = Field(
        default=1, description="of the input node if it is a block, else of the sources"
    )
    inputs: tuple[Name, ...] | None = Field(
        default=None,
        min_length=1,
        description="earlier stages (or stem) that feed this one; default: the one before. "
        "With several, `explicit` edges name the input nodes after them",
    )
    block: Annotated[BlockSpec, KIND_ALONE] | None = Field(
        default=None, description="what the block nodes compute"
    )
    input_node: Annotated[EndNodeSpec, KIND_ALONE] = Field(
        default=EndNodeSpec(), description="distributes what comes into the stage"
    )
    output_node: Annotated[EndNodeSpec, KIND_ALONE] = Field(
        default=EndNodeSpec(), description="gathers what goes out of the stage"
    )
    wiring: AnyWiring = Field(description="which nodes feed which")
    aggregate: Aggregate = Field(
        default="sum", description="how a node joins what it receives from several others"
    )
    edge_weights: AnyEdgeWeights = Field(default=Fixed(), description="what the edges weigh")
    nodes: dict[Name, Annotated[NodeSpec, KIND_ALONE]] = Field(
        default={},
        description="per-node exceptions by node name: n1 .. n<depth>, or explicit names",
    )


class Limits(Spec):
    """Protects from accidents: larger networks are refused before they are built."""

    nodes: Count = Field(default=10_000, description="nodes of all stages together")
    edges: Count = Field(default=200_000, description="edges of all stages together")


class NetworkSpec(Spec):
    """A stem, stages, and a head on the last stage."""

    version: Literal[1] = Field(description="of the language")
    name: Name = Field(description="of the network")
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(
        default=0,
        description="every stage draws from its own stream, seeded by this and the stage's name",
    )
    input_shape: tuple[Size, Size, Size] = Field(description="channels, height, width")
    stem: Annotated[StemSpec, KIND_ALONE] = Field(description="the layers before the first stage")
    stages: tuple[StageSpec, ...] = Field(min_length=1, description="run one after another")
    head: HeadSpec = Field(description="the layers after the last stage")
    limits: Limits = Field(default=Limits(), description="from where on a size is an accident")

    _provenance: Provenance = PrivateAttr(default_factory=Provenance)

    @property
    def provenance(self) -> Provenance:
        """Where the values stand in the files they came from; nowhere, for specs made in Python."""
        return self._provenance

    def with_provenance(self, provenance: Provenance) -> NetworkSpec:
        """An equal spec that knows where its values stand."""
        spec = self.model_copy()
        spec._provenance = provenance
        return spec
