"""Embeddings by the provider `local`: a GGUF model that llama.cpp runs in this process.

`Engine(embed_adapter="local:/path/to/model.gguf")` is for embedding models. `local` alone takes the
default weights, which are a chat model: the mean of its last layer puts texts that say the same nearer to
one another than texts that do not, but all of them close together (cosines of 0.7 to 0.95). It is good
for trying things out without a key, not for search over many texts.
"""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any, Final

from allm.data.failure import ErrorInfo
from allm.data.media import EmbeddingRequest, EmbeddingResponse
from allm.data.responses import Usage
from allm.errors import AllmError, UnsupportedError, raised
from allm.ext import local
from allm.ports import CallContext
from allm.providers.vectors import check_input

CONTEXT_SIZE: Final = 512
"""Tokens of one text, which is worked on as a whole: 512 take 0.2 GB beside the default weights, 2048
take 0.8 GB."""


class LocalEmbeddings:
    """An in-process adapter. `request.model` is empty for the default weights, else the path of a .gguf.

    Vectors have length 1. They are pooled as the model's file says, else by their mean.
    `adapter_options`: `threads` (default 1) and `context_size` (default 512); others are ignored, they
    may be those of the chat adapter. Set-up mistakes are `ConfigurationError`, a text that is too long is
    `ContextLengthError`.
    """

    name = "local"
    max_batch = 64

    def complete(self, request: EmbeddingRequest, ctx: CallContext) -> EmbeddingResponse:
        """All vectors. `ctx.cancelled()` is asked between two texts."""
        check_input(request, self.name, self.max_batch)
        if request.dimensions is not None:
            text = "the vectors of a local model have one length"
            raise UnsupportedError.of(text, ("dimensions", "not_supported_by_the_model"))
        try:
            return _embedded(request, _options(ctx), ctx)
        except local.Cancelled:
            raise raised(ErrorInfo(reason="cancelled", message="cancelled", provider="local")) from None


def _options(ctx: CallContext) -> local.Options:
    given = {name: ctx.adapter_options[name] for name in local.Options._fields if name in ctx.adapter_options}
    return local.Options.read({"context_size": CONTEXT_SIZE, **given})


def _embedded(request: EmbeddingRequest, options: local.Options, ctx: CallContext) -> EmbeddingResponse:
    def go_on(*progress: Any) -> None:
        if ctx.cancelled():
            raise local.Cancelled

    path, name = local.model_file(request.model, go_on)
    model = local.load(path, options, _serve)
    model.acquire(ctx.cancelled)
    vectors: list[bytes] = []
    tokens = 0
    try:
        for index, text in enumerate(request.input):
            go_on()
            answer = model.server.handle_embeddings({"input": text, "encoding_format": "base64"})
            if "error" in answer:
                raise _refused(answer["error"]["message"], f"input[{index}]", name, options)
            vectors.append(b64decode(answer["data"][0]["embedding"]))
            tokens += answer["usage"]["prompt_tokens"]
    finally:
        model.release()
    return EmbeddingResponse(
        data=b"".join(vectors),
        dimensions=len(vectors[0]) // 4,
        provider="local",
        model=name,
        usage=Usage(input_tokens=tokens, total_tokens=tokens),
        warnings=_left_out(request),
        metadata=request.metadata,
    )


def _left_out(request: EmbeddingRequest) -> tuple[str, ...]:
    """What the request asks for and does not get."""
    warnings = []
    if request.task_type is not None:
        warnings.append("task_type has no effect on a local model")
    if request.truncate:
        warnings.append("truncate has no effect on a local model: it refuses what is too long")
    return tuple(warnings)


def _refused(message: str, place: str, model: str, options: local.Options) -> AllmError:
    """The exception for what the server says of the text at `place`."""
    reason = "provider_error"
    if "too large to process" in message:
        reason = "context_length_exceeded"
        message = (
            f"longer than {options.context_size} tokens: adapter_options={{'context_size': ...}} allows more"
        )
    return raised(ErrorInfo(reason=reason, message=f"{place}: {message}", provider="local", model=model))


def _serve(path: Path, options: local.Options) -> Any:
    """A server for embeddings; where the file names no pooling, one that takes the mean."""
    pooling = local.runtime().llama_pooling_type
    server = _started(path, options, pooling.LLAMA_POOLING_TYPE_UNSPECIFIED)
    if "error" in server.handle_embeddings({"input": "."}):
        server = _started(path, options, pooling.LLAMA_POOLING_TYPE_MEAN)
    return server


def _started(path: Path, options: local.Options, pooling: Any) -> Any:
    params = local.parameters(path, options)
    params.embedding = True
    params.pooling_type = pooling
    params.n_batch = params.n_ubatch = options.context_size
    params.cache_ram_mib = 0
    return local.started(params)
