from __future__ import annotations

import pickle

import pytest

from graphspec.errors import (
    Diagnostic,
    Provenance,
    Report,
    Span,
    SpecError,
    described,
    format_path,
    render,
    suggest,
)

LINE = "    wiring: {kind: er, p: 1.4}"
FINDING = Diagnostic(
    "error",
    "out-of-range",
    "stages[0].wiring.p",
    "must be <= 1, is 1.4",
    Span("net.yaml", 13, 27, 3, LINE),
    "`p`: probability that two block nodes are joined",
)


def test_render():
    assert render([FINDING]) == (
        "error[out-of-range]: stages[0].wiring.p: must be <= 1, is 1.4\n"
        "  --> net.yaml:13:27\n"
        "   |\n"
        "13 |     wiring: {kind: er, p: 1.4}\n"
        "   |                           ^^^\n"
        "   = help: `p`: probability that two block nodes are joined"
    )


def test_render_without_place():
    finding = Diagnostic("warning", "dead-node", "", "it is left out")
    assert render([finding]) == "warning[dead-node]: it is left out"


def test_render_separates_findings_by_a_blank_line():
    assert render([FINDING, FINDING]).count("\n\n") == 1


def test_color_only_adds_escapes():
    colored = render([FINDING], color=True)
    assert colored != render([FINDING])
    for style in ("\x1b[1;31m", "\x1b[1;34m", "\x1b[0m"):
        colored = colored.replace(style, "")
    assert colored == render([FINDING])


@pytest.mark.parametrize(
    ("text", "column", "width", "shown", "carets"),
    [
        ("\tkey: 3", 7, 1, "1 | \tkey: 3", "  | \t     ^"),
        ("名: 三", 4, 1, "1 | 名: 三", "  |     ^^"),
        ("e\u0301: 3", 5, 1, "1 | e\u0301: 3", "  |    ^"),
        ("a\x1b[31m: 3", 1, 1, "1 | a\ufffd[31m: 3", "  | ^"),
        ("short", 6, 1, "1 | short", "  |      ^"),
    ],
    ids=["tab", "wide", "combining", "control", "past the end"],
)
def test_carets_are_under_the_text(text: str, column: int, width: int, shown: str, carets: str):
    finding = Diagnostic("error", "x", "", "m", Span("f", 1, column, width, text))
    assert render([finding]).splitlines()[3:5] == [shown, carets]


def test_long_lines_are_cut_around_the_caret():
    finding = Diagnostic(
        "error", "x", "", "m", Span("f", 1, 5001, 3, "a" * 5000 + "bad" + "c" * 99)
    )
    line, carets = render([finding]).splitlines()[3:5]
    assert len(line) < 140
    assert line[carets.index("^") : carets.rindex("^") + 1] == "bad"


def test_files_below_the_current_folder_are_shown_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finding = Diagnostic("error", "x", "", "m", Span(str(tmp_path / "a" / "net.yaml"), 1, 1))
    assert "--> a/net.yaml:1:1" in render([finding]).replace("\\", "/")


def test_to_dict():
    assert FINDING.to_dict() == {
        "severity": "error",
        "slug": "out-of-range",
        "path": "stages[0].wiring.p",
        "message": "must be <= 1, is 1.4",
        "place": {"file": "net.yaml", "line": 13, "column": 27, "width": 3},
        "help": "`p`: probability that two block nodes are joined",
    }
    assert Diagnostic("error", "x", "", "m").to_dict()["place"] is None


def test_format_path():
    path = ("stages", 0, "nodes", "n1", "a b", 3, "x.y")
    assert format_path(path) == "stages[0].nodes.n1.'a b'[3].'x.y'"
    assert format_path(()) == ""


def test_suggest():
    assert suggest("completee", ["chain", "complete"]) == (
        "did you mean 'complete'? (one of: chain, complete)",
        "complete",
    )
    assert suggest("zzz", ["chain"]) == ("one of: chain", None)
    assert suggest("chian", ["chain"], otherwise=["chain", "er"])[0] == (
        "did you mean 'chain'? (one of: chain, er)"
    )
    assert suggest("a", []) == (None, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("six", "the string 'six'"),
        (None, "null"),
        (True, "true"),
        (3.0, "3.0"),
        ([1], "a list"),
        ({}, "a mapping"),
    ],
)
def test_described(value: object, text: str):
    assert described(value) == text


def test_described_is_short():
    assert len(described("x" * 10_000)) < 60
    assert len(described(10**900)) < 60


def test_report_locates_and_sorts():
    places = {
        (): Span("f", 1, 1),
        ("seed",): Span("f", 9, 7),
        ("name",): Span("f", 2, 7),
        ("over",): Span("--set #11", 1, 1),
        ("ride",): Span("--set #2", 1, 1),
    }
    report = Report(Provenance(places, {("seed",): Span("f", 9, 1)}))
    for name in ("seed", "over", "name", "ride"):
        report.error("x", (name,), name)
    report.warning("y", ("seed", "deeper", 3), "nearest value", key=True)
    report.error("z", ("seed",), "its key", key=True)

    assert [(d.message, str(d.span)) for d in report.diagnostics] == [
        ("ride", "--set #2:1:1"),
        ("over", "--set #11:1:1"),
        ("name", "f:2:7"),
        ("its key", "f:9:1"),
        ("seed", "f:9:7"),
        ("nearest value", "f:9:7"),
    ]
    assert [d.message for d in report.warnings] == ["nearest value"]


def test_report_counts_one_mistake_once():
    span = Span("f", 3, 3)
    report = Report(Provenance({("a", 0): span, ("a", 1): span, ("a", 2): Span("f", 4, 3)}))
    for index in range(3):
        report.error("x", ("a", index), "wrong")
    report.error("x", ("a", 0), "also wrong")
    assert [(d.path, d.message) for d in report.errors] == [
        ("a[0]", "wrong"),
        ("a[0]", "also wrong"),
        ("a[2]", "wrong"),
    ]


def test_report_without_places_tells_paths_apart():
    report = Report()
    report.error("x", ("a", 1), "wrong")
    report.error("x", ("a", 0), "wrong")
    assert [d.path for d in report.errors] == ["a[1]", "a[0]"]


def test_raise_errors():
    report = Report()
    report.warning("w", (), "only a warning")
    report.raise_errors()
    report.error("e", (), "an error")
    with pytest.raises(SpecError, match="an error") as caught:
        report.raise_errors()
    assert [d.slug for d in caught.value.diagnostics] == ["w", "e"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_any_provenance_equals_any_other():
    assert Provenance() == Provenance({(): Span("f", 1, 1)})
    assert len({Provenance(), Provenance({(): Span("f", 1, 1)})}) == 1
    assert Provenance() != 3
