"""The scripted provider of embeddings: no network, and without a script no need of one.

`adapter_options={"embedding_script": [{"vectors": [[0.6, 0.8]]}, {"error": "rate_limited"}]}` plays one
entry a request. `vectors` holds one vector an input; `error` is a reason word or fields of `ErrorInfo`.
Without a script each text gets a small vector of length 1, made of its hash: the same text, the same
vector, and no meaning.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from hashlib import shake_256
from math import hypot
from typing import Any, Final

from allm.data.failure import ErrorInfo
from allm.data.media import EmbeddingRequest, EmbeddingResponse, packed
from allm.data.responses import Usage
from allm.errors import ConfigurationError, raised
from allm.ports import CallContext
from allm.providers.fake import error_of
from allm.providers.vectors import check_input

DIMENSIONS: Final = 8  # of a vector that is not scripted, where none are asked for
ENTRIES: Final = ("vectors", "error")


class FakeEmbeddings:
    """Plays a script. `requests` records what was asked; `assert_exhausted` is the strict mode."""

    name = "fake"

    def __init__(self, script: list[dict[str, Any]] | None = None, max_batch: int = 100) -> None:
        self.script = script
        self.max_batch = max_batch
        self.requests: list[EmbeddingRequest] = []
        self.position = 0
        self._lock = threading.Lock()

    def complete(self, request: EmbeddingRequest, ctx: CallContext) -> EmbeddingResponse:
        """The next entry of the script, or the exception of its error."""
        check_input(request, self.name, self.max_batch)
        entry = self._next(request, self._script(ctx.adapter_options))
        if entry is None:
            vectors = [hashed(text, request.dimensions or DIMENSIONS) for text in request.input]
        elif "error" in entry:
            raise raised(error_of(entry["error"]))
        else:
            vectors = entry["vectors"]
        tokens = sum(len(text.split()) for text in request.input)
        return EmbeddingResponse(
            data=packed(vectors),
            dimensions=len(vectors[0]) if vectors else 0,
            provider=self.name,
            model=request.model,
            usage=Usage(input_tokens=tokens, total_tokens=tokens),
            metadata=request.metadata,
        )

    def _next(self, request: EmbeddingRequest, script: list[dict[str, Any]] | None) -> dict[str, Any] | None:
        with self._lock:
            self.requests.append(request)
            self.position += 1
            if script is None:
                return None
            if self.position <= len(script):
                return script[self.position - 1]
        text = f"the fake has no embeddings for request {self.position}; it was given {len(script)}"
        raise raised(
            ErrorInfo(
                reason="invalid_request", code="no_scripted_embedding", message=text, provider=self.name
            )
        )

    def assert_exhausted(self, adapter_options: Mapping[str, Any] | None = None) -> None:
        """Raise where entries are left over: what was not played was not asked for."""
        script = self._script(adapter_options or {}) or []
        left = len(script) - self.position
        if left > 0:
            raise ConfigurationError(f"{left} of {len(script)} entries of the fake were not played")

    def _script(self, options: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        return _checked(options.get("embedding_script") if self.script is None else self.script)


def _checked(script: Any) -> list[dict[str, Any]] | None:
    """Raises `ConfigurationError` for a malformed script."""
    for entry in script or ():
        if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in ENTRIES:
            text = f"the fake's entry {entry!r} is not a dict with one of {', '.join(ENTRIES)}"
            raise ConfigurationError(text)
        if len({len(vector) for vector in entry.get("vectors", ())}) > 1:
            raise ConfigurationError(f"the fake's entry {entry!r} has vectors of different lengths")
    return None if script is None else list(script)


def hashed(text: str, dimensions: int) -> list[float]:
    """A vector of length 1 that depends on the text alone."""
    numbers = [byte - 127.5 for byte in shake_256(text.encode()).digest(dimensions)]
    length = hypot(*numbers)
    return [number / length for number in numbers]
