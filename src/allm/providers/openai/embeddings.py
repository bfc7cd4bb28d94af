"""Embeddings of OpenAI and of the servers that speak its `/embeddings`: requests, refusals, answers.

Vectors travel as base64 of their bytes where the server is known to give it: a third of the size of
numbers, and nothing to convert. An answer is read by what it holds, whatever was asked for. Facts:
API reference, SDK types and recorded traffic, read in November 2026.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from allm.data.events import Event
from allm.data.media import EmbeddingRequest
from allm.errors import ConfigurationError, UnsupportedError
from allm.ports import CallContext, Decoder, HttpHead, HttpRequest
from allm.providers.decoding import AnswerDecoder
from allm.providers.encoding import HttpAdapter, body_of, merge_options
from allm.providers.openai import OPENAI_KEY, OPENAI_URL, api_url, is_openai, wire_headers
from allm.providers.openai.chat_stream import usage_of
from allm.providers.vectors import EmbeddingTurn, check_input, packed_vector

PATH: Final = "/embeddings"

# Servers that give base64: by recorded traffic (OpenAI, Azure, vLLM) or by their own documentation.
_BASE64: Final = frozenset({"azure", "vllm", "llamacpp", "openrouter"})
_DIMENSIONS: Final = {"mistral": "output_dimension"}  # where the field has another name


class OpenAIEmbeddings(HttpAdapter):
    """The adapter. Immutable; one serves any number of calls on any number of threads.

    `adapter_options`: `encoding`, `base64` or `float`; `api_version`, for Azure's deployments;
    `organization`, `project`; `headers`.
    """

    name = "openai"
    base_url = OPENAI_URL
    key = OPENAI_KEY
    max_batch = 2048

    def encode(self, request: EmbeddingRequest, ctx: CallContext) -> HttpRequest:
        """The request to send. Raises `ValidationError` for what the server could not answer."""
        check_input(request, self.name, self.max_batch)
        options, warnings = ctx.adapter_options, []
        url = api_url(self.name, ctx, self.base_url, PATH)
        body: dict[str, Any] = {"model": request.model, "input": request.input}
        if request.dimensions is not None:
            if "ada-002" in (request.model or ""):
                text = f"{request.model} has vectors of one length"
                raise UnsupportedError.of(text, ("dimensions", "not_supported_by_the_model"))
            body[_DIMENSIONS.get(self.name, "dimensions")] = request.dimensions
        encoding = self._encoding(options.get("encoding"), url)
        if encoding:
            body["encoding_format"] = encoding
        if request.task_type is not None:
            warnings.append("task_type is not sent: the wire has no place for it")
        if request.truncate:
            warnings.append("truncate is not sent: what is too long is up to the server")
        merge_options(body, request.options)
        headers = wire_headers({**options, "streaming": False})
        return HttpRequest(url, body_of(body), headers, self.key, warnings=tuple(warnings))

    def decoder(self, request: EmbeddingRequest, head: HttpHead, ctx: CallContext) -> Decoder:
        return AnswerDecoder(VectorsByIndex(self.name, request), head, ctx.limits)

    def _encoding(self, asked: Any, url: str) -> str | None:
        """What to ask for; nothing where the server's own default, numbers, is the safe thing."""
        if asked is None:
            return "base64" if self.name in _BASE64 or is_openai(url) else None
        if asked not in ("base64", "float"):
            raise ConfigurationError(f"encoding={asked!r}: vectors travel as 'base64' or as 'float'")
        return str(asked)


class _Vector(Struct):
    index: int
    embedding: Raw


class _Answer(Struct):
    data: list[_Vector] | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)


class VectorsByIndex(EmbeddingTurn):
    """The answer of `/embeddings`: `{"data": [{"index", "embedding"}], "model", "usage"}`."""

    def read_whole(self, data: bytes) -> list[Event]:
        answer = _ANSWER.decode(data)
        self.model = answer.model
        self.usage = usage_of(answer.usage) if answer.usage else None
        if answer.error or answer.data is None:
            self.refused(data)
            return []
        places = {vector.index: vector.embedding for vector in answer.data}
        if sorted(places) != list(range(len(answer.data))):
            raise msgspec.ValidationError("the indexes of the vectors do not count up from 0")
        self.take([packed_vector(places[index]) for index in range(len(places))])
        return []
