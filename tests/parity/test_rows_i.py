"""Rows I of the parity table: OpenAI."""

from __future__ import annotations

import allm
from tests.parity.support import ANSWER, SSE, Transport, chat_chunk, wired


def test_f180_an_answer_that_the_filter_ended_is_an_answer() -> None:
    transport = Transport((200, SSE, (ANSWER[0], chat_chunk({}, "content_filter"), ANSWER[3])))
    response = allm.generate(wired(transport), "hi", api_key="k")
    assert (response.text, response.finish_reason, response.error) == ("Hel", "content_filter", None)
