"""The library as its users call it: the chat verbs, with everything on that is on by default.

But for one thing: where the others make a call that is not streamed, ours is not streamed either
(`streaming=False`). `ours_streamed` makes the same calls as they are by default.

The constants tell the harness where it runs; `Client` has the methods that the harness calls:

    stream() / await astream()   read one text stream -> (deltas, characters, time of the first)
    call()   / await acall()     one answer -> text
    tool()   / await atool()     read one streamed tool call -> (deltas, characters of its arguments)
    loop(n)                      n turns that call a tool, and an answer -> (turns, text)
    history(n), turn(h)          a conversation of n messages; one call that sends it
    dump(h), load(bytes)         a conversation as JSON, and back
"""

from __future__ import annotations

from time import perf_counter

import allm

from ._common import KEY, MODEL, PROMPT, ROWS_SCHEMA, add, plain

VENV = "allm"
PROTOS = ("chat", "resp", "anth", "gem")
IMPORT = "import allm; allm.stream(allm.Engine('openai:gpt-4.1-mini'), 'x', api_key='x')"
NEUTRAL = True
NOTE = "the default transport"

_PROVIDER = {"chat": "openai", "resp": "openai", "anth": "anthropic", "gem": "gemini"}
_PATH = {"chat": "/v1", "resp": "/v1", "anth": "", "gem": ""}
_ENDPOINT = {"chat": {"endpoint": "chat"}, "resp": {"endpoint": "responses"}}
_WRITE_ROWS = allm.ToolSpec("write_rows", "write_rows", ROWS_SCHEMA)


class Client:
    STREAMING = False  # of calls

    def __init__(self, base: str, proto: str) -> None:
        provider = _PROVIDER[proto]
        allm.keys.put(provider, KEY)
        self.engine = allm.Engine(
            f"{provider}:{MODEL[proto]}",
            base_url=base + _PATH[proto],
            adapter_options=_ENDPOINT.get(proto, {}),
        )
        self.calling = self.engine.merge(adapter_options={"streaming": self.STREAMING})
        self.looping = self.calling.put_tool(add)

    def stream(self) -> tuple[int, int, float]:
        n, chars, first = 0, 0, 0.0
        with allm.stream(self.engine, PROMPT) as events:
            for event in events:
                if type(event) is allm.TextDelta:
                    if not n:
                        first = perf_counter()
                    n += 1
                    chars += len(event.text)
        return n, chars, first

    async def astream(self) -> tuple[int, int, float]:
        n, chars, first = 0, 0, 0.0
        async with allm.aio.stream(self.engine, PROMPT) as events:
            async for event in events:
                if type(event) is allm.TextDelta:
                    if not n:
                        first = perf_counter()
                    n += 1
                    chars += len(event.text)
        return n, chars, first

    def call(self) -> str:
        return allm.chat(self.calling, PROMPT).text

    async def acall(self) -> str:
        return (await allm.aio.chat(self.calling, PROMPT)).text

    def tool(self) -> tuple[int, int]:
        n, call = 0, None
        with allm.stream(self.engine, PROMPT, tools=[_WRITE_ROWS], mode="manual") as events:
            for event in events:
                if type(event) is allm.ToolCallDelta:
                    n += 1
                elif type(event) is allm.ToolCallCompleted:
                    call = event.call
        assert call is not None
        assert call.arguments["rows"]
        return n, len(call.raw_arguments or "")

    def loop(self, n: int) -> tuple[int, str]:
        result = allm.chat(self.looping, "add", max_turns=n + 1)
        return len(result.steps) - 1, result.text

    def history(self, n: int) -> allm.Thread:
        return allm.Thread(tuple(allm.Message(role, text) for role, text in plain(n)))

    def turn(self, thread: allm.Thread) -> str:
        return allm.chat(self.calling, thread).text

    def dump(self, thread: allm.Thread) -> bytes:
        return allm.to_json(thread).encode()

    def load(self, data: bytes) -> allm.Thread:
        return allm.from_json(data, allm.Thread)

    async def aclose(self) -> None:
        await allm.aio.aclose()
