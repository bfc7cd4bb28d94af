"""Rows G of the parity table: sessions."""

from __future__ import annotations

import allm
from tests.test_loop import calls, fake, named


def test_f155_a_word_of_a_tool_completes_the_session() -> None:
    halt = named("halt", lambda _: allm.Halt("enough", 7))
    session, result = allm.sessions.start(fake(calls(("a", "halt", {})), tools=[halt]), "go")
    assert isinstance(result, allm.ChatResult)
    assert (session.status, result.halted_reason) == ("completed", "enough")
    assert result.metadata == {"halt_tool_call_id": "a", "halt_result": 7}
