"""The same answer as it is written: a stream of typed events."""

from __future__ import annotations

from _common import chat_engine

import allm

SCRIPT = [[{"text": ["O", "K"]}]]
MESSAGES = [
    allm.user("Reply with exactly: Hello"),
    allm.assistant("Hello"),  # shown once what is wanted, even the smallest model does it
    allm.user("Reply with exactly: OK"),
]


def main() -> None:
    pieces: list[str] = []
    completed: list[allm.Response] = []
    with (
        chat_engine(SCRIPT) as engine,
        allm.stream_generate(engine, MESSAGES, system="You reply with one word.") as stream,
    ):
        for event in stream:
            match event:
                case allm.TextDelta(text):
                    print(text, end="", flush=True)
                    pieces.append(text)
                case allm.MessageCompleted(response):
                    print(f" ({response.finish_reason})")
                    completed.append(response)
    assert pieces
    assert len(completed) == 1
    assert "".join(pieces).strip() == "OK"


if __name__ == "__main__":
    main()
