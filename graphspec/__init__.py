"""The language: what a spec may say, and the graph it means. No torch."""

from __future__ import annotations

from graphspec.build import build as build
from graphspec.builder import NetworkBuilder as NetworkBuilder
from graphspec.builder import from_networkx as from_networkx
from graphspec.builder import kind as kind
from graphspec.builder import network as network
from graphspec.catalogue import CATALOGUE as CATALOGUE
from graphspec.errors import Diagnostic as Diagnostic
from graphspec.errors import Provenance as Provenance
from graphspec.errors import Report as Report
from graphspec.errors import Span as Span
from graphspec.errors import SpecError as SpecError
from graphspec.errors import SpecWarning as SpecWarning
from graphspec.errors import render as render
from graphspec.graph import BlockCall as BlockCall
from graphspec.graph import Edge as Edge
from graphspec.graph import NetworkGraph as NetworkGraph
from graphspec.graph import Node as Node
from graphspec.graph import RouterCall as RouterCall
from graphspec.graph import StageGraph as StageGraph
from graphspec.load import as_plain as as_plain
from graphspec.load import dump as dump
from graphspec.load import load as load
from graphspec.load import loads as loads
from graphspec.printer import format_graph as format_graph
from graphspec.printer import format_stage as format_stage
from graphspec.registry import Registry as Registry
from graphspec.resolve import content_hash as content_hash
from graphspec.resolve import resolve as resolve
from graphspec.schema import json_schema as json_schema
from graphspec.spec import BlockSpec as BlockSpec
from graphspec.spec import EndNodeSpec as EndNodeSpec
from graphspec.spec import HeadSpec as HeadSpec
from graphspec.spec import Limits as Limits
from graphspec.spec import NetworkSpec as NetworkSpec
from graphspec.spec import NodeSpec as NodeSpec
from graphspec.spec import StageSpec as StageSpec
from graphspec.spec import StemSpec as StemSpec
from graphspec.weights import Fixed as Fixed
from graphspec.weights import Learned as Learned
from graphspec.weights import Routed as Routed
from graphspec.wiring import WIRINGS as WIRINGS
from graphspec.wiring import Wiring as Wiring
