from __future__ import annotations

import math
import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graphspec.errors import Report, Span
from graphspec.source import MAX_DEPTH, decode, plain, provenance, read, resolve_scalar, walk


def parse(text: str):
    report = Report()
    tree = read(text, "f", report)
    assert not report.diagnostics, report.diagnostics
    assert tree is not None
    return tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("+1", 1),
        ("-12", -12),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("3e2", 300.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        (".INF", math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        # strings in YAML 1.2, something else in 1.1
        ("on", "on"),
        ("No", "No"),
        ("y", "y"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2020-01-01", "2020-01-01"),
        ("=", "="),
        # near misses
        ("1e", "1e"),
        ("e5", "e5"),
        (".", "."),
        ("0x", "0x"),
        ("tRUE", "tRUE"),
        ("\uff11", "\uff11"),
    ],
)
def test_scalars_of_yaml_1_2(text: str, value: object):
    resolved = resolve_scalar(text)
    assert (resolved, type(resolved)) == (value, type(value))
    if text.isascii():
        assert plain(parse(f"a: {text}")) == {"a": value}
    assert plain(parse(f"a: '{text}'")) == {"a": text}


def test_nan():
    value = resolve_scalar(".NaN")
    assert isinstance(value, float)
    assert math.isnan(value)


def test_numbers_of_absurd_length_stay_text():
    assert resolve_scalar("9" * 5000) == "9" * 5000


def test_explicit_tags():
    tree = parse("{a: !!str 5, b: !!float 5, c: ! 5, d: !!map {e: !!seq []}, f: !!null null}")
    assert plain(tree) == {"a": "5", "b": 5.0, "c": "5", "d": {"e": []}, "f": None}


def test_anchors_and_merges():
    text = """
a: &a {x: 1, y: 2}
b: &b {y: 3, z: 4}
c: {<<: *a, x: 5}
d: {<<: [*a, *b], w: *b}
e: {"<<": 3}
f: &f
g: *f
"""
    assert plain(parse(text)) == {
        "a": {"x": 1, "y": 2},
        "b": {"y": 3, "z": 4},
        "c": {"x": 5, "y": 2},
        "d": {"w": {"y": 3, "z": 4}, "x": 1, "y": 2, "z": 4},
        "e": {"<<": 3},
        "f": None,
        "g": None,
    }


PLACES = """\
name: net   # comment
stages:
  - name: s1
    block:
      kind: basic
    shape: [3, 32,
            32]
  - {name: s2, "de pth": 3}
text: |
  several
  lines
empty:
ref: &r {k: v}
use: *r
"""


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("name",), "1:7:3", "1:1:4"),
        (("stages",), "2:1:6", "2:1:6"),
        (("stages", 0), "3:5:4", None),
        (("stages", 0, "name"), "3:11:2", "3:5:4"),
        (("stages", 0, "block"), "4:5:5", "4:5:5"),
        (("stages", 0, "block", "kind"), "5:13:5", "5:7:4"),
        (("stages", 0, "shape"), "6:12:1", "6:5:5"),
        (("stages", 0, "shape", 2), "7:13:2", None),
        (("stages", 1), "8:5:23", None),
        (("stages", 1, "de pth"), "8:26:1", "8:16:8"),
        (("text",), "9:7:1", "9:1:4"),
        (("empty",), "12:1:5", "12:1:5"),
        (("use",), "13:6:9", "14:1:3"),
        (("use", "k"), "13:13:1", "13:10:1"),
    ],
)
def test_places(path: tuple[str | int, ...], value: str, key: str | None):
    def text(span: Span | None) -> str | None:
        return span and f"{span.line}:{span.column}:{span.width}"

    found = provenance(parse(PLACES))
    assert text(found.values[path]) == value
    assert text(found.keys.get(path)) == key
    assert found.values[path].text == PLACES.split("\n")[found.values[path].line - 1]


def test_places_count_characters_and_all_line_breaks():
    tree = parse("é: 名前\r\nb: {c: 4}\r\n")
    places = provenance(tree).values
    assert str(places["é",]) == "f:1:4"
    assert str(places["b", "c"]) == "f:2:8"
    assert places["b",].text == "b: {c: 4}"


def test_byte_order_mark():
    report = Report()
    text = decode(b"\xef\xbb\xbfa: 1", "f", report)
    assert text == "a: 1"
    assert plain(parse("\ufeffa: 1")) == {"a": 1}


def test_one_reading_finds_all_duplicates_and_tags():
    report = Report()
    tree = read("a: 1\na: 2\nb: {c: 1, c: 2}\nd: !x 3\n4: 5\n", "f", report)
    assert tree is not None
    assert plain(tree) == {"a": 1, "b": {"c": 1}, "d": "3"}
    assert [d.slug for d in report.errors] == [
        "duplicate-key",
        "duplicate-key",
        "yaml-tag",
        "key-type",
    ]


def test_depth_up_to_the_cap():
    tree = parse("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert max(len(path) for path, _ in walk(tree)) == MAX_DEPTH - 1


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_deep_nesting_is_refused_fast(text: str):
    report = Report()
    assert read(text, "f", report) is None
    assert {d.slug for d in report.errors} <= {"too-deep", "yaml-syntax"}


def test_alias_bomb_is_refused():
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    report = Report()
    assert read("\n".join(["a0: &a0 [x]", *levels]), "f", report) is None
    assert [d.slug for d in report.errors] == ["too-large"]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.text(string.printable, max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé_ :#", min_size=1), inner)
    ),
    max_leaves=20,
)


@given(values, st.booleans())
def test_reads_what_a_yaml_writer_writes(value: object, flow: bool):
    class QuotesText(yaml.SafeDumper):
        pass

    QuotesText.add_representer(
        str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, '"')
    )
    text = yaml.dump({"v": value}, Dumper=QuotesText, default_flow_style=flow, allow_unicode=True)
    assert plain(parse(text)) == {"v": value}


@given(
    st.text(
        st.characters(codec="utf-8") | st.sampled_from("{}[]:,-&*!|>'\"%@`#? \n\t"), max_size=60
    )
)
def test_any_text_is_read_or_refused(text: str):
    report = Report()
    tree = read(text, "f", report)
    assert tree is not None or report.errors


@given(st.binary(max_size=40))
def test_any_bytes_are_text_or_refused(data: bytes):
    report = Report()
    text = decode(data, "f", report)
    if text is None:
        assert [d.slug for d in report.errors] == ["encoding"]
    else:
        assert text.encode() == data.removeprefix(b"\xef\xbb\xbf")
