"""Manual mode: nothing is run. You get the calls, and send what you found."""

from __future__ import annotations

from _common import chat_engine

import allm


@allm.tool(examples=["What is the weather in Rome?"])
def weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: name of the city
    """
    return f"sunny in {city}"


SCRIPT = [
    [{"tool_call": {"id": "call_1", "name": "weather", "arguments": {"city": "Oslo"}}}],
    [{"text": "It is sunny in Oslo."}],
]


def main() -> None:
    with chat_engine(SCRIPT, tools=[weather]) as engine:
        asked = allm.chat(engine, "What is the weather in Oslo?", mode="manual")
        assert asked.halted_reason == "manual_tool_calls"
        (call,) = asked.steps[-1].response.tool_calls
        print(f"{call.name}({call.arguments})")

        found = allm.tool_result(call.id, weather(**call.arguments))
        result = allm.chat(engine, asked.thread.add_message(found), mode="manual")
    print(result.text)
    assert result.halted_reason == "completed"
    assert "sunny" in result.text.lower()


if __name__ == "__main__":
    main()
