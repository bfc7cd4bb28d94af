"""A tool, run in a loop: the model calls it, its result goes back, the model answers."""

from __future__ import annotations

from _common import chat_engine

import allm


@allm.tool(examples=["What is the weather in Rome?"])
def weather(city: str) -> dict[str, object]:
    """The weather in a city.

    Args:
        city: name of the city
    """
    return {"city": city, "sky": "sunny", "celsius": 21}


SCRIPT = [
    [{"tool_call": {"id": "call_1", "name": "weather", "arguments": {"city": "Oslo"}}}],
    [{"text": "It is sunny in Oslo, at 21 °C."}],
]


def main() -> None:
    with chat_engine(SCRIPT, tools=[weather]) as engine:
        result = allm.chat(engine, "What is the weather in Oslo?")
    for message in result.thread.messages:
        calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
        print(f"{message.role}: {message.text or ', '.join(calls)}")
    assert result.halted_reason == "completed"
    assert len(result.steps) == 2
    assert any(message.role == "tool" for message in result.thread.messages)
    assert "sunny" in result.text.lower()


if __name__ == "__main__":
    main()
