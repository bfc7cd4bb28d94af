"""The benchmarks' own code, where it can be wrong: merging, ratios, targets, growth, the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import allm
from benchmarks import figures, measure, report, targets, wire, workloads
from benchmarks.plan import CALL, CHUNK, CLIENTS, DIALECTS, Row, rows

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results" / "results.json"


def results(**of_rows: dict[str, Any]) -> figures.Results:
    """Results with these rows: cell -> numbers; `_` in a row's name is a space."""
    named = {row.replace("_", " "): cells for row, cells in of_rows.items()}
    return {"results": named, "plans": {}, "counts": {}, "neutral": ["ours", "pydantic_ai"]}


def chunks(**costs: float) -> dict[str, Any]:
    """Cells of a stream row: `client__dialect=cost`."""
    return {cell.replace("__", "/"): {CHUNK: cost} for cell, cost in costs.items()}


STREAMS = results(
    stream_sync=chunks(
        floor__chat=2.0,
        floor_httpx2__chat=10.0,
        ours__chat=12.0,
        openai_sdk__chat=100.0,
        pydantic_ai__chat=180.0,
        floor__anth=1.0,
        ours__anth=8.0,
        anthropic_sdk__anth=6.0,
    ),
    stream_async=chunks(floor__chat=2.0, floor_httpx2__chat=10.0, ours__chat=14.0, pydantic_ai__chat=140.0),
)


class TestFigures:
    @pytest.mark.parametrize(
        ("value", "text"),
        [(0.061, "0.06"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346"), (None, "")],
    )
    def test_a_number_has_three_digits_that_matter(self, value: float | None, text: str) -> None:
        assert figures.number(value) == text

    def test_a_ratio_needs_both_numbers(self) -> None:
        assert figures.ratio(3.0, 2.0) == 1.5
        assert figures.ratio(None, 2.0) is figures.ratio(3.0, None) is figures.ratio(3.0, 0.0) is None

    def test_a_cell_without_a_number_has_none(self) -> None:
        found = results(row={"a/chat": None, "b/chat": {"error": ">75 s"}, "c/chat": {"error": "E"}})
        cells = [figures.value(found, "row", f"{name}/chat", CHUNK) for name in "abcd"]
        assert cells == [None] * 4
        shown = [report.shown(found, "row", f"{name}/chat", CHUNK) for name in "abcd"]
        assert shown == ["", ">75 s", "failed", ""]

    def test_a_peer_is_asked_in_the_same_dialect_where_the_row_is_about_dialects(self) -> None:
        found = results(stream_sync=chunks(a__anth=5.0), calls_1={"a/anth": {CHUNK: 7.0}})
        assert figures.beside(found, "stream sync", "a", "chat", CHUNK) is None
        assert figures.beside(found, "calls 1", "a", "chat", CHUNK) == 7.0


class TestGrowth:
    @pytest.mark.parametrize(
        ("cost", "factor"),
        [
            (lambda n: 3 * n, 1.0),
            (lambda n: 500 + 3 * n, 1.0),  # what comes once is not growth
            (lambda n: 500 + 0.001 * n * n, 11.0),
        ],
    )
    def test_a_unit_at_the_large_end_beside_one_before(self, cost: Any, factor: float) -> None:
        points = [(n, float(cost(n))) for n in (0, 10_000, 100_000)]
        assert figures.growth(points) == pytest.approx(factor)

    def test_it_needs_three_sizes_and_numbers_that_rise(self) -> None:
        assert figures.growth([(1, 1.0), (2, 2.0)]) is None
        assert figures.growth([(1, 9.0), (2, 8.0), (3, 90.0)]) is None

    def test_the_totals_come_from_the_costs_of_each_size(self) -> None:
        found = results(
            **{
                "characters 1000 sync": chunks(ours__chat=2.0),
                "characters 10000 sync": chunks(ours__chat=2.0),
                "characters 100000 sync": chunks(ours__chat=4.0),
            }
        )
        points = figures.series(found)["one-character events, blocking"]["ours/chat"]
        assert points == [(1000, 2000.0), (10_000, 20_000.0), (100_000, 400_000.0)]
        assert "**grows**" in report.growing(found)

    def test_a_history_has_the_sizes_of_its_plan(self) -> None:
        found = results(turns={"ours/chat": {f"cpu_us_at_{n}": 10.0 + n for n in (20, 200, 1000)}})
        found["plans"]["turns"] = ["chat", {"sizes": [20, 200, 1000]}, {}]
        assert figures.growth(figures.series(found)["messages of a thread"]["ours/chat"]) == pytest.approx(1)
        assert "| flat |" in report.growing(found)


class TestTargets:
    def line(self, limit: float, *found: targets.Found | None, at_least: bool = False) -> targets.Line:
        target = targets.Target("it", lambda *_: found, limit, at_least=at_least)
        return targets.judged(target, "ours", STREAMS)

    def test_the_worst_of_what_was_found_counts(self) -> None:
        line = self.line(2.0, (1.0, "here"), None, (1.5, "there"))
        assert line == ("it", "default", "at most 2.00×", "1.50× (there)", "yes")
        line = self.line(8.0, (10.0, "here"), (16.0, "there"), at_least=True)
        assert line == ("it", "default", "at least 8.00×", "10.0× (here)", "yes")

    @pytest.mark.parametrize(
        ("limit", "found", "at_least", "met"),
        [
            (2.0, 2.0, False, "yes"),
            (2.0, 3.0, False, "**no**, by a factor of 1.50"),
            (8.0, 4.0, True, "**no**, by a factor of 2.00"),
            (8.0, 8.0, True, "yes"),
        ],
    )
    def test_a_miss_says_by_how_much(self, limit: float, found: float, at_least: bool, met: str) -> None:
        assert self.line(limit, (found, ""), at_least=at_least).met == met

    def test_what_was_not_measured_is_not_met(self) -> None:
        assert self.line(2.0, None).met == "not measured"

    def test_every_target_is_judged_for_those_that_it_is_about(self) -> None:
        lines = list(targets.judged_targets(STREAMS))
        assert len(lines) == sum(len(target.who) for target in targets.TARGETS)

    def test_targets_read_the_rows_that_the_plan_has(self) -> None:
        by_name = {(line.what, line.who): line for line in targets.judged_targets(STREAMS)}
        over = by_name["one stream, per chunk, of the floor on httpx2", "default"]
        assert over.measured == "1.40× (Chat, awaited)"
        best = by_name["best library that normalises, Chat, of ours", "default"]
        assert best.measured == "10.0× (pydantic_ai, awaited)"
        names = {row.name for row in rows()} | {"import", "closing"}
        assert {row for _, row, _ in report.MAIN} <= names
        assert {*targets.MODES, *targets.CROWDS} <= names


class TestTables:
    def test_ours_is_shown_beside_the_references_and_the_peers(self) -> None:
        lines = report.ratios(STREAMS, "ours").splitlines()
        assert lines[0].startswith("|  | **allm** | of *floor* | of *floor over httpx2* | openai SDK costs")
        assert lines[2].startswith("| stream, blocking, Chat | 12.0 | 6.00× | 1.20× | 8.33× | 15.0× |")

    def test_where_others_need_less_is_said(self) -> None:
        assert report.not_leading(STREAMS).splitlines()[2:] == [
            "| stream, blocking, Anthropic | **allm** | 8.00 | anthropic SDK | 6.00 |"
        ]
        assert "no scenario" in report.not_leading(results())

    def test_the_best_comes_first(self) -> None:
        found = results(calls_1={"a/chat": {CALL: 9.0}, "b/anth": {CALL: 3.0}, "c/chat": None})
        assert [line.split(" | ")[0] for line in report.calls(found).splitlines()[2:]] == [
            "| b (Anthropic)",
            "| a",
        ]

    def test_the_blocks_of_a_page_are_filled_and_its_text_is_kept(self) -> None:
        page = "Before.\n<!-- table not_leading -->\nold\n<!-- end -->\nAfter."
        once = report.filled(page, results())
        assert once == page.replace("old", report.not_leading(results()))
        assert report.filled(once, results()) == once
        with pytest.raises(KeyError, match="nothing"):
            report.filled("<!-- table nothing --><!-- end -->", results())

    def test_the_page_has_every_table(self) -> None:
        page = PAGE.read_text()
        assert [name for name in report.TABLES if f"<!-- table {name} -->" not in page] == []

    @pytest.mark.skipif(not RESULTS.exists(), reason="no run has been recorded yet")
    def test_the_page_shows_the_recorded_run(self) -> None:
        page = PAGE.read_text()
        assert report.filled(page, json.loads(RESULTS.read_text())) == page


class TestMeasuring:
    ROW = Row("row", "stream", CHUNK, "text-1-4", {"reps": 1})

    def test_medians_are_of_the_rounds_that_gave_numbers(self) -> None:
        rounds: measure.Rounds = [{"a": 1.0, "how": "sync"}, {"error": "E"}, {"a": 4.0}, {"a": 2.0}, None]
        assert measure.merged(rounds) == {"a": 2.0, "rounds": 3, "spread": 1.5}
        assert measure.merged([{"error": "E"}]) == {"error": "E"}
        assert measure.merged([None]) is measure.merged([]) is None

    def test_a_run_goes_on_where_it_stopped(self, tmp_path: Path) -> None:
        asked: list[str] = []

        def taking(name: str, proto: str) -> dict[str, float] | None:
            asked.append(name)
            return None if name == "none" else {CHUNK: float(len(asked))}

        cells = [("ours", "chat"), ("none", "chat"), ("floor", "chat")]
        for rounds in (1, 3, 3):
            state = measure.State(tmp_path / "state.json", "source")
            state.open(self.ROW)
            measure._turns(state, "row", cells, rounds, taking)
        assert asked == ["ours", "none", "floor", *["ours", "floor"] * 2]

    def test_numbers_of_another_build_are_dropped_with_those_of_the_references(self, tmp_path: Path) -> None:
        path = tmp_path / "state.json"
        state = measure.State(path, "old")
        state.open(self.ROW)
        for cell in ("ours/chat", "floor/chat", "openai_sdk/chat"):
            state.add("row", cell, {CHUNK: 1.0})
        assert set(measure.State(path, "old").cells["row"]) == {"ours/chat", "floor/chat", "openai_sdk/chat"}
        assert set(measure.State(path, "new").cells["row"]) == {"openai_sdk/chat"}

    def test_numbers_of_another_plan_are_dropped(self, tmp_path: Path) -> None:
        state = measure.State(tmp_path / "state.json", "source")
        state.open(self.ROW)
        state.add("row", "ours/chat", {CHUNK: 1.0})
        state = measure.State(tmp_path / "state.json", "source")
        state.open(self.ROW)
        assert state.rounds("row", "ours/chat") == [{CHUNK: 1.0}]
        state.open(self.ROW._replace(spec="text-2-4"))
        assert state.rounds("row", "ours/chat") == []


class TestPlan:
    META: dict[str, dict[str, Any]] = {
        "ours": {"PROTOS": DIALECTS},
        "anthropic_sdk": {"PROTOS": ("anth",)},
        "litellm": {"PROTOS": DIALECTS},
    }

    def test_a_row_is_measured_in_the_first_dialect_or_in_those_that_it_names(self) -> None:
        plan = {row.name: row.cells(self.META) for row in rows()}
        assert plan["calls 1"] == [("ours", "chat"), ("anthropic_sdk", "anth")]
        assert plan["tool arguments 10000"] == [("ours", "chat"), ("ours", "anth"), ("anthropic_sdk", "anth")]
        assert ("litellm", "chat") in plan["stream sync"]
        assert ("litellm", "anth") not in plan["stream sync"]

    def test_names_are_unique_and_clients_known(self) -> None:
        for plan in (rows(), rows(quick=True)):
            assert len({row.name for row in plan}) == len(plan)
            assert all(row.clients <= set(CLIENTS) for row in plan)


@pytest.mark.parametrize("dialect", wire.DIALECTS)
def test_the_answers_that_are_counted_say_what_they_should(dialect: str) -> None:
    response = workloads.WORKLOADS[f"decode {dialect}"].make(20)()
    assert isinstance(response, allm.Response)
    assert response.text == "".join(wire.words(20))
    assert response.usage is not None


def test_the_tool_call_that_is_counted_is_whole() -> None:
    response = workloads.WORKLOADS["tool arguments"].make(50)()
    assert isinstance(response, allm.Response)
    (call,) = response.message.tool_calls
    assert call.arguments == json.loads(wire.arguments(200))
