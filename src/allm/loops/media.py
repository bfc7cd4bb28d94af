"""Images and embeddings as sans-IO generators: one exchange, or many chunks merged in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from allm import providers
from allm.data.content import Image
from allm.data.events import RawChunk, StreamFailed, UsageReported
from allm.data.failure import ErrorInfo
from allm.data.media import (
    EmbeddingRequest,
    EmbeddingResponse,
    ImageRequest,
    ImageResponse,
    MediaCompleted,
    MediaProgress,
)
from allm.data.messages import Thread
from allm.data.requests import ModelRef, Request
from allm.data.responses import Usage
from allm.engine import Engine, model_text
from allm.errors import AllmError, ConfigurationError, ValidationError, raised
from allm.keys import KeyRing
from allm.loops.effects import CloseBody, NewId, NextRun, StartRun, ask
from allm.loops.exchange import cut_short, guarded, retried, source_of
from allm.loops.plan import Plan, check_engine, first_given, key_ring, playing, settle, view_of
from allm.options import EMBED_NAMES, IMAGE_NAMES, KINDS, check_kinds, check_names, listed
from allm.ports import KeyRule
from allm.validation import validate

T = TypeVar("T")
Asked = TypeVar("Asked", bound=ImageRequest | EmbeddingRequest)

MediaResponse = ImageResponse | EmbeddingResponse
MediaLoop = Generator[Any, Any, T]
"""A loop whose events are those of `allm.data.media`, too."""

_SLOTS: Final = {"image": "image_adapter", "embedding": "embed_adapter"}
_EXAMPLES: Final = {"image": "openai:gpt-image-2", "embedding": "openai:text-embedding-3-small"}
_NAMES: Final = {"image": IMAGE_NAMES, "embedding": EMBED_NAMES}


def media_plan(
    kind: str,
    engine: Engine,
    request: ImageRequest | EmbeddingRequest,
    options: Mapping[str, Any],
    *,
    load: Callable[[ImageRequest], ImageRequest] | None = None,
) -> tuple[Plan, KeyRing]:
    """Check everything that can be checked before anything is sent. `kind` is `image` or `embedding`.

    Order: the engine's slot, the options, the request, what the adapter refuses, the key. `load` reads the
    files that an image request refers to.
    """
    check_engine(engine)
    slot = getattr(engine, _SLOTS[kind])
    if slot is None:
        text = f"no {_SLOTS[kind]}: Engine(..., {_SLOTS[kind]}={_EXAMPLES[kind]!r})"
        raise ConfigurationError(text)
    check_names(options, _NAMES[kind], "option")
    check_kinds(options, KINDS)
    model_text(options.get("model"))
    adapter, ref = _placed(kind, engine, slot, options.get("model") or request.model)
    request = _filled(request, options, ref)
    validate(request)
    if load is not None and isinstance(request, ImageRequest):
        request = load(request)
    shown = {"include_raw_chunks": True, "raise_on_error": options.get("raise_on_error", True)}
    plan = Plan(
        request=Request(model=request.model),
        media=request,
        base=Thread(),
        tools={},
        view=view_of(engine, options, shown),
        max_concurrency=options.get("concurrency", 1),
        **settle(engine, adapter, ref, options),
    )
    return plan, key_ring(engine, options, _key_rule(plan))


def _filled(request: Asked, options: Mapping[str, Any], ref: ModelRef) -> Asked:
    """The request with what the options say, over what it says itself; maps are joined."""
    fields = {name: options[name] for name in request.__struct_fields__ if name in options}
    for name in ("options", "metadata"):
        if name in fields:
            fields[name] = {**getattr(request, name), **fields[name]}
    return replace(request, **{**fields, "model": ref.id or None})


def _key_rule(plan: Plan) -> KeyRule | None:
    """The rule of the key that the first request needs; what the adapter refuses raises before that."""
    first, adapter = plan.media, plan.adapter
    if not hasattr(adapter, "encode"):
        return getattr(adapter, "key", None)
    if isinstance(first, EmbeddingRequest):
        first = replace(first, input=first.input[: _size(adapter)])
    rule: KeyRule | None = adapter.encode(first, plan.ctx).key
    return rule


def _placed(kind: str, engine: Engine, slot: Any, model: Any) -> tuple[Any, ModelRef]:
    """Adapter and model: the slot is a provider's name, `provider:model`, or an adapter."""
    if isinstance(slot, str):
        name, _, own = slot.partition(":")
        name, own = providers.split_model(name, own)
        resolve = providers.resolve_image if kind == "image" else providers.resolve_embedding
        adapter = playing((kind, engine.id), lambda: resolve(name)) if name == "fake" else resolve(name)
    else:
        adapter, own = slot, str(getattr(slot, "model", ""))
        name = str(getattr(slot, "name", type(slot).__name__))
    ref = ModelRef.parse(model, name) if model is not None else ModelRef(name, own)
    return adapter, ref


def _size(adapter: Any) -> int:
    """How many inputs an embedding adapter takes at once."""
    return int(getattr(adapter, "max_batch", 0)) or 100


def _unfolded(result: MediaResponse) -> list[Any]:
    """The events of an answer that came whole."""
    return [MediaCompleted(result)]


class MediaFold:
    """The events of an image or embedding call into its response."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.error: ErrorInfo | None = None
        self.usage: Usage | None = None
        self.images: list[Image] = []  # finished ones
        self.preview: list[Image] = []  # of the next one, the latest
        self.chunks: dict[int, EmbeddingResponse] = {}
        self.ended: MediaResponse | None = None

    def add(self, event: Any) -> None:
        kind = type(event)
        if kind is MediaProgress and event.part is not None:
            self._image(event.done, event.part.image)
        elif kind is MediaCompleted:
            self.ended = event.result
        elif kind is UsageReported:
            self.usage = event.usage
        elif kind is StreamFailed:
            self.error = event.error

    def _image(self, done: int, image: Image) -> None:
        if done > len(self.images):
            self.images.append(image)
            self.preview = []
        else:
            self.preview = [image]

    @property
    def complete(self) -> bool:
        return self.ended is not None

    def result(self) -> MediaResponse:
        """The response; of a call that broke off, what had come."""
        if self.ended is not None:
            return self.ended
        if self.kind == "image":
            images = (*self.images, *self.preview)
            return ImageResponse(images=images, usage=self.usage, error=self.error)
        return replace(merged(self.chunks), error=self.error)


def image_run(plan: Plan, fold: MediaFold) -> MediaLoop[None]:
    """One image call as a whole run."""
    return guarded(_image(plan, fold), fold)


def embedding_run(plan: Plan, fold: MediaFold) -> MediaLoop[None]:
    """One embedding call as a whole run, in as many requests as it needs."""
    return guarded(_embedding(plan, fold), fold)


def _image(plan: Plan, fold: MediaFold) -> MediaLoop[None]:
    run_id = yield from ask(NewId())
    result = yield from _exchanged(plan, plan.media, f"{run_id}/0/image", fold)
    completed = MediaCompleted(_signed(plan, result))
    fold.add(completed)
    yield completed


def _signed(plan: Plan, result: Any) -> Any:
    usage = result.usage
    if plan.price is not None and usage is not None:
        from allm.prices import priced

        usage = priced(usage, plan.price)
    return replace(
        result,
        usage=usage,
        provider=result.provider or plan.ref.provider,
        model=result.model or plan.media.model,
        request_id=plan.request_id or result.request_id,
    )


def _exchanged(plan: Plan, request: Any, id: str, fold: MediaFold | None) -> MediaLoop[Any]:
    """The response to one request, retried; its events go to `fold` and to the user, if there is one."""
    source = source_of(plan.adapter, request, replace(plan.ctx, id=id), None, _unfolded)

    def attempt() -> MediaLoop[Any]:
        yield from source.open()
        progress = True
        while True:
            events: list[Any] | None = yield from source.more(progress)
            if events is None:
                raise raised(cut_short(plan))
            progress = bool(events)
            for event in events:
                kind = type(event)
                if kind is MediaCompleted:
                    yield from ask(CloseBody(whole=True))
                    warnings = tuple(dict.fromkeys([*source.warnings, *event.result.warnings]))
                    return replace(event.result, warnings=warnings)
                if kind is StreamFailed:
                    raise raised(event.error)
                if fold is not None:
                    source.committed = source.committed or kind is MediaProgress
                    fold.add(event)
                    if kind in (MediaProgress, RawChunk, UsageReported):
                        yield event

    return retried(plan, request.model, source, attempt)


def _embedding(plan: Plan, fold: MediaFold) -> MediaLoop[None]:
    run_id = yield from ask(NewId())
    request = plan.media
    size = _size(plan.adapter)
    chunks = [
        replace(request, input=request.input[at : at + size]) for at in range(0, len(request.input), size)
    ]
    try:
        if (plan.max_concurrency or 1) == 1:
            yield from _in_turn(plan, chunks, run_id, fold)
        else:
            yield from _side_by_side(plan, chunks, run_id, fold)
    except AllmError as error:
        done = sum(len(chunk.input) for at, chunk in enumerate(chunks) if at in fold.chunks)
        extra = {"completed_chunks": len(fold.chunks), "completed_inputs": done}
        raise raised(replace(error.info, extra={**error.info.extra, **extra})) from error
    completed = MediaCompleted(_signed(plan, merged(fold.chunks)))
    fold.add(completed)
    yield completed


def _in_turn(plan: Plan, chunks: Sequence[EmbeddingRequest], run_id: str, fold: MediaFold) -> MediaLoop[None]:
    for at, chunk in enumerate(chunks):
        yield from _kept(plan, at, chunk, (yield from _chunk(plan, chunk, run_id, at)), fold, len(chunks))


def _side_by_side(
    plan: Plan, chunks: Sequence[EmbeddingRequest], run_id: str, fold: MediaFold
) -> MediaLoop[None]:
    """At most `max_concurrency` chunks at a time. After a failure nothing new is sent, and what is under
    way is waited for: it is paid for."""
    waiting = list(range(len(chunks)))
    running = 0
    failure: BaseException | None = None
    while running or (waiting and failure is None):
        while waiting and failure is None and running < (plan.max_concurrency or 1):
            at = waiting.pop(0)
            yield from ask(StartRun(at, _chunk(plan, chunks[at], run_id, at)))
            running += 1
        done = yield from ask(NextRun())
        running -= 1
        if done.error is not None:
            failure = failure or done.error
            continue
        try:
            yield from _kept(plan, done.position, chunks[done.position], done.value, fold, len(chunks))
        except AllmError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _chunk(plan: Plan, chunk: EmbeddingRequest, run_id: str, at: int) -> MediaLoop[Any]:
    return _exchanged(plan, chunk, f"{run_id}/0/embedding/{at}", None)


def _kept(
    plan: Plan, at: int, chunk: EmbeddingRequest, answer: EmbeddingResponse, fold: MediaFold, total: int
) -> MediaLoop[None]:
    """Keep the answer to a chunk and tell of it. Raises `WireError` where it does not fit."""
    known = next(iter(fold.chunks.values()), answer)
    if len(answer) != len(chunk.input) or answer.dimensions != known.dimensions:
        text = (
            f"{len(answer)} vectors of {answer.dimensions} numbers for {len(chunk.input)} inputs"
            f" (the others have {known.dimensions})"
        )
        raise raised(
            ErrorInfo(reason="malformed_response", message=text, provider=plan.ref.provider, phase="stream")
        )
    fold.chunks[at] = answer
    event = MediaProgress(len(fold.chunks), total)
    fold.add(event)
    yield event


def merged(chunks: Mapping[int, EmbeddingResponse]) -> EmbeddingResponse:
    """Answers to chunks as one, in the order of their places; a single one is itself.

    Usage is summed; the rest is that of the first which has it.
    """
    if len(chunks) == 1:
        return next(iter(chunks.values()))
    answers = [chunks[at] for at in sorted(chunks)]
    usage: Usage | None = None
    for answer in answers:
        usage = answer.usage if usage is None else usage.plus(answer.usage)
    first = answers[0] if answers else EmbeddingResponse()
    return EmbeddingResponse(
        data=b"".join([answer.data for answer in answers]),
        dimensions=first.dimensions,
        provider=first.provider,
        model=first_given(*(answer.model for answer in answers)),
        request_id=first_given(*(answer.request_id for answer in answers)),
        usage=usage,
        warnings=tuple(dict.fromkeys([line for answer in answers for line in answer.warnings])),
        metadata={**first.metadata, "chunk_count": len(answers)} if answers else {},
    )


def image_request(operation: str, prompt: Any, images: Any = (), mask: Image | None = None) -> ImageRequest:
    """What is asked of the image verbs: a full request as it is, or one made of the arguments."""
    if isinstance(prompt, ImageRequest):
        return prompt
    if isinstance(images, Image):
        images = (images,)
    if not listed(images):
        raise ValidationError.of("the images cannot be used", ("input_images", "not_a_list"))
    return ImageRequest(operation=operation, prompt=prompt, input_images=tuple(images), mask=mask)


def embedding_request(input: Any) -> EmbeddingRequest:
    """A string, strings, or a full request."""
    if isinstance(input, EmbeddingRequest):
        return input
    if isinstance(input, str):
        return EmbeddingRequest(input=(input,))
    try:
        return EmbeddingRequest(input=tuple(input))
    except TypeError:
        problem = ("input", f"type_{type(input).__name__}")
        raise ValidationError.of("the input cannot be used", problem) from None


RUNS = {"image": image_run, "embedding": embedding_run}
