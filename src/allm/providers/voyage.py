"""Voyage AI, which does embeddings only: requests, refusals, answers (of OpenAI's form).

Facts: API reference and recorded traffic, read in November 2026.
"""

from __future__ import annotations

from typing import Any, Final

from allm.data.media import EmbeddingRequest
from allm.ports import CallContext, Decoder, HttpHead, HttpRequest, KeyRule
from allm.providers.decoding import AnswerDecoder
from allm.providers.encoding import HttpAdapter, body_of, headers_of, merge_options
from allm.providers.openai import api_url
from allm.providers.openai.embeddings import PATH, VectorsByIndex
from allm.providers.vectors import check_input

VOYAGE_URL: Final = "https://api.voyageai.com/v1"
VOYAGE_KEY: Final = KeyRule("voyage", ("VOYAGE_API_KEY",))

_INPUT_TYPES: Final = {"search_document": "document", "search_query": "query"}


class VoyageEmbeddings(HttpAdapter):
    """The adapter. Immutable; one serves any number of calls on any number of threads.

    Vectors of another type than float32 (`options={"output_dtype": "int8"}`) come as numbers: as base64
    nothing tells their bytes from those of floats.
    """

    name = "voyage"
    base_url = VOYAGE_URL
    key = VOYAGE_KEY
    max_batch = 1000

    def encode(self, request: EmbeddingRequest, ctx: CallContext) -> HttpRequest:
        """The request to send. Raises `ValidationError` for what the server could not answer."""
        check_input(request, self.name, self.max_batch)
        warnings = []
        body: dict[str, Any] = {"model": request.model, "input": request.input}
        if request.task_type in _INPUT_TYPES:
            body["input_type"] = _INPUT_TYPES[request.task_type]
        elif request.task_type is not None:
            warnings.append(
                f"the task type {request.task_type} is not sent: Voyage knows queries and documents"
            )
        if request.truncate is not None:
            body["truncation"] = request.truncate
        if request.dimensions is not None:
            body["output_dimension"] = request.dimensions
        if request.options.get("output_dtype") in (None, "float"):
            body["encoding_format"] = "base64"
        merge_options(body, request.options)
        url = api_url(self.name, ctx, self.base_url, PATH)
        headers = headers_of(ctx.adapter_options, False, {})
        return HttpRequest(url, body_of(body), headers, self.key, warnings=tuple(warnings))

    def decoder(self, request: EmbeddingRequest, head: HttpHead, ctx: CallContext) -> Decoder:
        return AnswerDecoder(VectorsByIndex(self.name, request), head, ctx.limits)
