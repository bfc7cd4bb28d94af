"""A conversation that is saved as JSON and resumed, here or on another machine."""

from __future__ import annotations

import allm

SCRIPTS = [[{"text": "Hello, Ada."}], [{"text": "You are Ada."}]]


def main() -> None:
    engine = allm.Engine("fake", adapter_options={"scripts": SCRIPTS})
    session, result = allm.sessions.start(engine, "I am Ada.", id="demo")
    stored = allm.to_json(session)
    print(stored)
    loaded = allm.from_json(stored)
    assert loaded == session
    session, result = allm.sessions.reply(engine, loaded, "Who am I?")
    print(result.text)
    assert result.text == "You are Ada."
    assert session.revision == 2


if __name__ == "__main__":
    main()
