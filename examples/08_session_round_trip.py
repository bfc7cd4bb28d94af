"""A session is stored as JSON and taken up again, here or on another machine, as if nothing had been."""

from __future__ import annotations

from _common import chat_engine

import allm

SCRIPT = [[{"text": "Hello, Ada."}], [{"text": "Ada"}], [{"text": "Ada"}]]
QUESTION = "What is my name? Reply with the name only."


def main() -> None:
    with chat_engine(SCRIPT) as engine:
        session, _ = allm.sessions.start(engine, "Hello, my name is Ada.", id="demo")
        stored = allm.to_json(session)
        print(stored)
        in_memory = allm.sessions.reply(engine, session, QUESTION)
        restored = allm.sessions.reply(engine, allm.from_json(stored, allm.Session), QUESTION)
    print(restored.text)
    assert restored.text == in_memory.text


if __name__ == "__main__":
    main()
