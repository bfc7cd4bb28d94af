"""One question, one answer. A question is a string, or messages."""

from __future__ import annotations

from _common import chat_engine

import allm

SCRIPT = [[{"text": "OK"}]]
MESSAGES = [
    allm.user("Reply with exactly: Hello"),
    allm.assistant("Hello"),  # shown once what is wanted, even the smallest model does it
    allm.user("Reply with exactly: OK"),
]


def main() -> None:
    with chat_engine(SCRIPT) as engine:
        response = allm.generate(engine, MESSAGES, system="You reply with one word.")
    print(response.text)
    assert response.text.strip() == "OK"
    assert response.finish_reason == "stop"


if __name__ == "__main__":
    main()
