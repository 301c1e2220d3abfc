from __future__ import annotations

import base64
import hashlib
import html
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compiler.drawing import FORMATS, draw, render_svg
from compiler.drawing.dot import to_dot, to_mermaid
from compiler.drawing.layout import arrange
from compiler.drawing.network import draw_network
from compiler.drawing.page import to_page
from compiler.drawing.picture import Curve, Picture, Rectangle, Words, text_width
from graphspec.graph import BlockCall, Edge, NetworkGraph, Node, RouterCall, StageGraph
from graphspec.weights import Fixed, Learned, Routed
from graphspec.wiring import WIRINGS

WEIGHTS = {"fixed": Fixed(), "learned": Learned(), "routed": Routed()}
SAMPLES = {
    "chain": {},
    "residual": {},
    "complete": {},
    "er": {"p": 0.3},
    "ba": {"m": 2},
    "ws": {"k": 4, "p": 0.75},
}
LAYOUTS = {
    "chain": "chain",
    "residual": "arcs",
    "complete": "arcs",
    "er": "layers",
    "ba": "layers",
    "ws": "layers",
}


def make_stage(
    wiring: str,
    depth: int,
    seed: int = 0,
    *,
    name: str = "layer1",
    kinds: tuple[str, ...] = ("basic",),
    weights: tuple[str, ...] = ("fixed",),
    inputs: tuple[str, ...] = ("stem",),
) -> StageGraph:
    rng = random.Random(seed)
    wires = WIRINGS[wiring](**SAMPLES[wiring]).connect(depth, rng)
    edges = tuple(Edge(source, target, WEIGHTS[rng.choice(weights)]) for source, target in wires)
    nodes = [Node("input", "input", out_shape=(16, 8, 8))]
    for index in range(1, depth + 1):
        targets = tuple(e.target for e in edges if e.source == index and e.weights.kind == "routed")
        nodes.append(
            Node(
                f"n{index}",
                "block",
                BlockCall(rng.choice(kinds), (("groups", 1),)),
                width=rng.choice((16, 2048)) if len(kinds) > 1 else 16,
                stride=2 if index == 1 else 1,
                router=RouterCall("pooled_linear", targets) if targets else None,
                in_shape=(16, 8, 8),
                out_shape=(16, 8, 8),
            )
        )
    nodes.append(Node("output", "output", aggregate="mean", out_shape=(16, 8, 8)))
    return StageGraph(name, inputs, tuple(nodes), edges)


def make_network(*stages: StageGraph, name: str = "net") -> NetworkGraph:
    return NetworkGraph(
        name=name,
        input_shape=(3, 32, 32),
        stem=BlockCall("conv_bn_relu", (("kernel", 3),)),
        stem_width=16,
        stem_stride=2,
        stages=stages,
        head=BlockCall("pooled_linear"),
        num_classes=10,
        stem_shape=(16, 16, 16),
    )


KINDS = (("basic",), ("basic", "inverted_bottleneck", "separable_conv"))


def network_of(stages: list[dict]) -> NetworkGraph:
    named = [make_stage(**stage, name=f"layer{n}") for n, stage in enumerate(stages)]
    earlier = ["stem", *(stage.name for stage in named)]
    return make_network(
        *(replace(stage, inputs=(earlier[n * 7 % (n + 1)],)) for n, stage in enumerate(named))
    )


RANDOM = ("er", "ba", "ws")
STAGES = st.sampled_from(sorted(SAMPLES)).flatmap(
    lambda wiring: st.fixed_dictionaries(
        {
            "wiring": st.just(wiring),
            "depth": st.integers(6 if wiring in RANDOM else 1, 26),
            "seed": st.integers(0, 1000),
            "kinds": st.sampled_from(KINDS),
            "weights": st.sampled_from([("fixed",), ("learned",), tuple(WEIGHTS)]),
        }
    )
)
NETWORKS = st.lists(STAGES, min_size=1, max_size=3)
TINY = [{"wiring": "chain", "depth": 1}, {"wiring": "complete", "depth": 1}]
HUGE = [
    {"wiring": "complete", "depth": 24, "weights": ("routed",)},
    {"wiring": "ws", "depth": 32, "kinds": KINDS[1], "weights": ("learned",)},
    {"wiring": "ba", "depth": 32},
    {"wiring": "er", "depth": 32},
    {"wiring": "chain", "depth": 30, "kinds": KINDS[1]},
]


LARGE = make_network(
    make_stage("complete", 24, weights=("routed",)),
    make_stage("ws", 32, name="ws", kinds=KINDS[1], weights=("learned",), inputs=("layer1",)),
    make_stage("er", 32, name="er", inputs=("stem",)),
    make_stage("chain", 30, name="chain", kinds=KINDS[1], inputs=("er",)),
)


def boxes(picture: Picture) -> dict[str, Rectangle]:
    found = [
        (dict(item.data)["node"], item)
        for item in picture.items
        if isinstance(item, Rectangle) and "node" in dict(item.data)
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def curves(picture: Picture) -> dict[tuple[str, str], Curve]:
    """The drawn edges inside of stages."""
    found = [
        ((dict(item.data)["source"], dict(item.data)["target"]), item)
        for item in picture.items
        if isinstance(item, Curve) and "." in dict(item.data).get("source", "")
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def full_names(graph: NetworkGraph) -> set[str]:
    return {f"{stage.name}.{node.name}" for stage in graph.stages for node in stage.nodes}


def edge_names(graph: NetworkGraph) -> set[tuple[str, str]]:
    return {
        (
            f"{stage.name}.{stage.nodes[edge.source].name}",
            f"{stage.name}.{stage.nodes[edge.target].name}",
        )
        for stage in graph.stages
        for edge in stage.edges
    }


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    left, top, right, bottom = one
    return left < other[2] and other[0] < right and top < other[3] and other[1] < bottom


def extent(item: Rectangle | Words) -> tuple[float, float, float, float]:
    if isinstance(item, Rectangle):
        return item.x, item.y, item.x + item.width, item.y + item.height
    return item.left, item.y - 0.76 * item.size, item.right, item.y + 0.24 * item.size


def along(curve: Curve, steps: int = 24) -> list[tuple[float, float]]:
    places: list[tuple[float, float]] = []
    for first in range(0, len(curve.points) - 1, 3):
        a, b, c, d = curve.points[first : first + 4]
        for step in range(steps + 1):
            t = step / steps
            u = 1 - t
            places.append(
                tuple(
                    u**3 * a[k] + 3 * u * u * t * b[k] + 3 * u * t * t * c[k] + t**3 * d[k]
                    for k in (0, 1)
                )
            )
    return places


@settings(max_examples=12)
@given(NETWORKS)
@example(TINY)
@example(HUGE)
def test_every_node_and_edge_is_drawn_once(stages: list[dict]):
    graph = network_of(stages)
    picture = draw_network(graph)
    assert set(boxes(picture)) == full_names(graph) | {"stem", "head"}
    assert set(curves(picture)) == edge_names(graph)


@settings(max_examples=12)
@given(NETWORKS)
@example(TINY)
@example(HUGE)
def test_nothing_overlaps_or_sticks_out(stages: list[dict]):
    graph = network_of(stages)
    picture = draw_network(graph)
    extents = [extent(box) for box in boxes(picture).values()]
    assert not [pair for pair in combinations(extents, 2) if overlap(*pair)]
    words = [item for item in picture.items if isinstance(item, Words)]
    clashes = [
        (one.text, other.text)
        for one, other in combinations(words, 2)
        if overlap(extent(one), extent(other))
    ]
    assert not clashes
    for item in picture.items:
        if isinstance(item, Words | Rectangle):
            left, top, right, bottom = extent(item)
        else:
            places = along(item) if isinstance(item, Curve) else item.points
            left, right = min(x for x, _ in places), max(x for x, _ in places)
            top, bottom = min(y for _, y in places), max(y for _, y in places)
        assert left >= 0, item
        assert top >= 0, item
        assert right <= picture.width, item
        assert bottom <= picture.height, item


@settings(max_examples=12)
@given(NETWORKS)
@example(TINY)
@example(HUGE)
def test_edges_run_from_box_to_box_and_through_no_other(stages: list[dict]):
    graph = network_of(stages)
    picture = draw_network(graph)
    places = {name: extent(box) for name, box in boxes(picture).items()}
    for (source, target), curve in curves(picture).items():
        for (x, y), name in ((curve.points[0], source), (curve.points[-1], target)):
            left, top, right, bottom = places[name]
            assert left - 0.1 <= x <= right + 0.1
            assert top - 0.1 <= y <= bottom + 0.1
        for x, y in along(curve):
            inside = {
                name
                for name, (left, top, right, bottom) in places.items()
                if left + 0.5 < x < right - 0.5 and top + 0.5 < y < bottom - 0.5
            }
            assert not inside, (source, target)


@pytest.mark.parametrize("wiring", SAMPLES)
def test_the_layout_follows_the_wiring(wiring: str):
    stage = make_stage(wiring, 20)
    assert arrange(stage, [(40.0, 20.0)] * 22).kind == LAYOUTS[wiring]


@pytest.mark.parametrize("wiring", ["chain", "complete"])
def test_a_stage_of_one_node(wiring: str):
    picture = draw_network(make_network(make_stage(wiring, 1)))
    assert {"layer1.input", "layer1.n1", "layer1.output"} <= set(boxes(picture))


def test_layers_run_from_left_to_right():
    picture = draw_network(make_network(make_stage("ws", 32)))
    for curve in curves(picture).values():
        steps = [round(x, 6) for x, _ in along(curve)]
        assert steps == sorted(steps)


def test_weights_differ_by_dashes_and_the_legend_names_them():
    graph = make_network(make_stage("complete", 6, weights=tuple(WEIGHTS)))
    picture = draw_network(graph)
    styles = {
        edge.weights.kind: curves(picture)[names].line.dashes
        for stage in graph.stages
        for edge in stage.edges
        for names in [tuple(f"layer1.{stage.nodes[i].name}" for i in (edge.source, edge.target))]
    }
    assert len(set(styles.values())) == 3
    said = " ".join(item.text for item in picture.items if isinstance(item, Words))
    for word in ("fixed edge", "learned edge", "routed edge", "node with a router", "no block"):
        assert word in said


def test_the_matrix_has_a_cell_for_every_edge():
    graph = make_network(make_stage("complete", 8))
    cells = Counter(
        (dict(item.data)["source"], dict(item.data)["target"])
        for item in draw_network(graph).items
        if isinstance(item, Rectangle) and "source" in dict(item.data)
    )
    assert set(cells) == edge_names(graph)
    assert set(cells.values()) == {1}


def test_skips_between_stages_are_drawn():
    graph = make_network(
        make_stage("chain", 2, name="a"),
        make_stage("chain", 2, name="b", inputs=("a",)),
        make_stage("chain", 2, name="c", inputs=("stem",)),
    )
    skips = [
        dict(item.data)
        for item in draw_network(graph).items
        if isinstance(item, Curve) and dict(item.data).get("source") == "stem"
    ]
    assert skips == [{"source": "stem", "target": "c"}]


def test_shapes_stand_at_the_boundaries():
    said = [
        i.text
        for i in draw_network(make_network(make_stage("chain", 2))).items
        if isinstance(i, Words)
    ]
    for shape in ("3 × 32 × 32", "16 × 16 × 16", "16 × 8 × 8"):
        assert shape in said


def test_one_stage_alone():
    picture = draw_network(LARGE, "ws")
    assert {name.partition(".")[0] for name in boxes(picture)} == {"ws"}
    with pytest.raises(KeyError):
        draw_network(LARGE, "nowhere")


def test_svg_is_xml_and_holds_the_names():
    root = ET.fromstring(render_svg(LARGE))
    nodes = {element.get("data-node") for element in root.iter()} - {None}
    assert nodes == full_names(LARGE) | {"stem", "head"}
    assert not re.search(r"(href|url\(|<style|<script)", render_svg(LARGE))


def test_equal_graphs_have_equal_pictures():
    again = make_network(
        make_stage("complete", 24, weights=("routed",)),
        make_stage("ws", 32, name="ws", kinds=KINDS[1], weights=("learned",), inputs=("layer1",)),
        make_stage("er", 32, name="er", inputs=("stem",)),
        make_stage("chain", 30, name="chain", kinds=KINDS[1], inputs=("er",)),
    )
    assert render_svg(again) == render_svg(LARGE)


HOSTILE = "</title></svg><script>alert(1)</script>&\"'"


def test_names_are_escaped():
    graph = make_network(make_stage("chain", 1, name=HOSTILE), name=HOSTILE)
    svg = render_svg(graph)
    assert HOSTILE in (ET.fromstring(svg)[0].text or "")
    page = to_page(HOSTILE, svg)
    assert page.count("<script") == 1
    assert "alert(1)</script" not in page


def test_the_page_allows_its_own_style_and_script_and_nothing_else():
    page = to_page("net", render_svg(LARGE))
    policy = html.unescape(re.search(r'Policy" content="([^"]*)"', page)[1])
    assert policy.startswith("default-src 'none';")
    for tag in ("style", "script"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert " style=" not in page
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org/2000/svg)", page)


@pytest.mark.parametrize("suffix", FORMATS)
def test_draw_writes_the_format_of_the_suffix(tmp_path, suffix: str):
    path = tmp_path / "new" / f"net{suffix}"
    draw(make_network(make_stage("complete", 3)), path)
    start = {".svg": b"<svg", ".png": b"\x89PNG\r\n\x1a\n", ".html": b"<!doctype html>"}[suffix]
    assert path.read_bytes().startswith(start)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_png_shows_its_words(tmp_path):
    """Without a font the text would be left out silently."""
    from PIL import Image

    graph = make_network(make_stage("chain", 2))
    draw(graph, tmp_path / "net.png")
    image = Image.open(tmp_path / "net.png").convert("L")
    picture = draw_network(graph)
    assert abs(image.width - 2 * picture.width) <= 2
    for words in (item for item in picture.items if isinstance(item, Words)):
        left, top, right, bottom = (round(2 * place) for place in extent(words))
        shades = set(image.crop((left, top, right, bottom)).tobytes())
        assert max(shades) - min(shades) > 100, words


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.gif"):
        draw(LARGE, tmp_path / "net.gif")
    assert not list(tmp_path.iterdir())


def test_widths_are_those_of_the_font():
    font2 = pytest.importorskip("matplotlib.ft2font", reason="compares with matplotlib's font")
    from compiler.drawing.png import _fonts

    letters = "".join(map(chr, range(32, 127))) + "×→·τ…"
    for path, bold in zip(_fonts(), (False, True), strict=True):
        font = font2.FT2Font(str(path))
        font.set_size(100, 72)
        for letter in letters:
            advance = font.load_char(ord(letter)).linearHoriAdvance / 65536
            assert text_width(letter, 100, bold) >= advance - 0.6 * (1 + 9 * bold)
        name = "layer3.n22"
        total = sum(font.load_char(ord(c)).linearHoriAdvance / 65536 for c in name)
        assert text_width(name, 100, bold) == pytest.approx(total, rel=0.05)


def test_dot_and_mermaid_name_every_node_and_edge():
    dot, mermaid = to_dot(LARGE), to_mermaid(LARGE)
    for source, target in edge_names(LARGE):
        assert f'"{source}" -> "{target}"' in dot
        assert re.search(rf"_{source} \S+ _{target}$", mermaid, re.MULTILINE)
    assert dot.count("{") == dot.count("}")
    assert mermaid.count("subgraph ") == len(LARGE.stages)
    assert '"er.output" -> "chain.input"' in dot
