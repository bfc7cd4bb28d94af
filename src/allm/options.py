"""The options of a call, the same for every verb that can use them; typed for editors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypedDict

from allm.data.content import ToolCall
from allm.data.events import Event
from allm.data.failure import ErrorInfo
from allm.data.responses import StepResult
from allm.errors import UnknownOptionError, ValidationError
from allm.limits import Limits, Timeouts
from allm.retry import RetryPolicy

if TYPE_CHECKING:
    from allm.budget import Budget
    from allm.prices import Price

ToolErrorPolicy = Literal["continue", "halt"] | Callable[[ToolCall, ErrorInfo], Any]


class CallOptions(TypedDict, total=False):
    """Every option is optional. Durations are seconds.

    Sent to the model: `model` to `options`. `on_unsupported`: what the model cannot take is adapted with
    a warning, refused, or passed on. `orphans`: calls without a result are answered or refused. The
    loop: `mode` (`auto`, `manual`), `max_turns` (8), `halt_when(step) -> bool`, `until_tool` (a chat goes on
    until the model has called the tool of that name, told so where it ends without), the tools' policies,
    `middleware` (after the engine's; see `allm.middleware`), `fallbacks` (engines or `provider:model`, asked
    where the first fails before its first content; see `allm.loops.fallbacks`), `budget` (`allm.Budget`),
    `prices` (model to `allm.Price`; over the engine's). The structured answer: `output_retries` (0)
    corrections, `structured_finalize` in a pass of its own, asked for with `structured_finalize_nudge`; see
    `allm.loops.structured`. The view: `emit_*`, `include_raw_chunks`, `on_event`.
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
    until_tool: str | None
    on_tool_error: ToolErrorPolicy
    tool_timeout: float | None
    max_concurrency: int | None
    tool_executor: Any
    tool_result_encoder: Any
    middleware: Iterable[Any]
    fallbacks: Iterable[Any] | None
    budget: Budget | None
    prices: Mapping[str, Price]
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
    "structured_finalize_nudge", "output_retries", "until_tool",
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


def listed(value: Any) -> bool:
    """Whether it is several of something, and no text or map."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


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
    prices: Mapping[str, Price]
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


IMAGE_NAMES = tuple(ImageOptions.__annotations__)
EMBED_NAMES = tuple(EmbedOptions.__annotations__)


class Kind(NamedTuple):
    """What an option takes: a test of its value, and the words that an error says it with."""

    fits: Callable[[Any], bool]
    words: str


def check_kinds(given: Mapping[str, Any], kinds: Mapping[str, Kind], place: str = "") -> None:
    """Raise one `ValidationError` with every value that its option does not take.

    `place` goes before the names. Fields of the request are not here: they are validated with it.
    """
    problems = [
        (f"{place}{name}", f"must_be_{kind.words}: not {_shown(value)}")
        for name, value in given.items()
        if (kind := kinds.get(name)) is not None and not kind.fits(value)
    ]
    if problems:
        raise ValidationError.of("invalid option", *problems)


_SHORT: Final = 20  # characters; a key in the wrong place is longer


def _shown(value: Any) -> str:
    """The kind of a value, and the value itself where it is small."""
    if value is None or isinstance(value, type):
        return repr(value)
    small = isinstance(value, int | float) or (isinstance(value, str) and len(value) <= _SHORT)
    return f"{type(value).__name__} {value!r}" if small else type(value).__name__


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types)


def _optional(kind: Kind) -> Kind:
    return Kind(lambda value: value is None or kind.fits(value), f"{kind.words}_or_None")


def _words(*words: str) -> Kind:
    listed = f"{'_'.join(words[:-1])}_or_{words[-1]}"
    return Kind(lambda value: isinstance(value, str) and value in words, listed)


def _seconds(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and isfinite(value) and value > 0


def _plain(value: Any) -> bool:
    """A function whose answer needs no awaiting."""
    if not callable(value):
        return False
    from allm.tools import is_async

    return not is_async(value)


def _plain_of(count: int) -> Callable[[Any], bool]:
    """A test for functions that can be called with so many values, and whose answer needs no awaiting."""

    def fits(value: Any) -> bool:
        if not _plain(value):
            return False
        from allm.arity import takes

        return takes(value, count)

    return fits


def _policy(value: Any) -> bool:
    """What `on_tool_error` may be: a word, or a plain function that takes the call and the error."""
    if isinstance(value, str):
        return value in ("continue", "halt")
    return _plain_of(2)(value)


def _budget(value: Any) -> bool:
    from allm.budget import Budget

    return isinstance(value, Budget)


def _prices(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    from allm.prices import Price

    return all(isinstance(name, str) and isinstance(price, Price) for name, price in value.items())


def _has(method: str) -> Callable[[Any], bool]:
    """Whether it is an object with that method, which a class, or text with its `encode`, is not meant as."""
    return lambda value: not isinstance(value, type | str) and callable(getattr(value, method, None))


def _encoder(value: Any) -> bool:
    """A function of what a handler returned, or an object that has one called `encode`."""
    if _has("encode")(value):
        return _plain(value.encode)
    return not isinstance(value, type) and _plain_of(1)(value)


def _transport(value: Any) -> bool:
    """A name, a transport, or what holds one for each face."""
    if value is None or isinstance(value, str):
        return True
    return _has("open")(value) or hasattr(value, "blocking") or hasattr(value, "awaited")


def _observers(value: Any) -> bool:
    """Looks into what can be looked at twice; an iterator is read later."""
    if not listed(value):
        return False
    return not isinstance(value, tuple | list) or all(map(_has("event"), value))


_TEXT = Kind(_is(str), "a_string")
_BOOL = Kind(_is(bool), "True_or_False")
_MAPPING = Kind(_is(Mapping), "a_mapping")
_COUNT = Kind(lambda value: type(value) is int and value > 0, "a_positive_integer")
_SECONDS = Kind(_seconds, "positive_seconds")
_OF_ONE = Kind(_plain_of(1), "a_plain_function_of_one_argument")

KINDS: Final[dict[str, Kind]] = {
    "tools": Kind(listed, "a_list_of_tools"),
    "stop": _optional(Kind(lambda value: isinstance(value, str) or listed(value), "a_string_or_a_list")),
    "options": _MAPPING,
    "metadata": _MAPPING,
    "adapter_options": _MAPPING,
    "context": _MAPPING,
    "on_unsupported": _words("adapt", "raise", "pass"),
    "orphans": _words("answer", "refuse"),
    "mode": _words("auto", "manual"),
    "max_turns": _COUNT,
    "structured_finalize": _optional(_BOOL),
    "structured_finalize_nudge": _optional(_TEXT),
    "output_retries": Kind(lambda value: type(value) is int and value >= 0, "an_integer_not_below_0"),
    "halt_when": _optional(_OF_ONE),
    "until_tool": _optional(_TEXT),
    "on_tool_error": Kind(_policy, "continue_halt_or_a_plain_function_of_call_and_error"),
    "tool_timeout": _optional(_SECONDS),
    "max_concurrency": _optional(_COUNT),
    "tool_executor": _optional(Kind(_has("execute"), "an_object_with_execute")),
    "tool_result_encoder": _optional(
        Kind(_encoder, "a_plain_function_of_the_result_or_an_object_with_a_plain_encode")
    ),
    "middleware": Kind(listed, "a_list_of_objects_with_hooks"),
    "fallbacks": _optional(Kind(listed, "a_list_of_engines_or_models")),
    "budget": _optional(Kind(_budget, "a_Budget")),
    "prices": Kind(_prices, "a_mapping_of_models_to_Price"),
    "session_id": _optional(_TEXT),
    "request_id": _optional(_TEXT),
    "retry": Kind(lambda value: value is None or value is False or isinstance(value, RetryPolicy),
                  "a_RetryPolicy_or_False"),
    "timeouts": _optional(Kind(_is(Timeouts), "Timeouts")),
    "limits": _optional(Kind(_is(Limits), "Limits")),
    "emit_text_deltas": _BOOL,
    "emit_tool_deltas": _BOOL,
    "include_raw_chunks": _BOOL,
    "on_event": _optional(_OF_ONE),
    "observers": Kind(_observers, "a_list_of_objects_with_event"),
    "raise_on_error": _BOOL,
    "concurrency": _COUNT,
}  # fmt: skip
"""What the options of calls take, and those of engines and applications that are called the same."""

ENGINE_KINDS: Final[dict[str, Kind]] = {
    **KINDS,
    "params": _MAPPING,
    "base_url": _optional(_TEXT),
    "system": _optional(_TEXT),
    "id": _TEXT,
    "trusted": _BOOL,
    "on_unsupported": _optional(KINDS["on_unsupported"]),
    "orphans": _optional(KINDS["orphans"]),
    "transport": Kind(_transport, "a_name_or_an_object_with_open"),
}

APPLICATION_KINDS: Final[dict[str, Kind]] = {
    **ENGINE_KINDS,
    "keys": _optional(_MAPPING),
    "key_source": _optional(Kind(callable, "a_function_of_provider_and_origin")),
    "env_file": _optional(_TEXT),
}
