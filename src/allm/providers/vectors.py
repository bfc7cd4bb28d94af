"""What the embedding adapters share: the checks before a request, and the vectors of an answer.

A vector is read from its own piece of the answer and packed at once, so that the numbers of one vector
at a time are Python objects. Nothing here knows a provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, isfinite
from struct import pack, unpack
from typing import Any, Final

import msgspec

from allm.data.events import Event, UsageReported
from allm.data.media import EmbeddingRequest, EmbeddingResponse, MediaCompleted
from allm.data.requests import Request
from allm.data.responses import Usage
from allm.errors import ValidationError
from allm.providers.decoding import Turn, builtins, excerpt
from allm.providers.refusals import Refusal, read_refusal

TASK_TYPES: Final = ("search_document", "search_query", "classification", "clustering", "similarity")

_NUMBERS = msgspec.json.Decoder(list[float] | bytes)  # text is read as base64


def check_input(request: EmbeddingRequest, name: str, max_batch: int) -> None:
    """Raises `ValidationError` for a request that no server of `name` could answer."""
    count = len(request.input)
    if not count:
        raise ValidationError.of("there is nothing to embed", ("input", "empty"))
    if count > max_batch:
        text = f"{name} takes {max_batch} inputs a request, not {count}: allm.embed sends them in chunks"
        raise ValidationError.of(text, ("input", "batch_too_large"))
    if request.task_type is not None and request.task_type not in TASK_TYPES:
        text = f"no task type {request.task_type!r}; known: {', '.join(TASK_TYPES)}"
        raise ValidationError.of(text, ("task_type", "unknown"))


def packed_vector(data: msgspec.Raw) -> bytes:
    """A vector as little-endian float32, from a JSON list of numbers or from base64 of just that.

    Raises `ValueError` for anything else, and for numbers that are not finite.
    """
    numbers: list[float] | bytes = _NUMBERS.decode(data)
    if isinstance(numbers, list):
        return packed_numbers(numbers)
    if len(numbers) % 4 or not isfinite(sum(unpack(f"<{len(numbers) // 4}f", numbers))):
        raise msgspec.ValidationError("a vector that is not made of finite float32 numbers")
    return numbers


def unit_vector(data: msgspec.Raw) -> bytes:
    """`packed_vector` of a list of numbers, made one long; zeros stay what they are."""
    numbers = _NUMBERS.decode(data)
    if not isinstance(numbers, list):
        raise msgspec.ValidationError("a vector that is not a list of numbers")
    length = hypot(*numbers)
    return packed_numbers([number / length for number in numbers] if length else numbers)


def packed_numbers(numbers: Sequence[float]) -> bytes:
    """Numbers as little-endian float32. Raises `ValueError` for what float32 cannot hold."""
    try:
        return pack(f"<{len(numbers)}f", *numbers)
    except OverflowError:
        raise msgspec.ValidationError("a number that float32 cannot hold") from None


class EmbeddingTurn(Turn):
    """The answer to one embedding request: one JSON body.

    A dialect implements `read_whole`, which calls `take` with the packed vectors in the order of the
    input, or `refused`.
    """

    def __init__(self, provider: str, request: EmbeddingRequest) -> None:
        super().__init__(provider, Request(model=request.model))
        self.asked = request
        self.usage: Usage | None = None
        self._data = b""
        self._dimensions = 0

    def take(self, vectors: Sequence[bytes]) -> None:
        """Raises `ValueError` where the vectors are not one an input, of the same length."""
        if len(vectors) != len(self.asked.input):
            raise msgspec.ValidationError(f"{len(vectors)} vectors for {len(self.asked.input)} inputs")
        sizes = {len(vector) // 4 for vector in vectors}
        if 0 in sizes or len(sizes) != 1:
            raise msgspec.ValidationError(f"vectors of {', '.join(map(str, sorted(sizes)))} numbers")
        self._data, self._dimensions = b"".join(vectors), sizes.pop()

    def refused(self, data: bytes) -> None:
        """The answer holds no vectors: the error that it holds instead becomes the failure."""
        text = f"an answer without vectors: {excerpt(data)}"
        refusal = read_refusal(builtins(data))
        self.failure = refusal if refusal.message else Refusal(text, reason="malformed_response")

    def read(self, name: str | None, data: bytes) -> list[Event]:
        raise msgspec.ValidationError(f"an embedding answer is no stream: {excerpt(data)}")

    def missing(self, marked: bool) -> str:
        return "a stream without vectors"

    def reported(self) -> list[UsageReported]:
        return [] if self.usage is None else [UsageReported(self.usage)]

    def complete(self, request_id: str | None) -> list[Any]:
        response = EmbeddingResponse(
            data=self._data,
            dimensions=self._dimensions,
            request_id=request_id,
            provider=self.provider,
            model=self.model or self.asked.model,
            usage=self.usage,
            metadata=self.asked.metadata,
        )
        return [*self.reported(), MediaCompleted(response)]
