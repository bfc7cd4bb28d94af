"""One tool is left to you, the others run by themselves: the chat halts when the model calls yours."""

from __future__ import annotations

from _common import chat_engine

import allm

NOT_FOR = {"local": "it makes one call a turn, and none after a result"}


@allm.tool
def weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: name of the city
    """
    return f"sunny in {city}"


@allm.tool(manual=True)
def confirm_action(action: str) -> str:
    """Have a person confirm what the user is about to do.

    Args:
        action: what is to be confirmed
    """
    raise NotImplementedError("a manual tool is not run")


SCRIPT = [
    [
        {"tool_call": {"id": "call_1", "name": "weather", "arguments": {"city": "Oslo"}}},
        {"tool_call": {"id": "call_2", "name": "confirm_action", "arguments": {"action": "a day off"}}},
    ],
    [{"text": "It is sunny in Oslo, and your day off is confirmed."}],
]


def main() -> None:
    with chat_engine(SCRIPT, tools=[weather, confirm_action]) as engine:
        asked = allm.chat(engine, "Have my day off confirmed, and tell me the weather in Oslo.")
        assert asked.halted_reason == "manual_tool_calls"
        waiting = asked.metadata["manual_tool_calls"]
        (call,) = [call for call in asked.steps[-1].response.tool_calls if call.id in waiting]
        print(f"{call.name}({call.arguments})")
        assert call.name == "confirm_action"

        confirmed = allm.tool_result(call.id, "confirmed")
        result = allm.chat(engine, asked.thread.add_message(confirmed))
    print(result.text)
    assert result.halted_reason == "completed"
    assert "sunny" in result.text.lower()


if __name__ == "__main__":
    main()
