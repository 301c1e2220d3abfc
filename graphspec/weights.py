"""What an edge's weight may be: fixed, learned once for all samples, or routed per sample."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from graphspec.names import KIND_ALONE


class EdgeWeights(BaseModel):
    """Base of the three kinds; its fields are the kind's YAML parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str


class Fixed(EdgeWeights):
    """Every edge weighs `value` (eq. 1 of DG-Net has 1)."""

    kind: Literal["fixed"] = "fixed"
    value: float = Field(default=1.0, allow_inf_nan=False, description="the weight of every edge")


class Learned(EdgeWeights):
    """One learned weight an edge, equal for all samples.

    Source: "alpha" of DG-Net, table 6; RandWire section 3.2 has `function: sigmoid`.
    """

    kind: Literal["learned"] = "learned"
    function: Literal["sigmoid", "free"] = Field(
        default="sigmoid", description="the edge weighs sigmoid(parameter), or the bare parameter"
    )
    init: float = Field(
        default=0.0, allow_inf_nan=False, description="initial value of the parameter of every edge"
    )


class Routed(EdgeWeights):
    """A router on each node predicts the weights of its output edges per sample.

    Source: DG-Net, eqs. 3-5 and 10, section 3.4, appendix 6.4.
    """

    kind: Literal["routed"] = "routed"
    router: str = Field(default="pooled_linear", description="kind of the router (runtime/routers)")
    bias_init: float = Field(
        default=3.0, allow_inf_nan=False, description="router bias; positive: edges start open"
    )
    threshold: float | None = Field(
        default=0.0,
        allow_inf_nan=False,
        description="initial tau of every receiving node; null: no gating, weights are eq. 4's",
    )
    learnable_threshold: bool = Field(default=True, description="train tau (eq. 10), or keep it")
    inference: Literal["consistent", "literal"] = Field(
        default="consistent",
        description="weight of an open edge at inference: consistent = a * sigmoid(a - tau), "
        "as in training; literal = a, which needs batch-norm re-estimation",
    )


AnyEdgeWeights = Annotated[
    Annotated[Fixed | Learned | Routed, Field(discriminator="kind")], KIND_ALONE
]
