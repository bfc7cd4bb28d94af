"""A conversation: a thread is a value, and each result has the one to go on from."""

from __future__ import annotations

from _common import chat_engine

import allm

SCRIPT = [[{"text": "Hello, Ada."}], [{"text": "Your name is Ada."}]]


def main() -> None:
    with chat_engine(SCRIPT) as engine:
        first = allm.chat(engine, "Hello, my name is Ada.")
        second = allm.chat(engine, first.thread.add_user("What is my name?"))
    for message in second.thread.messages:
        print(f"{message.role}: {message.text}")
    assert len(first.thread) >= 2
    assert len(second.thread) > len(first.thread)
    assert first.halted_reason == second.halted_reason == "completed"


if __name__ == "__main__":
    main()
