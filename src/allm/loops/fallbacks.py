"""Other engines that are asked where the first one fails. Loaded only where a run has fallbacks.

A fallback is an `Engine`, or `provider:model`: the same engine with another model. It is asked for the same:
messages, tools and the call's options; what the fallback engine itself sets (its `params`, its `system`, all
that belongs to its provider) holds over the first engine's. It has its own preparing, pre-flight, keys,
transport and retries; a key passed with the call goes to a fallback of the same provider and address only.
Its own fallbacks, middleware, budget and tools are not looked at.

It is asked where the one before has failed for good, before its first content and with a reason of
`FALL_BACK_ON`. A `retrying` event with that failure (delay 0) precedes it; `Response.provider` and `.model`
tell who answered. Where all fail, the last failure is the run's, with the others in
`info.extra["fallbacks"]`. Every turn begins with the first engine again.

A fallback that cannot take the request (no vision, say) is left out with a warning; one that is wrongly set
up, or has no key, raises at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from allm.data.events import Retrying
from allm.data.requests import Request
from allm.data.responses import Response
from allm.engine import Engine
from allm.errors import AllmError, ConfigurationError, ValidationError, raised
from allm.folds import RunFold
from allm.keys import KeyRing
from allm.loops.effects import Loop
from allm.loops.plan import Plan, make_plan, refitted
from allm.options import REQUEST_FIELDS

FALL_BACK_ON: Final = frozenset(
    {
        "rate_limited", "quota_exceeded", "overloaded", "provider_unavailable", "provider_error",
        "network_error", "tls_error", "timeout", "stream_interrupted", "protocol_error",
        "malformed_response", "redirect_refused", "authentication_failed", "permission_denied", "not_found",
    }
)  # fmt: skip
"""Reasons that another provider may not share: it is down, out of quota, unreadable, or this account or
model is not known there. A wrong request, a filtered one, or one too long is the same everywhere."""

_OF_THE_FIRST = ("model", "api_key", "tools", "fallbacks", "middleware", "budget")
_OF_A_PROVIDER = ("options", "adapter_options")
_SHARED = ("retry", "timeouts", "limits", "transport", "on_unsupported", "orphans", "prices")

Turn = Callable[..., Loop[Response]]


def add_fallbacks(
    plan: Plan, ring: KeyRing, resolved: Request, given: tuple[Any, ...], options: Mapping[str, Any]
) -> Plan:
    """The plan with those of its fallbacks, whose rings go to `ring`. `resolved` is the request as it was
    before it was adapted to the first model."""
    plans: list[Plan] = []
    rings: list[KeyRing] = []
    warnings: list[str] = []
    for item in given:
        engine = _engine(plan, resolved, item)
        same = engine.ref.provider == plan.ref.provider
        passed = {name: value for name, value in options.items() if name not in _OF_THE_FIRST}
        if not same:
            passed = {name: value for name, value in passed.items() if name not in _OF_A_PROVIDER}
        if plan.output is not None:
            passed["structured_finalize"] = plan.output.finalize
        explicit = options.get("api_key")
        there = same and _address(engine) == _address(plan.engine)
        if callable(explicit) or ("api_key" in options and there):
            passed["api_key"] = explicit
        try:
            alone = {**passed, "fallbacks": None, "budget": None}
            other, keys = make_plan(engine, plan.base, alone, progress=plan.progress)
        except ValidationError as error:
            warnings.append(f"the fallback {engine.ref} was left out: {error.info.message}")
            continue
        plans.append(replace(other, route=len(plans) + 1))
        rings.append(keys)
    ring.fallbacks = tuple(rings)
    return replace(plan, fallbacks=tuple(plans), warnings=(*plan.warnings, *warnings))


def _address(engine: Engine) -> tuple[Any, ...]:
    return engine.base_url, engine.adapter_options.get("base_url")


def _engine(plan: Plan, resolved: Request, item: Any) -> Engine:
    """The engine that asks for what the first one was asked, in its own way."""
    first = plan.engine
    if isinstance(item, str):
        given = Engine(item, id=f"{first.id}/{item}", **{name: getattr(first, name) for name in _SHARED})
        if given.ref.provider == plan.ref.provider:
            given = first.merge(model=item)
    elif isinstance(item, Engine):
        given = item
    else:
        text = f"a fallback is an Engine or 'provider:model', not {type(item).__name__!r}"
        raise ConfigurationError(text)
    asked = {
        name: value for name in REQUEST_FIELDS if (value := getattr(resolved, name)) not in (None, {}, ())
    }
    if given.ref.provider != plan.ref.provider:
        asked.pop("options", None)
    own = {} if given.system is None else {"system": given.system}
    fields = {name: getattr(given, name) for name in Engine.__slots__}
    fields |= {"params": {**asked, **own, **given.params}, "system": None, "middleware": ()}
    fields["tools"] = tuple(plan.tools.values())
    return Engine(fields.pop("model"), **fields)


def with_fallbacks(turn: Turn) -> Turn:
    """`turn`, asked of each engine in its order until one answers."""

    def first_answer(
        plan: Plan, request: Request, fold: RunFold, effect_id: str, *finish: Any
    ) -> Loop[Response]:
        failures: list[AllmError] = []
        for candidate in (plan, *plan.fallbacks):
            asked, id = request, effect_id
            if candidate.route:
                yield Retrying(failures[-1].info.attempts or 1, 0.0, failures[-1].info)
                id = f"{effect_id}/fallback/{candidate.route}"
                candidate, asked = _asked(plan, replace(candidate, meter=plan.meter), request)
            try:
                return (yield from turn(candidate, asked, fold, id, *finish))
            except AllmError as error:
                if not _may_go_on(error, fold):
                    raise
                failures.append(error)
        *others, last = failures
        stored = [msgspec.to_builtins(error.info) for error in others]
        raise raised(replace(last.info, extra={**last.info.extra, "fallbacks": stored})) from last

    return first_answer


def _may_go_on(error: AllmError, fold: RunFold) -> bool:
    info = error.info
    if fold.turn.started is not None:  # content was shown
        return False
    return info.reason in FALL_BACK_ON and info.code != "run"


def _asked(plan: Plan, other: Plan, request: Request) -> tuple[Plan, Request]:
    """What the fallback is asked in this turn: its own template, with what hooks have changed."""
    first, template = plan.request, other.request
    count = len(first.messages)
    if request.messages[:count] == first.messages:
        added = request.messages[count:]
        messages = (*template.messages, *added) if added else template.messages
    else:
        messages = request.messages
    changed = {
        name: value
        for name in (*REQUEST_FIELDS, "tools")
        if (value := getattr(request, name)) != getattr(first, name)
    }
    if not changed and messages is template.messages:
        return other, template
    asked = replace(template, messages=messages, **changed)
    return refitted(other, asked) if changed or messages is request.messages else (other, asked)
