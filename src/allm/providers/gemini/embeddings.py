"""Embeddings of Gemini: `batchEmbedContents`, one sub-request a text.

The task is a field (`taskType`) up to gemini-embedding-001, and words before the text from
gemini-embedding-2 on, where the field has no effect. Shortened vectors of gemini-embedding-001 do not
have length 1: they get it here. Sources: google-genai 3.4.0, ai.google.dev and docs.cloud.google.com, read
2026-11, and recorded traffic.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from allm.data.events import Event
from allm.data.media import EmbeddingRequest
from allm.ports import CallContext, Decoder, HttpHead, HttpRequest
from allm.providers.decoding import AnswerDecoder
from allm.providers.encoding import HttpAdapter, body_of, headers_of
from allm.providers.gemini.generate import GEMINI_KEY, GEMINI_URL, RESOURCES, camel, method_url
from allm.providers.gemini.generate_stream import usage_of
from allm.providers.vectors import EmbeddingTurn, check_input, packed_vector, unit_vector

FULL_SIZE: Final = 3072  # numbers in a vector that was not asked to be shorter

_TASK_TYPES: Final = {
    "search_document": "RETRIEVAL_DOCUMENT",
    "search_query": "RETRIEVAL_QUERY",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
    "similarity": "SEMANTIC_SIMILARITY",
}
_PREFIXES: Final = {
    "search_document": "title: none | text: ",
    "search_query": "task: search result | query: ",
    "classification": "task: classification | query: ",
    "clustering": "task: clustering | query: ",
    "similarity": "task: sentence similarity | query: ",
}
_PREFIXED = re.compile(r"(.*/)?gemini-embedding-[2-9]")


class GeminiEmbeddings(HttpAdapter):
    """The adapter. Immutable; one serves any number of calls on any number of threads.

    `options` go into every sub-request. `adapter_options`: `api_version`; `project`, to be billed;
    `headers`.
    """

    name = "gemini"
    base_url = GEMINI_URL
    key = GEMINI_KEY
    max_batch = 100

    def encode(self, request: EmbeddingRequest, ctx: CallContext) -> HttpRequest:
        """The request to send. Raises `ValidationError` for what the server could not answer."""
        check_input(request, self.name, self.max_batch)
        url = method_url(self.name, ctx, self.base_url, request.model or "", "batchEmbedContents")
        prefix, fields = _parameters(request)
        requests = [{"content": {"parts": [{"text": prefix + text}]}, **fields} for text in request.input]
        options = ctx.adapter_options
        headers = headers_of(options, False, {"x-goog-user-project": options.get("project")})
        return HttpRequest(url, body_of({"requests": requests}), headers, self.key)

    def decoder(self, request: EmbeddingRequest, head: HttpHead, ctx: CallContext) -> Decoder:
        return AnswerDecoder(GeminiVectors(self.name, request), head, ctx.limits)


def _parameters(request: EmbeddingRequest) -> tuple[str, dict[str, Any]]:
    """What goes before each text, and the fields of each sub-request beside its text."""
    model, prefix = request.model or "", ""
    fields: dict[str, Any] = {"model": model if model.startswith(RESOURCES) else f"models/{model}"}
    if request.task_type is not None and _PREFIXED.match(model):
        prefix = _PREFIXES[request.task_type]
    elif request.task_type is not None:
        fields["taskType"] = _TASK_TYPES[request.task_type]
    if request.dimensions is not None:
        fields["outputDimensionality"] = request.dimensions
    if request.truncate is False:
        # Google documents the field for its Cloud platform only. A server that does not know it says so;
        # left out, the text would be cut in silence.
        fields["autoTruncate"] = False
    fields.update({camel(name): value for name, value in request.options.items()})
    return prefix, fields


class _Vector(Struct):
    values: Raw


class _Answer(Struct, rename="camel"):
    embeddings: list[_Vector] | None = None
    embedding: _Vector | None = None  # `embedContent`, which takes one text
    usage_metadata: dict[str, Any] | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


class GeminiVectors(EmbeddingTurn):
    """The answer of `batchEmbedContents`, or of `embedContent`: vectors in the order of the input."""

    def read_whole(self, data: bytes) -> list[Event]:
        answer = _ANSWER.decode(data)
        self.usage = usage_of(answer.usage_metadata) if answer.usage_metadata else None
        found = answer.embeddings if answer.embedding is None else [answer.embedding]
        if found is None:
            self.refused(data)
            return []
        pack = packed_vector if self._size() in (None, FULL_SIZE) else unit_vector
        self.take([pack(vector.values) for vector in found])
        return []

    def _size(self) -> Any:
        """The length of a vector that was asked for, if one was."""
        return _parameters(self.asked)[1].get("outputDimensionality")
