"""The same call on any model: `python examples/01_hello.py`, or ALLM_MODEL=openai:gpt-6-luna with a key."""

from __future__ import annotations

import os

import allm


def main() -> None:
    engine = allm.Engine(os.environ.get("ALLM_MODEL", "local"), system="You are concise.")
    with allm.stream(engine, "What is the capital of France?", max_tokens=60) as stream:
        for piece in stream.text():
            print(piece, end="", flush=True)
    print()
    result = stream.result()
    assert "Paris" in result.text, result.text
    assert result.halted_reason == "completed"


if __name__ == "__main__":
    main()
