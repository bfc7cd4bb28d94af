"""Two calls in one turn: the handlers run at the same time, the results keep the order of the calls."""

from __future__ import annotations

from _common import chat_engine

import allm

NOT_FOR = {"local": "it makes one call a turn"}


@allm.tool
def weather(city: str) -> dict[str, object]:
    """The weather in one city. For several cities call it once for each, all at once.

    Args:
        city: name of the city
    """
    return {"city": city, "sky": "sunny"}


SCRIPT = [
    [
        {"tool_call": {"id": "call_1", "name": "weather", "arguments": {"city": "Oslo"}}},
        {"tool_call": {"id": "call_2", "name": "weather", "arguments": {"city": "Lima"}}},
    ],
    [{"text": "It is sunny in both."}],
]


def main() -> None:
    with chat_engine(SCRIPT, tools=[weather]) as engine:
        result = allm.chat(engine, "What is the weather in Oslo and in Lima?")
    results = [message for message in result.thread.messages if message.role == "tool"]
    for message in results:
        print(message.tool_call_id, message.text)
    print(result.text)
    assert len(results) == 2
    assert result.halted_reason == "completed"


if __name__ == "__main__":
    main()
