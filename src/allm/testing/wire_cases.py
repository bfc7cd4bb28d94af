"""The cases for wire adapters: answers, refusals, requests, and the whole way through an engine."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, Final

import msgspec

from allm.data.content import OpaquePart, Origin, ReasoningPart, TextPart
from allm.data.events import Event, StreamFailed, UsageReported
from allm.data.failure import RETRYABLE, ErrorInfo
from allm.data.messages import Message, user
from allm.errors import TABLE, AllmError, ValidationError, raised
from allm.limits import Limits
from allm.ports import HttpHead, HttpRequest, KeyRule
from allm.testing.faces import FACES, Seen, ask
from allm.testing.played import Answer, Played
from allm.testing.subjects import HISTORY_TOOL, KEY, STATUSES, Case, Sample, Subject, need, same

REASONS: Final = {
    400: "invalid_request",
    401: "authentication_failed",
    403: "permission_denied",
    404: "not_found",
    408: "timeout",
    413: "invalid_request",
    429: "rate_limited",
    500: "provider_unavailable",
    503: "overloaded",
    529: "overloaded",
}
_GARBAGE: Final = {
    "nothing": b"",
    "blank": b"\r\n \r\n",
    "binary": bytes(range(256)) * 4,
    "html": b"<html><body><h1>502 Bad Gateway</h1></body></html>",
    "not json": b"data: {not json\n\ndata: [1, 2\n\n",
    "other json": b'data: 1\n\ndata: "x"\n\ndata: null\n\ndata: [[]]\n\n',
    "empty objects": b"data: {}\n\nevent: x\ndata: {}\n\n",
    "deep": b"data: " + b"[" * 100_000 + b"\n\n",
    "deep object": b'{"a":' * 50_000,
    "bad utf-8": b'data: {"text": "\xff\xfe\xc3"}\n\n',
    "surrogate": b'{"error": {"message": "\\ud83d", "type": "\\udc00"}}',
}
_MUTANTS = 200
_SECRET_HEADERS: Final = {"authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"}


def cases(subject: Subject) -> Iterator[Case]:
    """The cases that hold for every wire adapter; those about an answer once for each sample."""
    yield Case("samples", "nothing is missing to prove the adapter with", partial(_samples, subject))
    for name, sample in subject.samples.items():
        for suffix, about, answered in _ANSWERS:
            yield Case(f"{name}.{suffix}", about, partial(answered, subject, sample))
    for name, about, work in _ROBUST:
        yield Case(name, about, partial(work, subject))
    for status, body in subject.refusals.items():
        about = "a refusal has its reason, class and retryability"
        yield Case(f"refusal.{status}", about, partial(_refusal, subject, status, body))
    for face in FACES:
        for name, about, through in _THROUGH:
            yield Case(f"{name}.{face}", about, partial(through, subject, face))


def chat_cases(subject: Subject) -> Iterator[Case]:
    """What only a wire adapter for chats has to prove."""
    for name, about, work in _CHAT:
        yield Case(name, about, partial(work, subject))


def _samples(subject: Subject) -> None:
    wanted = {*subject.needs, *map(str, STATUSES)} - subject.without
    missing = sorted(wanted - {*subject.samples, *map(str, subject.refusals)})
    need(not missing, f"give samples or refusals for {missing}, or name them in `without`")
    for name in subject.needs.keys() & subject.samples.keys():
        same(f"the error of the sample {name!r}", subject.samples[name].error, subject.needs[name])


# ---- answers -----------------------------------------------------------------------------------------


def _decode(subject: Subject, sample: Sample, reads: Iterable[bytes], limits: Limits | None = None) -> Any:
    """The decoder and the events of these reads and the end."""
    head = HttpHead(200, {"content-type": sample.content_type})
    decoder = subject.make().decoder(subject.request(), head, subject.context(limits))
    events: list[Event] = []
    for data in reads:
        events += decoder.feed(data)
    return decoder, events + decoder.end()


def _events(subject: Subject, sample: Sample, reads: Iterable[bytes]) -> list[Event]:
    events: list[Event] = _decode(subject, sample, reads)[1]
    return events


def _folds(subject: Subject, sample: Sample) -> None:
    result = subject.fold(_events(subject, sample, [sample.body]))
    if sample.error is None:
        need(result.error is None, f"the answer failed with {result.error!r:.300}")
    else:
        info = result.error or ErrorInfo(reason="no error")
        same("the reason", info.reason, sample.error)
        same("retryable", info.retryable, sample.error in RETRYABLE)
    subject.agree(result, sample)


def _ordered(subject: Subject, sample: Sample) -> None:
    subject.check(_events(subject, sample, [sample.body]))


def _usage(subject: Subject, sample: Sample) -> None:
    events = _events(subject, sample, [sample.body])
    usage = subject.fold(events).usage
    if not sample.usage:
        need(usage is None, "usage where the sample reports none")
        return
    if usage is None or not subject.counted(usage):
        raise AssertionError(f"tokens are reported, but usage is {usage!r}")
    need(usage.raw, "Usage.raw, the provider's own object, is empty")
    reported = [event for event in events if isinstance(event, UsageReported)]
    need(reported, "there is no usage event before the last one")


def _split(subject: Subject, sample: Sample) -> None:
    body = sample.body
    whole = _events(subject, sample, [body])
    same("byte by byte", _events(subject, sample, [body[at : at + 1] for at in range(len(body))]), whole)
    for at in range(1, len(body)):
        need(_events(subject, sample, [body[:at], body[at:]]) == whole, f"cut in two at byte {at} differs")


def _after(subject: Subject, sample: Sample) -> None:
    decoder, events = _decode(subject, sample, [sample.body])
    subject.check(events)
    for late in (decoder.feed(sample.body), decoder.feed(b"\n\n"), decoder.end(), decoder.end()):
        same("what comes after the terminal event", late, [])


def _cut(subject: Subject, sample: Sample) -> None:
    """No beginning of an answer is taken for all of it."""
    whole = subject.fold(_events(subject, sample, [sample.body]))
    streamed = sample.content_type == "text/event-stream"
    borders = {0, *(found.end() for found in re.finditer(rb"\r?\n\r?\n", sample.body))} if streamed else set()
    for size in range(len(sample.body)):
        events = _events(subject, sample, [sample.body[:size]])
        subject.check(events)
        end = events[-1]
        if isinstance(end, StreamFailed):
            cut = size in borders and whole.error is None
            if cut:
                same(f"the reason when cut after byte {size}", end.error.reason, "stream_interrupted")
                need(end.error.retryable, "stream_interrupted must be retryable")
            continue
        said = subject.said(subject.fold(events))
        need(
            said == subject.said(whole) and whole.error is None,
            f"the first {size} bytes are taken for a whole answer: {said!r:.100}",
        )


def _mutants(subject: Subject, sample: Sample) -> None:
    chance = random.Random(0)
    for number in range(_MUTANTS):
        body = bytearray(sample.body)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(body))
            body[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
            body = body or bytearray(b"x")
        _quiet(subject, sample, bytes(body), f"mutant {number}")


def _quiet(subject: Subject, sample: Sample, body: bytes, what: str) -> list[Event]:
    """The events of a body of any kind: nothing is raised, and there is one terminal event."""
    try:
        events = _events(subject, sample, [body])
        subject.check(events, damaged=True)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}; body {body!r:.200}") from error
    return events


_ANSWERS: Final[tuple[tuple[str, str, Callable[[Subject, Sample], None]], ...]] = (
    ("fold", "the events fold to the sample's text, calls and finish reason", _folds),
    ("order", "events come in order, one terminal event last", _ordered),
    ("usage", "tokens are reported before the last event, or not at all", _usage),
    ("split", "the events do not depend on the borders of the reads", _split),
    ("after", "nothing comes after the terminal event", _after),
    ("cut", "a cut answer fails, with stream_interrupted between two events", _cut),
    ("mutants", "a damaged answer raises nothing and ends once", _mutants),
)


def _garbage(subject: Subject) -> None:
    for content_type in ("text/event-stream", "application/json", ""):
        sample = Sample(body=b"", content_type=content_type)
        for name, body in _GARBAGE.items():
            end = _quiet(subject, sample, body, f"{name} as {content_type or 'no type'}")[-1]
            need(isinstance(end, StreamFailed), f"{name} as {content_type!r} is taken for an answer")


def _surrogates(subject: Subject) -> None:
    for name, sample in subject.samples.items():
        word = max(re.findall(rb"\w+", sample.text.encode()), key=len, default=b"")
        if word and word in sample.body:
            body = sample.body.replace(word, word[:-1] + b"\\ud83d")
            _quiet(subject, sample, body, f"a lone surrogate in {name}")


def _bounded(subject: Subject) -> None:
    for content_type, start in (("text/event-stream", b"data: "), ("application/json", b'{"a": "')):
        sample = Sample(body=b"", content_type=content_type)
        limits = Limits(event=2000, body=2000, error_body=2000)
        head = HttpHead(200, {"content-type": content_type})
        decoder = subject.make().decoder(subject.request(), head, subject.context(limits))
        events = [*decoder.feed(start)]
        for _ in range(20):
            events += decoder.feed(b"x" * 500)
        need(events, f"10,000 bytes of {sample.content_type} were taken where Limits allow 2,000")
        subject.check(events)
        same("the reason", events[-1].error.reason, "limit_exceeded")


# ---- refusals ----------------------------------------------------------------------------------------


def _refusal(subject: Subject, status: int, body: bytes) -> None:
    adapter = subject.make()
    headers = {"content-type": "application/json", "retry-after": "7", "x-request-id": "req_7"}
    info = adapter.explain(status, headers, body)
    wanted = subject.reasons.get(status, REASONS.get(status, "provider_error"))
    same("the reason", info.reason, wanted)
    same("the exception", type(raised(info)), TABLE[wanted])
    same("retryable", info.retryable, wanted in RETRYABLE)
    same("status", info.status, status)
    same("provider", info.provider, adapter.name)
    same("retry_after, from the header, in seconds", info.retry_after, 7.0)
    same("request_id, from the header x-request-id", info.request_id, "req_7")
    need(info.message.strip(), "the message is empty")


def _refusal_garbage(subject: Subject) -> None:
    for status in STATUSES:
        for name, body in _GARBAGE.items():
            info = subject.make().explain(status, {}, body)
            need(isinstance(info, ErrorInfo), f"{name} with {status} gives {info!r:.100}")
            same(f"the status of {name}", info.status, status)
            need(len(str(raised(info))) <= 4000, f"{name} with {status} makes a message without bound")
            str(raised(info)).encode()


def _refusal_keys(subject: Subject) -> None:
    headers = {"authorization": f"Bearer {KEY}", "x-api-key": KEY, "x-goog-api-key": KEY}
    bodies = [_poisoned(body) for body in subject.refusals.values()]
    for body in (*bodies, f"Incorrect API key provided: {KEY}.".encode()):
        for status in STATUSES:
            error = raised(subject.make().explain(status, headers, body))
            need(KEY not in f"{error} {error!r} {error.info!r}", f"the key is in the error: {error}")


def _poisoned(body: bytes) -> bytes:
    """A refusal in which every text of more than one word ends with the key."""

    def poison(value: Any) -> Any:
        if isinstance(value, str):
            return f"{value} (key {KEY})" if " " in value else value
        if isinstance(value, list):
            return [poison(item) for item in value]
        return {name: poison(item) for name, item in value.items()} if isinstance(value, dict) else value

    try:
        return msgspec.json.encode(poison(msgspec.json.decode(body)))
    except msgspec.DecodeError:
        return body + f" {KEY}".encode()


# ---- requests ----------------------------------------------------------------------------------------


def encoded(subject: Subject, request: Any) -> HttpRequest:
    """What an adapter that nobody has used sends."""
    sent: HttpRequest = subject.make().encode(request, subject.context())
    return sent


def _pure(subject: Subject) -> None:
    from allm.data.codec import from_json, to_json

    request = subject.full()
    adapter, ctx = subject.make(), subject.context()
    first = adapter.encode(request, ctx)
    adapter.encode(subject.request(), ctx)
    same("the second encoding", adapter.encode(request, ctx), first)
    same("another adapter's encoding", encoded(subject, request), first)
    again = encoded(subject, from_json(to_json(request), type(request)))
    need(again.body == first.body, "a request that was stored and loaded is sent differently")


def _keyless(subject: Subject) -> None:
    adapter = subject.make()
    rule = encoded(subject, subject.request()).key
    need(rule is None or isinstance(rule, KeyRule), f"HttpRequest.key is {rule!r}, not a KeyRule")
    names = rule.variables if rule is not None else ()
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, KEY))
    try:
        ctx = msgspec.structs.replace(subject.context(), api_key=KEY)
        sent = adapter.encode(subject.request(), ctx)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    need(KEY not in f"{sent.url} {sent.headers} {sent.body!r}", "the key is in the request; give a KeyRule")
    carried = _SECRET_HEADERS & {name.lower() for name in sent.headers}
    need(
        not carried, f"the adapter writes {sorted(carried)} itself; that is the driver's, by HttpRequest.key"
    )


def _replayed(subject: Subject) -> None:
    body = encoded(subject, subject.full()).body.decode()
    order = ["First 4715", "Thinking 4716", "Oslo-4714", "Sunny 4717", "Answer 4718", "Last 4719"]
    for text in (*order, HISTORY_TOOL.name, "town_4712", "Looks up 4711."):
        need(text in body, f"{text!r} of the history or the tools is not sent")
    for one, next_one in pairwise(order):
        need(body.index(one) < body.index(next_one), f"{next_one!r} is sent before {one!r}")


def _system(subject: Subject) -> None:
    need(b"Be brief 4720" in encoded(subject, subject.request(system="Be brief 4720")).body, "it is not sent")


def _foreign(subject: Subject) -> None:
    origin = Origin("another-provider")
    parts = (
        ReasoningPart("Thought 4721", signature="sig 4722", origin=origin),
        OpaquePart(data={"type": "secret 4723"}, origin=origin),
        TextPart("Text 4724", provider_data={"bound": "data 4725"}, origin=origin),
    )
    messages = (user("Hi"), Message("assistant", parts), user("Go on"))
    body = encoded(subject, subject.request(messages=messages)).body.decode()
    need("Text 4724" in body, "the text that another provider wrote is not sent")
    for text in ("Thought 4721", "sig 4722", "secret 4723", "data 4725"):
        need(text not in body, f"{text!r} belongs to another provider, and is sent")


def _options(subject: Subject) -> None:
    options: dict[str, Any] = {"novelty": {"nested": [1, "x"]}}
    places = _with_novelty(subject, options)
    need(places, "an option that nobody knows is not sent")
    same("an option that nobody knows", places[0]["novelty"], options["novelty"])
    name = next((name for name in places[0] if name not in ("novelty", "tools")), "")
    for place in _with_novelty(subject, {**options, name: ["won"]}) or ({},):
        same(f"{name!r}, which options set", place.get(name), ["won"])


def _with_novelty(subject: Subject, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of the body into which options go."""

    def found(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict) and "novelty" in value:
            yield value
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from found(item)

    return list(found(msgspec.json.decode(encoded(subject, subject.request(options=options)).body)))


def _unencodable(subject: Subject) -> None:
    try:
        encoded(subject, subject.saying("lone \ud800"))
    except ValidationError:
        return


_ROBUST: Final[tuple[tuple[str, str, Callable[[Subject], None]], ...]] = (
    ("answer.garbage", "what is no answer fails, and nothing is raised", _garbage),
    ("answer.surrogates", "lone surrogates never get into the events", _surrogates),
    ("answer.bounded", "an event or body over the limits fails at once", _bounded),
    ("refusal.garbage", "a refusal of any kind is explained, and nothing is raised", _refusal_garbage),
    ("refusal.keys", "no key is in an error", _refusal_keys),
    ("request.pure", "the same request gives the same bytes", _pure),
    ("request.keyless", "no key is in URL, headers or body", _keyless),
    ("request.options", "options win, and unknown ones pass", _options),
    (
        "request.surrogates",
        "text that cannot be encoded is a ValidationError or is sent mended",
        _unencodable,
    ),
)
_CHAT: Final[tuple[tuple[str, str, Callable[[Subject], None]], ...]] = (
    ("request.history", "text, calls, results and tools are sent, in order", _replayed),
    ("request.system", "the system text is sent", _system),
    ("request.foreign", "what is bound to another provider is not sent", _foreign),
)


# ---- through an engine -------------------------------------------------------------------------------


def _through(
    subject: Subject, face: str, sample: Sample, status: int = 200, stop: int = 0
) -> tuple[Played, Seen]:
    reads = re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", sample.body)
    head = HttpHead(status, {"content-type": sample.content_type})
    played = Played(lambda request: Answer(head, tuple(read for read in reads if read)))
    return played, ask(face, subject, subject.make(), transport=played, stop=stop)


def _shown(subject: Subject) -> tuple[Sample, int]:
    name, stop = subject.shown
    need(name in subject.samples, f"there is no sample {name!r}")
    return subject.samples[name], stop


def _answered(subject: Subject, face: str) -> None:
    sample, _ = _shown(subject)
    played, seen = _through(subject, face, sample)
    need(seen.error is None, f"the call failed: {seen.error}")
    subject.check(seen.events)
    subject.agree(seen.result, sample)
    same("bodies opened and closed", (played.opened, played.closed), (1, 1))


def _left(subject: Subject, face: str) -> None:
    sample, stop = _shown(subject)
    played, seen = _through(subject, face, sample, stop=stop)
    same("events before leaving", len(seen.events), stop)
    same("bodies opened and closed", (played.opened, played.closed), (1, 1))


def _refused(subject: Subject, face: str) -> None:
    for status, body in subject.refusals.items():
        sample = Sample(body=body, content_type="application/json")
        played, seen = _through(subject, face, sample, status)
        wanted = TABLE[subject.reasons.get(status, REASONS.get(status, "provider_error"))]
        same(f"the exception for {status}", type(seen.error), wanted)
        need(isinstance(seen.error, AllmError) and KEY not in str(seen.error), "the key is in the error")
        same("bodies opened and closed", (played.opened, played.closed), (1, 1))


_THROUGH: Final[tuple[tuple[str, str, Callable[[Subject, str], None]], ...]] = (
    ("engine", "an engine gives the answer and closes the connection", _answered),
    ("leaving", "leaving a stream early closes the connection, once", _left),
    ("refused", "a refused call raises its class and closes the connection", _refused),
)
