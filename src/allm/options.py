"""The options of a call, the same for every verb that can use them; typed for editors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from allm.data.content import ToolCall
from allm.data.events import Event
from allm.data.failure import ErrorInfo
from allm.data.responses import StepResult
from allm.errors import UnknownOptionError
from allm.limits import Limits, Timeouts
from allm.retry import RetryPolicy

if TYPE_CHECKING:
    from allm.budget import Budget

ToolErrorPolicy = Literal["continue", "halt"] | Callable[[ToolCall, ErrorInfo], Any]


class CallOptions(TypedDict, total=False):
    """Every option is optional. Durations are seconds.

    Sent to the model: `model` to `options`. `on_unsupported`: what the model cannot take is adapted with
    a warning, refused, or passed on. `orphans`: calls without a result are answered or refused. The
    loop: `mode` (`auto`, `manual`), `max_turns` (8), `halt_when(step) -> bool`, the tools' policies,
    `middleware` (after the engine's; see `allm.middleware`), `fallbacks` (engines or `provider:model`, asked
    where the first fails before its first content; see `allm.loops.fallbacks`), `budget` (`allm.Budget`). The
    structured answer: `output_retries` (0) corrections, `structured_finalize` in a pass of its own, asked for
    with `structured_finalize_nudge`; see `allm.loops.structured`. The view: `emit_*`, `include_raw_chunks`,
    `on_event`.
    """

    model: Any
    api_key: Any
    system: str | None
    tools: Iterable[Any]
    tool_choice: str | dict[str, Any] | None
    parallel_tool_calls: bool | None
    response_format: Any
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    stop: str | Iterable[str] | None
    seed: int | None
    reasoning: str | dict[str, Any] | None
    prompt_cache: str | dict[str, Any] | None
    options: Mapping[str, Any]
    metadata: Mapping[str, Any]
    adapter_options: Mapping[str, Any]
    on_unsupported: Literal["adapt", "raise", "pass"]
    orphans: Literal["answer", "refuse"]
    mode: Literal["auto", "manual"]
    max_turns: int
    structured_finalize: bool | None
    structured_finalize_nudge: str | None
    output_retries: int
    halt_when: Callable[[StepResult], bool]
    on_tool_error: ToolErrorPolicy
    tool_timeout: float | None
    max_concurrency: int | None
    tool_executor: Any
    tool_result_encoder: Any
    middleware: Iterable[Any]
    fallbacks: Iterable[Any] | None
    budget: Budget | None
    context: Mapping[str, Any]
    session_id: str | None
    request_id: str | None
    retry: RetryPolicy | Literal[False] | None
    timeouts: Timeouts
    limits: Limits
    emit_text_deltas: bool
    emit_tool_deltas: bool
    include_raw_chunks: bool
    on_event: Callable[[Event], object] | None
    observers: Iterable[Any]
    raise_on_error: bool


NAMES = tuple(CallOptions.__annotations__)

REQUEST_FIELDS = (
    "system", "tool_choice", "parallel_tool_calls", "response_format", "temperature", "top_p",
    "max_tokens", "stop", "seed", "reasoning", "prompt_cache", "options", "metadata",
)  # fmt: skip
"""The options that become fields of the `Request`; engine `params` may hold them too."""

LOOP_PARAMS = (
    "on_unsupported", "orphans", "mode", "max_turns", "on_tool_error", "tool_timeout", "max_concurrency",
    "emit_text_deltas", "emit_tool_deltas", "include_raw_chunks", "raise_on_error", "structured_finalize",
    "structured_finalize_nudge", "output_retries",
)  # fmt: skip
"""The options of the loop that engine `params` and application defaults may hold."""


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise `UnknownOptionError` for the first name that is not known, with the nearest right one."""
    known = tuple(known)
    for name in given:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise UnknownOptionError(f"unknown {what} {name!r}; {hint}")


class _MediaOptions(TypedDict, total=False):
    model: Any
    api_key: Any
    options: Mapping[str, Any]
    metadata: Mapping[str, Any]
    adapter_options: Mapping[str, Any]
    request_id: str | None
    retry: RetryPolicy | Literal[False] | None
    timeouts: Timeouts
    limits: Limits
    on_event: Callable[[Any], object] | None
    observers: Iterable[Any]
    raise_on_error: bool


class ImageOptions(_MediaOptions, total=False):
    """Options of the image verbs. `size` is `auto`, `1024x1024` and the like; `options` go into the body
    of the request last."""

    n: int
    size: str | None
    quality: str | None
    style: str | None
    background: str | None
    response_format: str


class EmbedOptions(_MediaOptions, total=False):
    """Options of `embed`. `concurrency`: how many requests at a time, where the input needs several."""

    dimensions: int | None
    task_type: str | None
    truncate: bool | None
    concurrency: int


IMAGE_NAMES = (*_MediaOptions.__annotations__, *ImageOptions.__annotations__)
EMBED_NAMES = (*_MediaOptions.__annotations__, *EmbedOptions.__annotations__)
