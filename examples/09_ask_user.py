"""A tool that asks the person: the run halts with the question, and the reply goes on from there."""

from __future__ import annotations

from _common import chat_engine

import allm


@allm.tool(examples=["What is the weather?", "Will it rain?"])
def ask_for_city() -> allm.AskUser:
    """Ask the user which city is meant. Call it when the weather is asked for without a city."""
    return allm.AskUser("Which city?")


SCRIPT = [
    [{"tool_call": {"id": "call_1", "name": "ask_for_city", "arguments": {}}}],
    [{"text": "In Oslo it is sunny on most days of May."}],
]


def main() -> None:
    with chat_engine(SCRIPT, tools=[ask_for_city]) as engine:
        session, asked = allm.sessions.start(engine, "What is the weather?")
        assert asked.halted_reason == "ask_user"
        print(asked.pending_question)
        assert asked.pending_question == "Which city?"

        session, result = allm.sessions.reply(engine, session, "Oslo.")
    print(result.text)
    assert result.halted_reason == "completed"
    assert session.status == "completed"


if __name__ == "__main__":
    main()
