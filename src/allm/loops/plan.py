"""Engine, input and call options made into one `Plan`: what a loop needs, with precedence settled.

Precedence everywhere: call > request > engine > application defaults > library.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from allm import providers
from allm.capabilities import preflight
from allm.data.content import ImagePart
from allm.data.events import RawChunk, TextDelta, ToolCallDelta
from allm.data.messages import Message, Thread, user
from allm.data.requests import ModelRef, Request, ResponseFormat
from allm.data.responses import StepResult
from allm.engine import (
    Engine,
    adapter_name,
    adapter_options,
    application,
    as_tools,
    merge_tools,
    model_text,
    reference,
)
from allm.errors import ConfigurationError, ValidationError
from allm.keys import UNSET, KeyRing
from allm.limits import Limits, Timeouts
from allm.options import (
    KINDS,
    LOOP_PARAMS,
    NAMES,
    REQUEST_FIELDS,
    ToolErrorPolicy,
    check_kinds,
    check_names,
)
from allm.ports import CallContext, HttpRequest, KeyRule
from allm.retry import NO_RETRY, RetryPolicy
from allm.validation import instead, validate

if TYPE_CHECKING:
    from allm.budget import Budget
    from allm.data.sessions import Progress
    from allm.prices import Price
    from allm.tools import Tool


class View(Struct, frozen=True):
    """What of a run's events is shown; never changes the result."""

    emit_text_deltas: bool = True
    emit_tool_deltas: bool = True
    include_raw_chunks: bool = False
    on_event: Callable[..., Any] | None = None
    observers: tuple[Any, ...] = ()
    raise_on_error: bool = True

    @property
    def hidden(self) -> frozenset[type[Any]]:
        """The kinds of events that are not shown."""
        return _hidden(self.emit_text_deltas, self.emit_tool_deltas, self.include_raw_chunks)


@lru_cache
def _hidden(text: bool, tools: bool, raw: bool) -> frozenset[type[Any]]:
    shown: dict[type[Any], bool] = {TextDelta: text, ToolCallDelta: tools, RawChunk: raw}
    return frozenset([kind for kind, wanted in shown.items() if not wanted])


_VIEW = frozenset(View.__struct_fields__)
_NOTHING_SAID: Final = Thread()
_OF_A_RUN: Final = frozenset({"api_key", "context", "session_id"})  # options that decide nothing else


class Encoded:
    """A request that is encoded already. It is taken once, so that a large body is not kept while its answer
    comes."""

    __slots__ = ("_http",)

    def __init__(self, http: HttpRequest) -> None:
        self._http: HttpRequest | None = http

    def take(self) -> HttpRequest | None:
        http, self._http = self._http, None
        return http


class Plan(Struct, frozen=True, kw_only=True):
    """One run, decided. `request` is the template of every model call; `base` the thread it starts with;
    `media` is what an image or embedding call asks for. `fallbacks` are the same for other engines, `route`
    is the place among them (0: the first); `meter` is the run's account, made when it begins.

    Holds no key: the ring is beside it, for the driver.
    """

    engine: Engine
    adapter: Any
    ref: ModelRef
    request: Request
    base: Thread
    tools: dict[str, Tool]
    ctx: CallContext
    retry: RetryPolicy
    timeouts: Timeouts
    limits: Limits
    view: View
    mode: str = "auto"
    max_turns: int = 8
    halt_when: Callable[[StepResult], bool] | None = None
    until_tool: str | None = None
    on_tool_error: ToolErrorPolicy = "continue"
    tool_timeout: float | None = 30.0
    max_concurrency: int | None = None
    tool_executor: Any = None
    tool_result_encoder: Any = None
    context: dict[str, Any] = {}
    session_id: str | None = None
    request_id: str | None = None
    revision: int = 0
    progress: Progress | None = None  # where a run that was cut goes on
    halted: str | None = None  # of a second pass: what the first halted with
    media: Any = None
    on_unsupported: str = "adapt"
    middleware: tuple[Any, ...] = ()
    fallbacks: tuple[Plan, ...] = ()
    route: int = 0
    budget: Budget | None = None
    meter: Any = None
    price: Price | None = None  # of the model, where it is known
    output: Any = None  # what the answer must be (`allm.loops.structured.Output`)
    warnings: tuple[str, ...] = ()  # what was adapted to the model; they go onto each response
    first: Encoded | None = None  # the template, for the first model call


def make_plan(
    engine: Engine,
    input: Any,
    options: Mapping[str, Any],
    *,
    session_context: Mapping[str, Any] | None = None,
    session_id: str | None = None,
    revision: int = 0,
    progress: Progress | None = None,
    load: Callable[[Thread], Thread] | None = None,
    layer: str = "chat",
) -> tuple[Plan, KeyRing]:
    """Check everything that can be checked before anything is sent; all mistakes raise here.

    `load` reads the files that a thread refers to; asked only where there are some.
    """
    check_engine(engine)
    check_names(options, NAMES, "option")
    check_kinds(options, KINDS)
    given, base = read_input(input)
    if load is not None and _has_files(base.messages):
        base = load(base)
    plan, shape, finishing = _template(engine, *_placed(engine, given, options), given, options)
    asked = replace(plan.request, messages=_opening(base, progress).messages)
    validate(asked)
    adapter, ctx, unsupported = plan.adapter, plan.ctx, plan.on_unsupported
    request, warnings = _adapted(adapter, asked, ctx, unsupported)
    request, output = _shaped(adapter, request, ctx, layer, shape, finishing, unsupported)
    first = adapter.encode(request, ctx) if hasattr(adapter, "encode") else None  # what it refuses raises
    plan = replace(
        plan,
        request=request,
        base=base,
        first=None if first is None else Encoded(first),
        warnings=warnings if output is None else warnings + output.warnings,
        output=output,
        context={**engine.context, **(session_context or {}), **options.get("context", {})},
        session_id=options.get("session_id", session_id),
        revision=revision,
        progress=progress,
    )
    ring = key_ring(engine, options, getattr(adapter, "key", None) if first is None else first.key)
    return _with_fallbacks(plan, ring, asked, options), ring


class Template(NamedTuple):
    """What engine and options decide, whatever is asked: a plan whose request has no messages.

    `shape` is the response format as it was given, which may be a Python type, `finishing` the options of a
    structured answer.
    """

    plan: Plan
    shape: Any
    finishing: dict[str, Any]


def _template(
    engine: Engine, adapter: Any, ref: ModelRef, given: Request | None, options: Mapping[str, Any]
) -> Template:
    """What an engine decides by itself is the same for each call, and kept with it."""
    if not _OF_A_RUN.issuperset(options) or given is not None or application:
        return _decided(engine, adapter, ref, given, options)
    kept: Template | None = engine._kept
    if kept is None or kept.plan.adapter is not adapter:
        kept = _decided(engine, adapter, ref, given, options)
        engine._keep(kept)
    return kept


def _decided(
    engine: Engine, adapter: Any, ref: ModelRef, given: Request | None, options: Mapping[str, Any]
) -> Template:
    tools = {item.name: item for item in _tools(engine, given, options)}
    request, shape = _request(engine, given, ref, tools, options)
    loop = _loop_options(engine, options, tools)
    budget = _of_first("budget", engine, options)
    settled = settle(engine, adapter, ref, options, budget, loop.pop("orphans", "answer"))
    finishing = {name: loop.pop(name) for name in _OUTPUT_OPTIONS if name in loop}
    plan = Plan(
        request=request,
        base=_NOTHING_SAID,
        tools=tools,
        view=view_of(engine, options, {name: loop.pop(name) for name in _VIEW if name in loop}),
        budget=budget,
        **_hooks(engine, options),
        **settled,
        **{"tool_timeout": settled["timeouts"].tool, **loop},
    )
    return Template(plan, shape, finishing)


def _hooks(engine: Engine, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a plan that hold code of the user."""
    return {
        "tool_executor": first_given(options.get("tool_executor"), engine.tool_executor),
        "tool_result_encoder": first_given(options.get("tool_result_encoder"), engine.tool_result_encoder),
        "halt_when": options.get("halt_when"),
        "middleware": _middleware(engine, options),
    }


def check_engine(engine: Any) -> None:
    """Raise for what is no engine."""
    if not isinstance(engine, Engine):
        raise ConfigurationError(f"the first argument is the Engine, not {type(engine).__name__!r}")


def settle(
    engine: Engine,
    adapter: Any,
    ref: ModelRef,
    options: Mapping[str, Any],
    budget: Budget | None = None,
    orphans: str = "answer",
) -> dict[str, Any]:
    """The fields of a plan that every kind of call settles alike."""
    timeouts = _within_budget(policy("timeouts", engine, options), budget)
    limits = policy("limits", engine, options)
    return {
        "engine": engine,
        "adapter": adapter,
        "ref": ref,
        "ctx": call_context(engine, ref.provider, options, timeouts, limits, orphans),
        "retry": retry_policy(engine, options),
        "timeouts": timeouts,
        "limits": limits,
        "price": price(engine, options, ref),
        "request_id": options.get("request_id"),
    }


def view_of(engine: Engine, options: Mapping[str, Any], shown: Mapping[str, bool]) -> View:
    """Who looks at a run, and what is `shown`."""
    observers = (*engine.observers, *options.get("observers", ()))
    return View(on_event=options.get("on_event"), observers=observers, **shown)


def key_ring(engine: Engine, options: Mapping[str, Any], rule: KeyRule | None) -> KeyRing:
    """The keys of a call. Raises where the one that must be there is not."""
    ring = KeyRing(options.get("api_key", UNSET), trusted=engine.trusted)
    if not getattr(engine.transport, "keyless", False):
        ring.check(rule)
    return ring


def _with_fallbacks(plan: Plan, ring: KeyRing, asked: Request, options: Mapping[str, Any]) -> Plan:
    """The plan with those who are asked after it. `asked` is the request as the user meant it."""
    fallbacks = _of_first("fallbacks", plan.engine, options)
    if not fallbacks:
        return plan
    from allm.loops.fallbacks import add_fallbacks

    return add_fallbacks(plan, ring, asked, tuple(fallbacks), options)


def read_input(input: Any) -> tuple[Request | None, Thread]:
    """A string, a message, messages, a `Thread` or a `Request` as (request or None, thread)."""
    if isinstance(input, Request):
        return input, Thread(input.messages)
    if isinstance(input, Thread):
        return None, input
    if isinstance(input, str):
        return None, Thread((user(input),))
    if isinstance(input, Message):
        return None, Thread((input,))
    if isinstance(input, Iterable) and not isinstance(input, bytes | Mapping):
        messages = tuple(input)
        if all(isinstance(message, Message) for message in messages):
            return None, Thread(messages)
        wrong = next(i for i, message in enumerate(messages) if not isinstance(message, Message))
        reason = f"not_a_message_but_{type(messages[wrong]).__name__}{instead(messages[wrong])}"
        raise ValidationError.of("the input cannot be used", (f"messages[{wrong}]", reason))
    reason = f"type_{type(input).__name__}{instead(input)}"
    raise ValidationError.of("the input cannot be used", ("input", reason))


def _has_files(messages: Iterable[Message]) -> bool:
    return any(
        type(part) is ImagePart and part.image.path is not None
        for message in messages
        if type(message) is Message and type(message.content) is tuple
        for part in message.content
    )


def _adapted(
    adapter: Any, request: Request, ctx: CallContext, on_unsupported: str
) -> tuple[Request, tuple[str, ...]]:
    """The request as the model can take it, with warnings; an adapter without `target` takes anything."""
    if not hasattr(adapter, "target"):
        return request, ()
    target = adapter.target(request, ctx)
    return preflight(request, target.provider, target.endpoint, on_unsupported)


_DEFAULTS: dict[str, Any] = {"timeouts": Timeouts(), "limits": Limits(), "retry": RetryPolicy()}


def policy(name: str, engine: Engine, options: Mapping[str, Any]) -> Any:
    """`timeouts`, `limits` or `retry` of the first level that sets them."""
    default, mine = _DEFAULTS[name], getattr(engine, name)
    return first_given(options.get(name), None if mine == default else mine, application.get(name), default)


def first_given(*values: Any) -> Any:
    """The first that is not `None`."""
    for value in values:
        if value is not None:
            return value
    return None


def _placed(engine: Engine, given: Request | None, options: Mapping[str, Any]) -> tuple[Any, ModelRef]:
    """Adapter and model of the first level that names a model. A bare id belongs to the provider that
    the engine, or else a level below, names."""
    levels = (options.get("model"), given.model if given else None, engine.model, application.get("model"))
    models = [model_text(model) for model in levels if model is not None]
    adapter = engine.adapter
    if adapter is None and not (models and _provider(models[0])):
        adapter = next(filter(None, map(_provider, models)), application.get("adapter"))
    ref = _reference(models[0] if models else None, adapter)
    if adapter is not None and not isinstance(adapter, str):
        return adapter, ref
    return resolved(ref.provider, engine), ref


@lru_cache(maxsize=256)
def _provider(model: str | None) -> str:
    try:
        return ModelRef.parse(model or "").provider
    except ConfigurationError:
        return ""


def _reference(model: str | None, adapter: Any) -> ModelRef:
    """Provider and id; `compatible:groq/llama` is `groq:llama`."""
    return _read(model, adapter if adapter is None else adapter_name(adapter))


@lru_cache(maxsize=256)
def _read(model: str | None, adapter: str | None) -> ModelRef:
    ref = reference(model, adapter)
    return ModelRef(*providers.split_model(ref.provider, ref.id))


_playing: dict[tuple[str, str], Any] = {}
_MAX_PLAYING = 1024


def resolved(provider: str, engine: Engine) -> Any:
    """The adapter of that name."""
    if provider != "fake":
        return providers.resolve(provider)
    return playing(("chat", engine.id), lambda: providers.resolve(provider))


def playing(key: tuple[str, str], make: Callable[[], Any]) -> Any:
    """A fake's cursor belongs to its engine, so each engine has its own: kind of call and engine id."""
    adapter = _playing.get(key)
    if adapter is None:
        while len(_playing) >= _MAX_PLAYING:
            _playing.pop(next(iter(_playing)))
        adapter = _playing.setdefault(key, make())
    return adapter


def _tools(engine: Engine, given: Request | None, options: Mapping[str, Any]) -> tuple[Tool, ...]:
    tools = merge_tools(application.get("tools", ()), engine.tools)
    if given is not None:
        tools = merge_tools(tools, as_tools(given.tools))
    return merge_tools(tools, as_tools(options["tools"])) if "tools" in options else tools


def _request(
    engine: Engine,
    given: Request | None,
    ref: ModelRef,
    tools: Mapping[str, Tool],
    options: Mapping[str, Any],
) -> tuple[Request, Any]:
    """The request without its messages, and its response format as it was given."""
    own = {} if engine.system is None else {"system": engine.system}
    levels: tuple[Mapping[str, Any], ...] = (
        application.get("params", {}),
        own,
        engine.params,
        _stated(given),
        options,
    )
    fields: dict[str, Any] = {}
    for level in levels:
        for name, value in level.items():
            if name in _FIELDS:
                fields[name] = {**fields.get(name, {}), **value} if name in _MERGED else value
    stop = fields.get("stop")
    fields["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
    shape = fields.get("response_format")
    fields["response_format"] = response_format(shape)
    specs = tuple([item.spec for item in tools.values()])
    return Request(model=ref.id or None, tools=specs, **fields), shape


_FIELDS = frozenset(REQUEST_FIELDS)
_MERGED = ("options", "metadata")  # of all levels; of the others the last wins


def _stated(given: Request | None) -> dict[str, Any]:
    """The fields that a full request sets."""
    if given is None:
        return {}
    return {name: value for name in REQUEST_FIELDS if (value := getattr(given, name)) not in (None, {}, ())}


def response_format(value: Any) -> ResponseFormat | None:
    """`json_schema(...)`, `"json_object"`, `"text"`, a JSON-like dict, or a Python type."""
    if value is None or isinstance(value, ResponseFormat):
        return value
    if value in ("text", "json_object"):
        return ResponseFormat(value)
    if isinstance(value, Mapping):
        inner = value.get("json_schema") if isinstance(value.get("json_schema"), Mapping) else value
        if value.get("type") in ("text", "json_object"):
            return ResponseFormat(str(value["type"]))
        if value.get("type") == "json_schema" and isinstance(inner, Mapping) and "schema" in inner:
            return ResponseFormat(
                "json_schema", inner.get("name", "response"), inner["schema"], inner.get("strict", True)
            )
        raise ValidationError.of("invalid request", ("response_format", "invalid_shape"))
    if isinstance(value, str):
        raise ValidationError.of("invalid request", ("response_format", "invalid_shape"))
    from allm.schemas import schema_name, schema_of

    try:
        return ResponseFormat("json_schema", schema_name(value), schema_of(value))
    except ConfigurationError as error:
        raise ConfigurationError(f"response_format: {error.info.message}") from None


_OUTPUT_OPTIONS = ("structured_finalize", "structured_finalize_nudge", "output_retries")


def _shaped(
    adapter: Any,
    request: Request,
    ctx: CallContext,
    layer: str,
    shape: Any,
    options: Mapping[str, Any],
    on_unsupported: str,
) -> tuple[Request, Any]:
    """The request with its response format as the provider takes it, and what the answer must be."""
    if request.response_format is None and not options.get("structured_finalize"):
        return request, None
    from allm.loops.structured import shaped

    type = None if isinstance(shape, ResponseFormat | str | Mapping) else shape
    return shaped(adapter, request, ctx, layer, type, options, on_unsupported)


def call_context(
    engine: Engine,
    provider: str,
    options: Mapping[str, Any],
    timeouts: Timeouts,
    limits: Limits,
    orphans: str = "answer",
) -> CallContext:
    """Address and adapter options of a call to `provider`. A level that names another provider keeps its
    own to itself: a key must not reach a host that is not its provider's."""
    called = adapter_options(options["adapter_options"]) if "adapter_options" in options else {}
    merged, base_url = called, called.get("base_url")
    for named, address, further in (
        (_named(engine.model, engine.adapter), engine.base_url, engine.adapter_options),
        (
            _named(application.get("model"), application.get("adapter")),
            application.get("base_url"),
            application.get("adapter_options", {}),
        ),
    ):
        if named in ("", provider):
            merged = {**further, **merged} if merged else further
            base_url = first_given(base_url, address, further.get("base_url"))
    return CallContext(
        base_url=base_url, adapter_options=merged, timeouts=timeouts, limits=limits, orphans=orphans
    )


def _named(model: Any, adapter: Any) -> str:
    """The provider that a level names, or nothing."""
    if model is None and adapter is None:
        return ""
    try:
        return _reference(model, adapter).provider
    except ConfigurationError:  # a bare id: it belongs to the provider of another level
        return ""


def retry_policy(engine: Engine, options: Mapping[str, Any]) -> RetryPolicy:
    """As `policy`; `False` on any level, and `None` in the call, is a single attempt."""
    chosen = options["retry"] if "retry" in options else policy("retry", engine, {})
    return chosen or NO_RETRY


def price(engine: Engine, options: Mapping[str, Any], ref: ModelRef) -> Price | None:
    """What the model costs, as the first level says that knows it."""
    levels = (options.get("prices"), engine.prices, application.get("prices"))
    if not any(levels):
        return None
    from allm.prices import price_of

    return price_of(levels, ref)


def _of_first(name: str, engine: Engine, options: Mapping[str, Any]) -> Any:
    """`budget` or `fallbacks` of the first level that sets it; an option of the call may be `None`."""
    if name in options:
        return options[name]
    return first_given(getattr(engine, name), application.get(name))


def _within_budget(timeouts: Timeouts, budget: Budget | None) -> Timeouts:
    """The seconds of a budget are a deadline of the run, so that no wait outlasts them."""
    if budget is None or budget.seconds is None:
        return timeouts
    run = budget.seconds if timeouts.run is None else min(timeouts.run, budget.seconds)
    return replace(timeouts, run=run)


def _middleware(engine: Engine, options: Mapping[str, Any]) -> tuple[Any, ...]:
    """The application's outermost, then the engine's, then the call's."""
    stack = (*application.get("middleware", ()), *engine.middleware, *options.get("middleware", ()))
    if stack:
        from allm.middleware import check_middleware

        check_middleware(stack)
    return stack


def refitted(plan: Plan, request: Request) -> tuple[Plan, Request]:
    """A request that a hook has made, checked and made to fit like the first one; what was adapted is added
    to the plan's warnings."""
    validate(request)
    request, warnings = _adapted(plan.adapter, request, plan.ctx, plan.on_unsupported)
    return replace(plan, warnings=(*plan.warnings, *warnings)), request


_POLICIES = ("on_unsupported", "orphans")  # options of the loop that are fields of an engine too
_LOOP = frozenset(LOOP_PARAMS)


def _loop_options(engine: Engine, options: Mapping[str, Any], tools: Container[str]) -> dict[str, Any]:
    fields = {name: value for name in _POLICIES if (value := getattr(engine, name)) is not None}
    levels = (application.get("params", {}), fields, engine.params, options)
    loop = {name: value for level in levels for name, value in level.items() if name in _LOOP}
    wanted = loop.get("until_tool")
    if wanted is not None and wanted not in tools:
        raise ValidationError.of("invalid option", ("until_tool", f"unknown_tool: {wanted!r}"))
    return loop


def next_request(plan: Plan, thread: Thread) -> Request:
    """The template with the thread as it stands now: what the run began with as it was made to fit."""
    messages, opening = plan.request.messages, _opening(plan.base, plan.progress).messages
    added = thread.messages[len(opening) :]
    if not added:
        return plan.request
    return replace(plan.request, messages=thread.messages if messages is opening else (*messages, *added))


def _opening(base: Thread, progress: Progress | None) -> Thread:
    """The thread as the first turn is asked with it: what the step in progress began with is said already."""
    return base if progress is None else base.add_messages(progress.opening)
