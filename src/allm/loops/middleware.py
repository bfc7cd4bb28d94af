"""Hooks asked by the loop, as sans-IO generators. Loaded only where a run has middleware.

`allm.middleware` says what each hook may return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final

from msgspec.structs import replace

from allm.data.content import TextPart, ToolCall
from allm.data.events import MessageCompleted, RawChunk
from allm.data.failure import ErrorInfo
from allm.data.messages import Message
from allm.data.requests import Request
from allm.data.responses import Response, Usage
from allm.errors import AllmError, ConfigurationError, ToolError, raised
from allm.folds import RunFold, unfold
from allm.loops.effects import CallHook, Loop, ToolDone, ask
from allm.loops.plan import Plan, refitted
from allm.middleware import HookContext, Refuse
from allm.tools import Tool

REFUSED: Final = "refused"  # the code of what a hook refused

Finish = Callable[[Response], Loop[Response]]
Turn = Callable[[Plan, Request, RunFold, str, Finish], Loop[Response]]


def _hook(
    plan: Plan, index: int, name: str, arguments: tuple[Any, ...], ctx: HookContext
) -> Loop[tuple[Any, list[str]]]:
    """What one hook answers, and its warnings; its events are given first. Raises what it raises."""
    method = getattr(plan.middleware[index], name)
    effect = CallHook(ctx.id, partial(method, *arguments, ctx), iscoroutinefunction(method))
    answer = yield from ask(effect)
    for data in ctx.events:
        yield RawChunk(data)
    return answer, ctx.warnings


def _context(plan: Plan, id: str, **more: Any) -> HookContext:
    return HookContext(
        id=id,
        provider=plan.ref.provider,
        engine=plan.engine,
        context=plan.context,
        session_id=plan.session_id,
        request_id=plan.request_id,
        **more,
    )


def _with_hook(plan: Plan, name: str) -> list[int]:
    return [index for index, item in enumerate(plan.middleware) if callable(getattr(item, name, None))]


def _misplaced(plan: Plan, index: int, name: str, answer: Any) -> ConfigurationError:
    whose = type(plan.middleware[index]).__name__
    return ConfigurationError(f"{whose}.{name} may not return {type(answer).__name__!r}; see allm.middleware")


# Model calls


def around(plan: Plan, request: Request, fold: RunFold, id: str, turn: Turn) -> Loop[Response]:
    """One model turn inside the run's middleware."""
    return (yield from _Model(plan, fold, id, turn).run(request))


class _Model:
    """The hooks of one turn. `depth`: how many of them, from outside, are around what answers."""

    def __init__(self, plan: Plan, fold: RunFold, id: str, turn: Turn) -> None:
        self.plan = plan
        self.fold = fold
        self.id = id
        self.turn = turn
        self.depth = len(plan.middleware)
        self.warnings: list[str] = []
        usage = Usage()
        for step in fold.steps:
            usage = usage.plus(step.response.usage)
        self.usage = usage

    def run(self, request: Request) -> Loop[Response]:
        asked = yield from self._before(request)
        try:
            return (yield from self._answer(request, asked, self.id))
        except AllmError as error:
            if self.fold.turn.started is not None or error.info.code == REFUSED:
                raise
            mended = yield from self._mended(error, asked if isinstance(asked, Request) else request)
            if mended is None:
                raise
        return (yield from self._answer(request, mended, f"{self.id}/again"))

    def _answer(self, given: Request, asked: Request | Response, id: str) -> Loop[Response]:
        if isinstance(asked, Response):
            return (yield from self._told(asked))
        plan = self.plan
        if asked is not given:
            plan, asked = refitted(plan, asked)
        return (yield from self.turn(plan, asked, self.fold, id, self._after))

    def _ask(self, index: int, name: str, *arguments: Any) -> Loop[Any]:
        """The hook's answer; what it refuses raises."""
        ctx = _context(self.plan, f"{self.id}/{name}/{index}", usage=self.usage)
        answer, warnings = yield from _hook(self.plan, index, name, arguments, ctx)
        self.warnings += warnings
        if isinstance(answer, Refuse):
            whose = type(self.plan.middleware[index]).__name__
            extra = {"refused_by": whose, "refused_in": name}
            raise raised(
                ErrorInfo(reason="permission_denied", code=REFUSED, message=answer.reason, extra=extra)
            )
        return answer

    def _before(self, request: Request) -> Loop[Request | Response]:
        for index in _with_hook(self.plan, "before_model"):
            answer = yield from self._ask(index, "before_model", request)
            if isinstance(answer, Response):
                self.depth = index
                return answer
            if isinstance(answer, Request):
                request = answer
            elif answer is not None:
                raise _misplaced(self.plan, index, "before_model", answer)
        return request

    def _mended(self, error: AllmError, request: Request) -> Loop[Request | Response | None]:
        for index in reversed(_with_hook(self.plan, "on_model_error")):
            answer = yield from self._ask(index, "on_model_error", error, request)
            if isinstance(answer, Response):
                self.depth = index
            if isinstance(answer, Request | Response):
                return answer
            if answer is not None:
                raise _misplaced(self.plan, index, "on_model_error", answer)
        return None

    def _after(self, response: Response) -> Loop[Response]:
        """The response as the hooks around its source leave it."""
        for index in reversed(_with_hook(self.plan, "after_model")):
            if index >= self.depth:
                continue
            answer = yield from self._ask(index, "after_model", response)
            if isinstance(answer, Response):
                response = _explicit(answer)
            elif answer is not None:
                raise _misplaced(self.plan, index, "after_model", answer)
        if not self.warnings:
            return response
        return replace(response, warnings=tuple(dict.fromkeys([*response.warnings, *self.warnings])))

    def _told(self, response: Response) -> Loop[Response]:
        """A hook's answer as the events of a turn."""
        if response.finish_reason is None:
            finish = "tool_calls" if response.tool_calls else "stop"
            response = replace(response, finish_reason=finish)
        for event in unfold(response)[:-1]:
            self.fold.add(event)
            yield event
        response = yield from self._after(_explicit(response))
        completed = MessageCompleted(response)
        self.fold.add(completed)
        yield completed
        return response


def _explicit(response: Response) -> Response:
    """An empty message says so: a fold takes one without any content for what was streamed."""
    if response.message.content:
        return response
    return replace(response, message=replace(response.message, content=(TextPart(""),)))


# Tool calls


def before_tool(plan: Plan, tool: Tool, call: ToolCall, position: int, id: str) -> Loop[ToolCall | ToolDone]:
    """The call to run, or what it is answered with instead: a value, or the error of a refusal."""
    for index in _with_hook(plan, "before_tool"):
        ctx = _context(plan, f"{id}/before_tool/{index}", tool=tool)
        try:
            answer, warnings = yield from _hook(plan, index, "before_tool", (call,), ctx)
        except AllmError as error:
            return ToolDone(
                position, None, ToolError(replace(error.info, code=error.info.code or REFUSED)), 0.0
            )
        yield from _warned(warnings)
        if isinstance(answer, ToolCall):
            call = replace(answer, id=call.id, name=call.name)
        elif isinstance(answer, Refuse):
            return ToolDone(position, None, ToolError(_refusal(call, answer)), 0.0)
        elif answer is not None:
            return ToolDone(position, answer, None, 0.0)
    return call


def after_tool(
    plan: Plan, tool: Tool, call: ToolCall, message: Message, id: str
) -> Loop[Message | ErrorInfo]:
    """What the model is told of the call, or why that is refused."""
    for index in reversed(_with_hook(plan, "after_tool")):
        ctx = _context(plan, f"{id}/after_tool/{index}", tool=tool)
        try:
            answer, warnings = yield from _hook(plan, index, "after_tool", (call, message), ctx)
        except AllmError as error:
            return error.info
        yield from _warned(warnings)
        if isinstance(answer, Message):
            message = replace(answer, role="tool", tool_call_id=call.id)
        elif isinstance(answer, str):
            message = replace(message, content=answer)
        elif isinstance(answer, Refuse):
            return _refusal(call, answer)
        elif answer is not None:
            raise _misplaced(plan, index, "after_tool", answer)
    return message


def _warned(warnings: Iterable[str]) -> Loop[None]:
    for text in warnings:
        yield RawChunk({"type": "warning", "message": text})


def _refusal(call: ToolCall, refuse: Refuse) -> ErrorInfo:
    text = f"the call was refused: {refuse.reason}"
    return ErrorInfo(reason="tool_failed", code=REFUSED, message=text, call_id=call.id, phase="tool")
