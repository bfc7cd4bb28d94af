"""Pieces of the library's work that need no server, each in any size: what is counted and, alone, timed.

python -m benchmarks.workloads NAME SIZE TIMES

does one of them several times, for an instruction counter to watch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import allm
from allm.ports import CallContext, HttpHead, HttpRequest
from allm.providers import resolve
from allm.testing.played import Answer, Played
from benchmarks import wire

Run = Callable[[], object]

READ: Final = 16 * 1024  # bytes of a read where the service sends faster than the reader reads
_KEY: Final = "no-key-is-needed"
_SSE: Final = HttpHead(200, {"content-type": "text/event-stream"})
_JSON: Final = HttpHead(200, {"content-type": "application/json"})
_MODELS: Final = {
    "chat": "openai:gpt-4.1-mini",
    "responses": "openai:gpt-4.1-mini",
    "messages": "anthropic:claude-sonnet-4-5",
    "generate": "gemini:gemini-2.5-flash",
}


class Workload(NamedTuple):
    """`make(n)` prepares `n` units of work and gives the function that does them; `size` is an `n` that
    is large enough to count."""

    unit: str
    make: Callable[[int], Run]
    size: int = 200


def engine(dialect: str, answer: Callable[[HttpRequest], Answer], **fields: Any) -> allm.Engine:
    """An engine of a dialect over a transport that plays `answer`."""
    options = {"endpoint": dialect} if dialect in ("chat", "responses") else {}
    return allm.Engine(_MODELS[dialect], adapter_options=options, transport=Played(answer), **fields)


def history(n: int) -> allm.Thread:
    """`n` messages of about 200 characters, by turns of user and assistant; the last is the user's."""
    text = "The river rose in the night, and by the morning the meadows stood under brown water. " * 2
    roles = ("assistant", "user") if n % 2 == 0 else ("user", "assistant")
    return allm.Thread(tuple(allm.Message(roles[i % 2], f"{i}: {text}") for i in range(n)))


def reads(events: Sequence[bytes]) -> list[bytes]:
    """The bytes of a stream that comes faster than it is read."""
    whole = b"".join(events)
    return [whole[start : start + READ] for start in range(0, len(whole), READ)]


def _adapter(dialect: str) -> tuple[Any, CallContext, str]:
    provider, _, model = _MODELS[dialect].partition(":")
    options = {"endpoint": dialect} if provider == "openai" else {}
    return resolve(provider), CallContext(adapter_options=options), model


def _decode(dialect: str, n: int) -> Run:
    return _decoded(dialect, reads(wire.text_stream(dialect, wire.words(n))))


def _tool_arguments(n: int) -> Run:
    text = wire.arguments(4 * n)
    return _decoded("chat", reads(wire.chat_call_stream("write", wire.pieces(text, 4))))


def _decoded(dialect: str, body: list[bytes]) -> Run:
    adapter, ctx, model = _adapter(dialect)
    request = allm.Request(model=model)

    def run() -> allm.Response:
        decoder = adapter.decoder(request, _SSE, ctx)
        fold = allm.ResponseFold()
        for data in body:
            for event in decoder.feed(data):
                fold.add(event)
        for event in decoder.end():
            fold.add(event)
        response = fold.response
        assert response.finish_reason in ("stop", "tool_calls")
        return response

    return run


def _stream(dialect: str, n: int) -> Run:
    """Through the whole library, an event a read: how tokens come from a model."""
    answer = Answer(_SSE, tuple(wire.text_stream(dialect, wire.words(n))))
    made = engine(dialect, lambda _: answer)

    def run() -> int:
        with allm.stream(made, "Hi.", api_key=_KEY) as events:
            return sum(type(event) is allm.TextDelta for event in events)

    return run


def _async_stream(n: int) -> Run:
    import asyncio  # not loaded for what an instruction counter watches

    answer = Answer(_SSE, tuple(wire.text_stream("chat", wire.words(n))))
    made = engine("chat", lambda _: answer)

    async def read() -> int:
        async with allm.aio.stream(made, "Hi.", api_key=_KEY) as events:
            return len([event async for event in events])

    return lambda: asyncio.run(read())


def _call(n: int) -> Run:
    answer = Answer(_JSON, (wire.chat_body("".join(wire.words(24))),))
    made = engine("chat", lambda _: answer)

    def run() -> None:
        for _ in range(n):
            assert allm.chat(made, "Hi.", api_key=_KEY).text

    return run


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def _tool_turns(n: int) -> Run:
    """A chat in which the model calls a tool `n` times, one a turn."""
    turn = Answer(_JSON, (wire.chat_body(None, ("add", '{"a":1,"b":2}')),))
    last = Answer(_JSON, (wire.chat_body("3"),))
    played: Iterator[Answer] = iter(())

    def answer(_: HttpRequest) -> Answer:
        return next(played)

    made = engine("chat", answer, tools=[add])

    def run() -> None:
        nonlocal played
        played = iter([*[turn] * n, last])
        assert allm.chat(made, "Add.", api_key=_KEY, max_turns=n + 1).text == "3"

    return run


def _encode(dialect: str, n: int) -> Run:
    """A history that was never sent."""
    adapter, ctx, model = _adapter(dialect)

    def run() -> object:
        return adapter.encode(allm.Request(model=model, messages=history(n).messages), ctx)

    return run


def _encode_again(n: int) -> Run:
    """A history that was sent before, with the message that came since."""
    adapter, ctx, model = _adapter("chat")
    sent = history(n)
    adapter.encode(allm.Request(model=model, messages=sent.messages), ctx)
    grown = sent.add_assistant("Yes.").add_user("Go on.")
    return lambda: adapter.encode(allm.Request(model=model, messages=grown.messages), ctx)


def _dump(n: int) -> Run:
    thread = history(n)
    return lambda: allm.to_json(thread)


def _load(n: int) -> Run:
    data = allm.to_json(history(n))
    return lambda: allm.from_json(data, allm.Thread)


WORKLOADS: Final[dict[str, Workload]] = {
    **{f"decode {name}": Workload("event", partial(_decode, name)) for name in wire.DIALECTS},
    **{f"stream {name}": Workload("event", partial(_stream, name)) for name in wire.DIALECTS},
    "async stream chat": Workload("event", _async_stream),
    "call": Workload("call", _call),
    "tool turns": Workload("turn", _tool_turns, 20),
    "tool arguments": Workload("delta", _tool_arguments),
    **{f"encode {name}": Workload("message", partial(_encode, name)) for name in wire.DIALECTS},
    "encode again": Workload("message", _encode_again),
    "dump": Workload("message", _dump),
    "load": Workload("message", _load),
}


def main() -> None:
    name, size, times = sys.argv[1:]
    run = WORKLOADS[name].make(int(size))
    for _ in range(int(times)):
        run()


if __name__ == "__main__":
    main()
