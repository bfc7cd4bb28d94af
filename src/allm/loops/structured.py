"""Structured output in a run: how the answer is asked for, checked, mended, and asked for apart from tools.

The plan's `Output` says what the answer must be. A root that is no object goes into the property `value` of
one where the provider's API takes objects only; the response's metadata then names it under `output_root`,
which `Response.parse` and `Stream.partial` see through. A finished answer is checked against the schema as
the user gave it, or by the Python type. One that does not fit is an `OutputError` after `output_retries`
corrections: each is a message of the user's that tells the mistakes. In a chat every try is a step; in the
other verbs the turn begins anew, after a `retrying` event whose reason is `output_invalid`, and the usage is
the sum. Answers that were cut, filtered or refused are not asked for again; the text is checked only where a
run has ended with one, never where it halted for a tool or a question.

Two passes (`structured_finalize`), chats only: the run without the format, then one turn without tools and
with it, outside `max_turns`. `metadata["structured_finalize"]` has `pass_1_halted`, and `pass_2_error` where
the second request could not be made. Loaded only where a run has a response format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from allm.capabilities import Capabilities, capabilities_of
from allm.data.events import Retrying
from allm.data.messages import Message, Thread
from allm.data.requests import Request, ResponseFormat
from allm.data.responses import Response, output_error
from allm.data.sessions import Progress
from allm.errors import AllmError, OutputError, UnsupportedError, ValidationError
from allm.folds import RunFold
from allm.loops.chat import FINALIZE, RETRY, Ended, of_turn, turns
from allm.loops.effects import Loop
from allm.loops.plan import Plan, next_request
from allm.ports import CallContext
from allm.schemas import Problem, answer_value, convert, in_object, is_object, problems, unknown_keywords

NUDGE: Final = "Now give the final answer of this conversation, in the required structure."
ROOT: Final = "value"
_OBJECTS_ONLY: Final = ("chat", "responses")  # endpoints whose structured output is an object
_BROKEN_OFF: Final = ("length", "content_filter", "paused", "error", "cancelled")
_SECOND_PASS_AFTER: Final = ("completed", "max_turns", "halt_when")

Turn = Callable[..., Loop[Response]]


class Output(Struct, frozen=True, kw_only=True):
    """What the answer of a run must be: of the Python `type`, where there is one, else of `schema`.

    `root`: the property that the value was asked for in. `finalize`: in a pass of its own, whose template
    is `final`. `nudge`: the message that asks for it; none where empty.
    """

    schema: dict[str, Any]
    final: Request
    type: Any = None
    root: str | None = None
    retries: int = 0
    finalize: bool = False
    nudge: str = NUDGE
    warnings: tuple[str, ...] = ()


# Before the run


def shaped(
    adapter: Any,
    request: Request,
    ctx: CallContext,
    layer: str,
    type: Any,
    options: Mapping[str, Any],
    on_unsupported: str,
) -> tuple[Request, Output | None]:
    """The template of a run's requests, and what their answer must be.

    `type` is the Python type that the format was made of, `options` the `structured_finalize`,
    `structured_finalize_nudge` and `output_retries` that were given. Raises `ValidationError` for a wrong
    one, `UnsupportedError` where tools and schema exclude each other and there is no second pass.
    """
    wanted = request.response_format or ResponseFormat()
    retries = options.get("output_retries") or 0
    if options.get("structured_finalize") and wanted.type != "json_schema":
        raise ValidationError.of("invalid request", ("structured_finalize", "requires_json_schema"))
    if wanted.type == "text":
        return request, None
    known, objects_only = _known(adapter, request, ctx)
    finalize = layer == "chat" and _apart(adapter, request, known, options.get("structured_finalize"))
    if known.tools_with_schema is False and _has_tools(request) and not finalize and on_unsupported != "pass":
        text = "tools_refused_with_schema: in a chat set structured_finalize=True, else leave the tools out"
        raise UnsupportedError.of(f"{request.model} cannot do what is asked", ("response_format", text))
    root = ROOT if wanted.type == "json_schema" and objects_only and not is_object(wanted.schema) else None
    asked = _asked(request, wanted, known, root)
    output = Output(
        schema=wanted.schema if wanted.type == "json_schema" else {"type": "object"},
        final=_without_tools(asked),
        type=type,
        root=root,
        retries=retries,
        finalize=finalize,
        nudge=nudge if (nudge := options.get("structured_finalize_nudge")) is not None else NUDGE,
        warnings=_unchecked(wanted, type),
    )
    return (replace(request, response_format=None) if finalize else asked), output


def _known(adapter: Any, request: Request, ctx: CallContext) -> tuple[Capabilities, bool]:
    """What is known of the model, and whether its structured output is an object always."""
    if not hasattr(adapter, "target"):
        return Capabilities(), False
    target = adapter.target(request, ctx)
    known = capabilities_of(target.provider, request.model or "", target.endpoint)
    return known, target.endpoint in _OBJECTS_ONLY or known.structured in ("tool", "json_object")


def _has_tools(request: Request) -> bool:
    return bool(request.tools or request.options.get("tools"))


def _apart(adapter: Any, request: Request, known: Capabilities, option: bool | None) -> bool:
    """Whether the answer is asked for in a second pass: by option, else where it has to be."""
    if option is not None:
        return option
    if request.response_format is None or request.response_format.type != "json_schema":
        return False
    requires = getattr(adapter, "requires_structured_finalize", None)
    if requires is not None and requires(request):
        return True
    if known.tools_with_schema is False:
        return _has_tools(request)
    return known.structured == "tool" and bool(request.tools)


def _asked(request: Request, wanted: ResponseFormat, known: Capabilities, root: str | None) -> Request:
    """The request with the format as it is sent; a model that only promises JSON is told the schema."""
    if wanted.type != "json_schema":
        return request
    if root is not None:
        wanted = replace(wanted, schema=in_object(wanted.schema, root))
    system = request.system
    if known.structured == "json_object":
        schema = msgspec.json.encode(wanted.schema).decode()
        told = f"Answer with nothing but JSON that fits this JSON Schema:\n{schema}"
        system = f"{system}\n\n{told}" if system else told
    return replace(request, response_format=wanted, system=system)


def _without_tools(request: Request) -> Request:
    options = {name: value for name, value in request.options.items() if name != "tools"}
    return replace(request, tools=(), tool_choice=None, parallel_tool_calls=None, options=options)


def _unchecked(wanted: ResponseFormat, type: Any) -> tuple[str, ...]:
    if type is not None:
        return ()
    return tuple(
        [f"response_format: {name!r} is not checked here" for name in unknown_keywords(wanted.schema)]
    )


# The answer


def mistakes(output: Output, response: Response) -> list[Problem]:
    """What of the answer does not fit; nothing where it is as it must be."""
    try:
        value = answer_value(response.output_text, response.metadata.get("output_root"))
        if output.type is not None:
            convert(value, output.type)
            return []
    except ValidationError as error:
        return list(error.errors)
    return problems(value, output.schema)


def _unfit(output: Output, response: Response) -> OutputError | None:
    found = mistakes(output, response)
    return output_error(response, found) if found else None


def _correctable(output: Output, response: Response, attempt: int) -> bool:
    """Whether the model is told its mistake; it will not mend what was cut, filtered or refused."""
    return attempt <= output.retries and not response.refusal and response.finish_reason not in _BROKEN_OFF


def _correction(error: OutputError, attempt: int) -> Message:
    listed = "\n".join(
        [f"- {path}: {reason}" if path else f"- {reason}" for path, reason in error.info.problems]
    )
    text = f"Your answer does not fit what was asked for:\n{listed}\nGive it again, whole, as JSON only."
    return Message("user", text, metadata={RETRY: attempt})


def checked(turn: Turn) -> Turn:
    """`turn`, one model call, begun anew with a correction where its answer does not fit."""

    def mended(
        plan: Plan, request: Request, fold: RunFold, effect_id: str, finish: Turn | None = None
    ) -> Loop[Response]:
        output, spent, attempt = plan.output, None, 1

        def verdict(response: Response) -> Loop[Response]:
            if spent is not None:
                response = replace(response, usage=spent.plus(response.usage))
            if not response.tool_calls and (error := _unfit(output, response)) is not None:
                raise error
            return (yield from finish(response)) if finish is not None else response

        while True:
            id = effect_id if attempt == 1 else f"{effect_id}/retry/{attempt - 1}"
            try:
                return (yield from turn(plan, request, fold, id, verdict))
            except OutputError as error:
                said = error.partial
                if not isinstance(said, Response) or not _correctable(output, said, attempt):
                    raise
                yield from _again(attempt, error, fold)
                spent = said.usage
                told = _correction(error, attempt)
                request = replace(request, messages=(*request.messages, said.message, told))
                attempt += 1

    return mended


def _again(attempt: int, error: OutputError, fold: RunFold) -> Loop[None]:
    event = Retrying(attempt, 0.0, error.info)
    fold.add(event)
    yield event


def answered(plan: Plan, fold: RunFold, run_id: str) -> Loop[Ended]:
    """The turns of a chat, and what brings them to the structured answer."""
    begun = plan.progress
    if begun is not None and begun.halted is not None and plan.output.finalize:
        second = _second(plan, plan.base, begun.opening, begun.halted, begun)
        return (yield from _finalized(second, fold, run_id, plan.base, 0, begun.opening))
    ended = yield from turns(plan, fold, run_id, plan.base, 0)
    if not plan.output.finalize:
        return (yield from _mended(plan, fold, run_id, ended)) if ended.reason == "completed" else ended
    if ended.reason not in _SECOND_PASS_AFTER:
        return _noted(ended, pass_1_halted=ended.reason)
    nudge = plan.output.nudge
    asked = (Message("user", nudge, metadata={FINALIZE: True}),) if nudge else ()
    try:
        second = _second(plan, ended.thread, asked, ended.reason)
    except AllmError as error:
        return _noted(ended, pass_1_halted=ended.reason, pass_2_error=str(error))
    return (yield from _finalized(second, fold, run_id, ended.thread, ended.index, asked))


def _finalized(
    second: Plan, fold: RunFold, run_id: str, thread: Thread, index: int, asked: tuple[Message, ...]
) -> Loop[Ended]:
    ended = yield from turns(second, fold, run_id, thread, index, asked)
    ended = yield from _mended(second, fold, run_id, ended)
    return _noted(ended, pass_1_halted=second.halted)


def _noted(ended: Ended, **note: Any) -> Ended:
    return replace(ended, metadata={**ended.metadata, "structured_finalize": note})


def _second(
    plan: Plan, thread: Thread, asked: tuple[Message, ...], halted: str, begun: Progress | None = None
) -> Plan:
    """The plan of the second pass, one turn without tools, which begins after `thread` with `asked`, or where
    it was cut (`begun`). Raises where its request cannot be made."""
    opening = thread.add_messages(asked)
    request = replace(plan.output.final, messages=next_request(plan, opening).messages)
    second = replace(
        plan,
        request=request,
        base=opening if begun is None else thread,
        progress=begun,
        halted=halted,
        tools={},
        mode="auto",
        max_turns=1,
        halt_when=None,
        until_tool=None,
        first=plan.adapter.encode(request, plan.ctx) if hasattr(plan.adapter, "encode") else None,
    )
    others = [
        _second(other, thread, asked, halted, begun) for other in plan.fallbacks if other.output is not None
    ]
    return replace(second, fallbacks=tuple(others))


def _mended(plan: Plan, fold: RunFold, run_id: str, ended: Ended) -> Loop[Ended]:
    """The answer as it must be, after as many corrections as the output allows; each is a step."""
    while True:
        response = ended.result.response
        error = _unfit(plan.output, response)
        if error is None:
            return ended
        attempt = 1 + sum([RETRY in message.metadata for message in of_turn(ended.thread)])
        if not _correctable(plan.output, response, attempt):
            raise error
        yield from _again(attempt, error, fold)
        asked = (_correction(error, attempt),)
        ended = yield from turns(plan, fold, run_id, ended.thread, ended.index, asked)
        if ended.reason != "completed" and not plan.output.finalize:
            return ended
