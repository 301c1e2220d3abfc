from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise
from statistics import mean

import networkx as nx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graphspec.wiring import WIRINGS, Edges, Wiring
from graphspec.wiring._base import NotConnectedError, is_connected
from graphspec.wiring.ba import BarabasiAlbert
from graphspec.wiring.er import ErdosRenyi
from graphspec.wiring.explicit import Explicit, find_cycle
from graphspec.wiring.ws import WattsStrogatz

SAMPLES = {"er": {"p": 0.2}, "ba": {"m": 5}, "ws": {"k": 4, "p": 0.75}}  # DG-Net, table 4
GENERATED = [kind for kind in WIRINGS if kind != "explicit"]


def sample(kind: str) -> Wiring:
    return WIRINGS[kind].model_validate({"kind": kind, **SAMPLES.get(kind, {})})


def block_edges(edges: Edges, depth: int) -> Edges:
    return [(u, v) for u, v in edges if u != 0 and v != depth + 1]


def test_every_rule_is_sampled_here():
    assert {kind for kind in GENERATED if WIRINGS[kind].is_random} == set(SAMPLES)


@pytest.mark.parametrize("kind", GENERATED)
@given(depth=st.integers(6, 40), seed=st.integers())
def test_a_wiring_is_a_dag_from_one_input_to_one_output(kind: str, depth: int, seed: int):
    wiring = sample(kind)
    assume(not any(wiring.problems(depth)))
    # ER(0.2) on six nodes may well be drawn a thousand times in vain.
    wiring = ErdosRenyi(p=0.5) if kind == "er" else wiring

    edges = wiring.connect(depth, random.Random(seed))

    assert edges == sorted(set(edges), key=lambda edge: edge[::-1])
    assert all(0 <= source < target <= depth + 1 for source, target in edges)
    targets, sources = {target for _, target in edges}, {source for source, _ in edges}
    assert targets == set(range(1, depth + 2))
    assert sources == set(range(depth + 1))
    assert len(edges) <= wiring.max_edges(depth)
    assert wiring.connect(depth, random.Random(seed)) == edges


@pytest.mark.parametrize(
    ("kind", "edges"),
    [
        ("chain", [(0, 1), (1, 2), (2, 3)]),
        ("residual", [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]),
        ("complete", [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]),
    ],
)
def test_static_wirings(kind: str, edges: Edges, rng: random.Random):
    assert sample(kind).connect(2, rng) == edges


@pytest.mark.parametrize("kind", ["er", "ba", "ws"])
def test_equal_seeds_give_equal_edges_in_another_process(kind: str):
    ours = sample(kind).connect(32, random.Random("7/layer2"))
    program = (
        "import random; from graphspec.wiring import WIRINGS; "
        f"wiring = WIRINGS[{kind!r}](**{SAMPLES[kind]!r}); "
        "print(wiring.connect(32, random.Random('7/layer2')))"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert theirs.stdout.strip() == str(ours)


@pytest.mark.parametrize(("depth", "m"), [(32, 5), (16, 5), (8, 1), (6, 5)])
def test_ba_has_m_sources_and_m_edges_from_each_later_node(depth: int, m: int):
    for seed in range(20):
        edges = BarabasiAlbert(m=m).connect(depth, random.Random(seed))
        inner = block_edges(edges, depth)
        assert len(inner) == m * (depth - m)
        assert sum(source == 0 for source, _ in edges) == m
        for node in range(m + 1, depth + 1):
            assert sum(target == node for _, target in inner) == m


def test_ba_prefers_nodes_of_high_degree():
    # Node 1 (of the start) and node 31 are both there for the last node; the older has more.
    old, young = 0, 0
    for seed in range(200):
        inner = block_edges(BarabasiAlbert(m=2).connect(32, random.Random(seed)), 32)
        chosen = [source for source, target in inner if target == 32]
        old += sum(source <= 8 for source in chosen)
        young += sum(source >= 24 for source in chosen)
    assert old > 2 * young


def test_ws_is_networkx_ring_rewired_with_the_same_draws():
    for seed in range(20):
        theirs = nx.watts_strogatz_graph(32, 4, 0.75, seed=random.Random(seed))
        edges = WattsStrogatz(k=4, p=0.75).connect(32, random.Random(seed))
        ours = {(u - 1, v - 1) for u, v in block_edges(edges, 32)}
        if nx.is_connected(theirs):  # others are redrawn
            assert ours == {(min(edge), max(edge)) for edge in theirs.edges}


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_ws_keeps_the_number_of_edges(p: float, rng: random.Random):
    edges = WattsStrogatz(k=4, p=p).connect(20, rng)
    assert len(block_edges(edges, 20)) == 40


def test_ws_without_rewiring_is_the_ring(rng: random.Random):
    edges = WattsStrogatz(k=2, p=0).connect(5, rng)
    assert block_edges(edges, 5) == [(1, 2), (2, 3), (3, 4), (1, 5), (4, 5)]


def test_ws_can_be_complete(rng: random.Random):
    edges = WattsStrogatz(k=4, p=1).connect(5, rng)
    assert len(block_edges(edges, 5)) == 10


def test_er_joins_pairs_with_probability_p():
    counts = [
        len(block_edges(ErdosRenyi(p=0.2).connect(32, random.Random(seed)), 32))
        for seed in range(200)
    ]
    expected = 0.2 * 32 * 31 / 2
    # Standard error 0.63; draws with an isolated node (3.25 %) are not among these.
    assert abs(mean(counts) - expected) < 3


def test_er_is_connected_and_isolated_nodes_are_redrawn():
    first_draws_isolated = 0
    for seed in range(200):
        rng = random.Random(seed)
        pairs = [(u, v) for u in range(32) for v in range(u + 1, 32) if rng.random() < 0.2]
        first_draws_isolated += len({node for pair in pairs for node in pair}) < 32
        edges = ErdosRenyi(p=0.2).connect(32, random.Random(seed))
        assert is_connected(32, [(u - 1, v - 1) for u, v in block_edges(edges, 32)])
    assert 0 < first_draws_isolated < 20  # 3.25 % of 200


def test_er_gives_up_on_hopeless_probabilities(rng: random.Random):
    with pytest.raises(NotConnectedError, match="none of 1,000 draws gave a connected graph of 30"):
        ErdosRenyi(p=0.01).connect(30, rng)


@pytest.mark.parametrize("depth", [1, 2])
def test_er_of_one_or_two_nodes(depth: int, rng: random.Random):
    edges = ErdosRenyi(p=0.3).connect(depth, rng)
    assert edges == [(node, node + 1) for node in range(depth + 1)]


@pytest.mark.parametrize(
    ("wiring", "depth", "parameter"),
    [
        (BarabasiAlbert(m=5), 5, "m"),
        (WattsStrogatz(k=4, p=0.5), 4, "k"),
    ],
)
def test_parameters_that_do_not_fit_depth(wiring: Wiring, depth: int, parameter: str):
    (problem,) = wiring.problems(depth)
    assert problem[0] == parameter
    assert not any(wiring.problems(depth + 1))


def explicit(*edges: str) -> Explicit:
    return Explicit.model_validate({"edges": [edge.split(">") for edge in edges]})


def test_explicit_order_is_topological_then_by_first_appearance():
    wiring = explicit("b>c", "input>b", "input>a", "c>output", "a>output")
    assert wiring.block_nodes(["input"]) == ["b", "c", "a"]
    assert wiring.order(["input"]) == ["input", "b", "c", "a", "output"]
    assert explicit("c>output", "b>c", "input>b").order(["input"]) == ["input", "b", "c", "output"]


def test_explicit_dead_ends_come_before_the_output():
    wiring = explicit("input>a", "a>output", "input>dead")
    assert wiring.order(["input"]) == ["input", "a", "dead", "output"]


def test_explicit_cycle_is_named():
    assert find_cycle(explicit("input>a", "a>b", "b>output").edges) is None
    cycle = find_cycle(explicit("input>a", "a>b", "b>c", "c>a", "c>output").edges)
    assert cycle is not None
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {"a", "b", "c"}
    steps = set(pairwise(cycle))
    assert steps == {("a", "b"), ("b", "c"), ("c", "a")}


def test_explicit_edges_are_written_as_short_as_possible():
    wiring = Explicit.model_validate(
        {"edges": [["a", "b"], {"source": "b", "target": "c", "edge_weights": "learned"}]}
    )
    short, long = wiring.model_dump()["edges"]
    assert short == ["a", "b"]
    assert long["edge_weights"]["kind"] == "learned"
