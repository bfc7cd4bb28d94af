"""What the adapters behind HTTP share."""

from __future__ import annotations

from typing import Any

import pytest

from allm.data.messages import user
from allm.data.requests import Request
from allm.ports import CallContext, KeyRule
from allm.providers.anthropic.messages import Anthropic
from allm.providers.gemini.generate import Gemini
from allm.providers.openai import OpenAI
from allm.providers.openai.chat import OpenAIChat
from allm.providers.openai.responses import OpenAIResponses

OTHER = KeyRule("other", ("OTHER_API_KEY",), "x-other", "")


@pytest.mark.parametrize("kind", [OpenAI, OpenAIChat, OpenAIResponses, Anthropic, Gemini])
def test_a_key_is_the_classes_own_another_or_none(kind: Any) -> None:
    """An adapter for a server without a key must not send the key of the provider whose dialect it speaks."""
    request = Request(messages=(user("hi"),), model="gpt-4.1")
    own = kind().encode(request, CallContext()).key
    assert own is kind.key
    assert own.variables
    named = kind("other", "http://127.0.0.1:1", OTHER)
    assert repr(named) == f"{kind.__name__}('other')"
    assert named.encode(request, CallContext()).key is OTHER
    assert kind("other", "http://127.0.0.1:1", None).encode(request, CallContext()).key is None
