"""A manual tool and a session, which knows what it waits for: it can be stored until somebody has looked."""

from __future__ import annotations

from _common import chat_engine

import allm


@allm.tool(manual=True, examples=["What is the weather in Rome?"])
def weather(city: str) -> str:
    """Have a person in the city look at the sky.

    Args:
        city: name of the city
    """
    raise NotImplementedError("a manual tool is not run")


SCRIPT = [
    [{"tool_call": {"id": "call_1", "name": "weather", "arguments": {"city": "Oslo"}}}],
    [{"text": "It is sunny in Oslo."}],
]


def main() -> None:
    with chat_engine(SCRIPT, tools=[weather]) as engine:
        session, _ = allm.sessions.start(engine, "What is the weather in Oslo?")
        assert session.status == "awaiting_tools"
        (call,) = session.pending_tool_calls
        print(f"{call.name}({call.arguments})")

        session = session.submit_tool_result(call.id, "The sky is sunny.")
        assert session.status == "idle"
        session, result = allm.sessions.resume(engine, session)
    print(result.text)
    assert result.halted_reason == session.status == "completed"
    assert "sunny" in result.text.lower()


if __name__ == "__main__":
    main()
