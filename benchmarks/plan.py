"""What is measured, in which sizes, of whom: rows that take turns among their clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

REFERENCES: Final = ("floor", "floor_httpx2")
OURS: Final = ("ours", "ours_fast")
STREAMED: Final = ("ours_streamed", "ours_fast_streamed")
"""Ours again, for calls: their answers streamed and folded, as is the default."""
SDKS: Final = ("openai_sdk", "anthropic_sdk", "google_genai")
CLIENTS: Final = (*REFERENCES, *OURS, *STREAMED, *SDKS, "pydantic_ai", "mirascope", "litellm")
DIALECTS: Final = ("chat", "resp", "anth", "gem")
CHUNK: Final = "cpu_us_per_chunk"
CALL: Final = "cpu_us_per_call"
DELTA: Final = "cpu_us_per_delta"
DIALECT_NAMES: Final = {"chat": "Chat", "resp": "Responses", "anth": "Anthropic", "gem": "Gemini"}

# What would take most of the time and decide nothing: litellm is far from the best everywhere.
_MOST_ROWS: Final = frozenset(CLIENTS) - {"litellm", *STREAMED}
_ONLY: Final = {"litellm": ("chat",)}
_LEAN: Final = frozenset({*REFERENCES, *OURS})


class Row(NamedTuple):
    """One scenario of the harness in one size.

    `spec` names the answers of the server, `server` how it sends them; `options` go to the scenario. `metric`
    is its main number. `protos` are the dialects that each client is measured in; none is the first of
    each. `clients` are those that take part.
    """

    name: str
    scenario: str
    metric: str
    spec: str
    options: Mapping[str, Any]
    server: Mapping[str, Any] = {}
    protos: tuple[str, ...] = ()
    clients: frozenset[str] = _MOST_ROWS
    limit: int = 120  # seconds

    def cells(self, clients: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
        """(client, dialect) of everybody who takes part, in the order of a round."""
        return [
            (name, proto)
            for name, meta in clients.items()
            if name in self.clients
            for proto in _spoken(_ONLY.get(name) or tuple(meta["PROTOS"]), self.protos)
        ]


def _spoken(offered: tuple[str, ...], wanted: tuple[str, ...]) -> list[str]:
    first = "chat" if "chat" in offered else offered[0]
    return [proto for proto in offered if proto in wanted] if wanted else [first]


def rows(quick: bool = False) -> list[Row]:
    """All rows. `quick` ones are smaller and say less about what comes once."""
    return [*_streams(quick), *_crowds(quick), *_memory(quick), *_calls(quick), *_conversations(quick)]


def _streams(quick: bool) -> Iterator[Row]:
    """One stream: of words, of single characters, of a tool's arguments."""
    chunks = 1000 if quick else 3000
    for mode in ("sync", "async"):
        options = {"mode": mode, "chunks": chunks, "reps": 2}
        everybody = _MOST_ROWS | {"litellm"}
        yield Row(f"stream {mode}", "stream", CHUNK, f"text-{chunks}-4", options, {}, DIALECTS, everybody)
        for n in (1000, 10_000) if quick else (1000, 10_000, 100_000):
            options = {"mode": mode, "chunks": n, "reps": 2}
            yield Row(f"characters {n} {mode}", "stream", CHUNK, f"ones-{n}", options, clients=_LEAN)
    for size in (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000):
        who = _LEAN | {"anthropic_sdk"} if size > 100_000 else _MOST_ROWS
        spec, protos = f"tool-{size}-4", ("chat", "anth")
        yield Row(f"tool arguments {size}", "tool", DELTA, spec, {"bytes": size}, {}, protos, who)


def _crowds(quick: bool) -> Iterator[Row]:
    """Many streams in one event loop: all at once, and with a pause between chunks."""
    for n in (1, 50, 200) if quick else (1, 50, 200, 1000):
        for delay in (0, 10):
            chunks = 50 if quick or n == 1000 else 100
            options = {"n": n, "delay": delay, "chunks": chunks}
            name, spec = f"streams {n}, {delay} ms", f"text-{chunks}-4"
            who = _MOST_ROWS if n < 1000 or delay else _LEAN.union(SDKS)  # a crowd that bursts takes minutes
            yield Row(name, "concurrent", CHUNK, spec, options, {"d": delay}, clients=who)


def _memory(quick: bool) -> Iterator[Row]:
    for name, trace in (("rss", False), ("traced", True)):
        options = {"n": 50 if quick else 200, "trace": trace}
        yield Row(f"memory {name}", "memory", f"kib_per_stream_{name}", "text-50-4", options, {"d": 20})


def _calls(quick: bool) -> Iterator[Row]:
    """Answers that are not streamed, and a loop of them; beside them ours, streamed."""
    who = _MOST_ROWS.union(STREAMED)
    for width, n in ((1, 100 if quick else 500), (64, 128 if quick else 640)):
        yield Row(f"calls {width}", "calls", CALL, "chat", {"n": n, "width": width}, clients=who)
    options = {"n": 50 if quick else 200, "width": 1}
    yield Row("calls dialects", "calls", CALL, "chat", options, {}, DIALECTS[1:])
    options = {"n": 20, "reps": 2}
    yield Row("tool loop", "loop", "cpu_us_per_turn", "loop-20", options, {"k": True}, clients=who)


def _conversations(quick: bool) -> Iterator[Row]:
    """Conversations that are stored, and sent. `turns` has two messages each."""
    yield Row("stored", "serialize", "load_us_per_msg", "chat", {"n": 1000, "reps": 3})
    for name, who, reps, sizes in (
        ("history", _MOST_ROWS, 3, (10, 100, 500, 2000)),
        ("turns", _LEAN, 25, (20, 200, 2000, 4000)),  # growth is a difference of differences
    ):
        options = {"sizes": list(sizes[:3] if quick else sizes), "reps": reps}
        yield Row(name, "history", "cpu_us_per_msg", "chat", options, clients=who)
