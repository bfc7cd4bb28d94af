"""What one model call sends: `Request`, `ToolSpec`, the response format, `ModelRef`."""

from __future__ import annotations

from typing import Any

from allm.data import Data
from allm.data.freeform import normalise, tupled
from allm.data.messages import Message
from allm.errors import ConfigurationError


class ModelRef(Data, frozen=True):
    """A model by provider and id. `provider` is empty where only the id is known."""

    provider: str = ""
    id: str = ""
    extra: dict[str, Any] = {}

    @classmethod
    def parse(cls, model: str | tuple[str, str] | ModelRef, provider: str | None = None) -> ModelRef:
        """Read `provider:model`, `model@provider`, `(provider, model)`; a bare id needs `provider`.

        With `provider` given the string is that provider's model id, whatever colons it has,
        unless it starts with the same provider's name.
        """
        if isinstance(model, ModelRef):
            return model
        if isinstance(model, tuple):
            return cls(*model)
        if provider is not None:
            return cls(provider, model.removeprefix(f"{provider}:"))
        head, colon, rest = model.partition(":")
        if colon and head and "/" not in head and "@" not in head:
            return cls(head, rest)
        name, at, host = model.rpartition("@")
        if at and name and host:
            return cls(host, name)
        if model in ("local", "fake"):
            return cls(model, "")
        raise ConfigurationError(
            f"the model {model!r} names no provider: write 'openai:{model}' or pass adapter='openai'"
        )

    def __str__(self) -> str:
        return f"{self.provider}:{self.id}" if self.id else self.provider


class ToolSpec(Data, frozen=True):
    """A tool as the model sees it, and how the loop treats it. `schema` is a JSON Schema object.

    `handler` is a reference `module:qualified.name`, as data; nothing is imported on load.
    `timeout` is seconds.
    """

    name: str
    description: str = ""
    schema: dict[str, Any] = {}
    strict: bool | None = None
    manual: bool = False
    timeout: float | None = None
    on_interrupted: str = "report"
    examples: tuple[str, ...] = ()
    handler: str | None = None
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        normalise(self, "schema", "metadata", "extra")
        tupled(self, "examples")


class ResponseFormat(Data, frozen=True):
    """How the answer is shaped: `type` is `text`, `json_object` or `json_schema`."""

    type: str = "text"
    name: str = "response"
    schema: dict[str, Any] = {}
    strict: bool = True
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        normalise(self, "schema", "extra")


def json_schema(name: str, schema: dict[str, Any], *, strict: bool = True) -> ResponseFormat:
    """A `response_format` from a JSON Schema."""
    return ResponseFormat("json_schema", name, schema, strict)


class Request(Data, frozen=True, kw_only=True):
    """One model call, for any provider. Unset fields are not sent.

    `tool_choice` is `auto`, `none`, `required`, or a tool's name (or the provider's own object).
    `options` go to the body of the wire request last. `model` is the provider's id of the model.
    """

    messages: tuple[Message, ...] = ()
    model: str | None = None
    system: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_format: ResponseFormat | None = None
    reasoning: str | dict[str, Any] | None = None
    prompt_cache: str | dict[str, Any] | None = None
    options: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.options or self.metadata or self.extra:
            normalise(self, "options", "metadata", "extra")
        if self.tool_choice or self.reasoning or self.prompt_cache:
            normalise(self, "tool_choice", "reasoning", "prompt_cache")
        tupled(self, "messages", "tools", "stop")
