"""The four dialects as rows: which adapter speaks one, and which recordings show it."""

from __future__ import annotations

from typing import Any, NamedTuple

import allm
from allm.ports import CallContext, HttpRequest, WireAdapter
from allm.providers import COMPATIBLE, resolve
from allm.providers.openai.chat import OpenAIChat
from allm.providers.openai.responses import OpenAIResponses
from tests.decoder_support import events_of, folded
from tests.wire_support import Record, body_of, head_of, records


class Dialect(NamedTuple):
    """`name` is the endpoint of an `Origin`; `model` one of today's, `older` one with other rules."""

    name: str
    provider: str
    endpoint: str
    path: str
    sdk: str
    model: str
    older: str

    def __repr__(self) -> str:
        return self.name

    @property
    def records(self) -> tuple[Record, ...]:
        return records(self.endpoint)

    @property
    def adapter(self) -> WireAdapter:
        adapter: WireAdapter = resolve(self.provider)
        return adapter

    def context(self, **options: Any) -> CallContext:
        return CallContext(adapter_options={"endpoint": self.name, **options})

    def encode(self, request: allm.Request, **options: Any) -> HttpRequest:
        return self.adapter.encode(request, self.context(**options))

    def answer(self, record: Record, request: allm.Request) -> allm.Response:
        """What a recorded answer says, read as the answer to `request`."""
        decoder = self.adapter.decoder(request, head_of(record), self.context())
        return folded(events_of(decoder, [body_of(record)]))

    def engine(self, base_url: str, *, options: dict[str, Any] | None = None, **fields: Any) -> allm.Engine:
        """An engine for this dialect at the server of `base_url`, which has no path."""
        return allm.Engine(
            f"{self.provider}:{fields.pop('model', self.model)}",
            base_url=base_url + self.path,
            adapter_options={"endpoint": self.name, **(options or {})},
            **fields,
        )


CHAT = Dialect("chat", "openai", "openai.chat", "/v1", "openai", "gpt-6-luna", "gpt-4.1")
RESPONSES = Dialect("responses", "openai", "openai.responses", "/v1", "openai", "gpt-6-luna", "gpt-4.1")
MESSAGES = Dialect(
    "messages", "anthropic", "anthropic.messages", "", "anthropic", "claude-sonnet-5-5", "claude-sonnet-4-5"
)
GENERATE = Dialect(
    "generate", "gemini", "gemini.generate", "", "google.genai", "gemini-3.8-flash", "gemini-2.5-flash"
)
DIALECTS = (CHAT, RESPONSES, MESSAGES, GENERATE)


def recorded_adapter(record: Record) -> WireAdapter:
    """The adapter of the server that gave a recorded answer, for the dialect that it was asked in."""
    provider, dialect = record["provider"], record["endpoint"]
    if dialect == CHAT.endpoint and provider == "openai":
        return OpenAIChat()
    if dialect == CHAT.endpoint:
        compatible: WireAdapter = resolve(provider if provider in COMPATIBLE else "compatible")
        return compatible
    if dialect == RESPONSES.endpoint:
        return OpenAIResponses(provider)
    return (MESSAGES if dialect == MESSAGES.endpoint else GENERATE).adapter
