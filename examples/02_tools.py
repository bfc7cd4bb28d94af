"""Tools run in a loop until the model is done; the script of a fake model shows the turns."""

from __future__ import annotations

import allm


@allm.tool
def weather(city: str, days: int = 1) -> dict[str, object]:
    """The forecast for a city.

    Args:
        city: name of the city
        days: how many days ahead
    """
    return {"city": city, "days": days, "forecast": "sunny"}


SCRIPTS = [
    [{"tool_call": {"id": "call_1", "name": "weather", "arguments": {"city": "Oslo"}}}],
    [{"text": ["It will be ", "sunny in Oslo."]}],
]


def main() -> None:
    engine = allm.Engine("fake", tools=[weather], adapter_options={"scripts": SCRIPTS})
    for event in allm.stream(engine, "What is the weather in Oslo?"):
        match event:
            case allm.TextDelta(text):
                print(text, end="")
            case allm.ToolExecutionStarted(call):
                print(f"[{call.name} {call.arguments}]")
            case allm.ChatCompleted(result):
                print()
                assert [message.role for message in result.thread.messages] == [
                    "user",
                    "assistant",
                    "tool",
                    "assistant",
                ]


if __name__ == "__main__":
    main()
