"""The file of a recording: exchanges as JSON lines without keys. `allm.testing.record` writes it.

Each line is an object whose `line` says what it is:

`{"line": "recording", "version": 1}`, first and once; then for each exchange, in the order in which the
calls were opened, `request` (`method`, `url`, `headers`, and the body as `json`, `text` or `base64`),
`answer` (`status`, `headers`), one `read` (`text`, or `base64` where it is not UTF-8) for each piece of
the body as it came, and `end`. `end.how` is `complete` where the body was read to its end, `closed`
where the reader let go before that (after the provider's own end marker, or early), and `failed`, with
`error`, where the connection broke. No times are kept, and of the headers only those of `_KEPT`.
"""

from __future__ import annotations

import re
import sys
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import UNSET, Struct, UnsetType

from allm.data.failure import ErrorInfo
from allm.errors import ConfigurationError, ValidationError
from allm.ports import HttpHead, HttpRequest
from allm.providers.refusals import redacted

VERSION: Final = 1

# `date`: a `retry-after` may be a date, and then counts from it.
_KEPT: Final = frozenset(
    {
        "accept", "anthropic-beta", "anthropic-version", "content-type", "date", "openai-beta", "request-id",
        "retry-after", "retry-after-ms", "x-request-id", "x-should-retry",
    }
)  # fmt: skip
_SECRET_PARAM = re.compile(r"(?i)key|token|secret|(?<![a-z])sig|auth|passw|credential")
_SECRET_FIELD = re.compile(r"(?i)api[-_]?key|authorization|(?:access|auth)[-_]token|secret|passw|cookie")
_SHORTEST_SECRET = 8  # what is shorter is a placeholder such as "none", and stands in many words
_WORD = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)|[\w*.-]{10,}", re.DOTALL)  # escapes first: `\nsk-...`
_NAME = re.compile(r"key[-_][a-z_-]+")  # `key_value_store` only looks like a key

How = Literal["complete", "closed", "failed"]


class _Begin(Struct, tag="recording", tag_field="line"):
    version: int


class Sent(Struct, frozen=True, omit_defaults=True, tag="request", tag_field="line"):
    """A request without key material, with exactly one or no form of its body."""

    method: str
    url: str
    headers: dict[str, str] = {}
    json: Any = UNSET
    text: str | UnsetType = UNSET
    base64: str | UnsetType = UNSET

    @property
    def facts(self) -> dict[str, Any]:
        """What a replayed request must have in common with this one."""
        body = next((form for form in (self.json, self.text, self.base64) if form is not UNSET), None)
        return {"method": self.method, "path": urlsplit(self.url).path, "body": body}


class _Answer(Struct, tag="answer", tag_field="line"):
    status: int
    headers: dict[str, str] = {}


class _Read(Struct, omit_defaults=True, tag="read", tag_field="line"):
    text: str | None = None
    base64: str | None = None


class _End(Struct, omit_defaults=True, tag="end", tag_field="line"):
    how: How
    error: ErrorInfo | None = None


class Exchange(Struct, eq=False):
    """A request and what came back.

    While it is under way `how` is empty, and `secrets`, `head` and `reads` are as they came; `settle` cleans
    them.
    """

    sent: Sent
    secrets: tuple[str, ...] = ()
    head: HttpHead | None = None
    reads: list[bytes] = []
    how: How | Literal[""] = ""
    error: ErrorInfo | None = None

    def __repr__(self) -> str:
        return f"Exchange({self.sent.method} {self.sent.url}, {self.how or 'under way'})"

    def settle(self, how: How, error: ErrorInfo | None = None) -> None:
        """The exchange is over: what is kept of it holds no key from here on."""
        secrets, head = self.secrets, self.head
        if head is not None:
            self.head = HttpHead(head.status, _headers(head.headers, secrets))
        pieces = _cleaned([read.decode("latin-1") for read in self.reads], secrets)
        self.reads = [piece.encode("latin-1") for piece in pieces]
        if error is not None:
            self.error = msgspec.structs.replace(error, message=cleaned(error.message, secrets))
        self.how, self.secrets = how, ()


def begun(request: HttpRequest, key_header: tuple[str, str] | None) -> Exchange:
    """The exchange that `request` starts, cleaned of what `key_header` and the body hold of keys."""
    body = _json(request.body)
    key = str(key_header[1]).rpartition(" ")[2] if key_header is not None else ""
    secrets = {key, *_labelled(body)} if body is not UNSET else {key}
    kept = tuple(sorted((s for s in secrets if len(s) >= _SHORTEST_SECRET), key=len, reverse=True))
    url, headers = cleaned(_url(request.url), kept), _headers(request.headers, kept)
    data = "".join(_cleaned([request.body.decode("latin-1")], kept)).encode("latin-1")
    body = _json(data)
    if body is not UNSET:
        return Exchange(Sent(request.method, url, headers, body), kept)
    return Exchange(Sent(request.method, url, headers, **_plain(data)), kept)


def cleaned(text: str, secrets: tuple[str, ...]) -> str:
    """`text` without these secrets and without what looks like a key. JSON stays JSON."""
    return "".join(_cleaned([text], secrets))


def _cleaned(pieces: list[str], secrets: tuple[str, ...]) -> list[str]:
    """The same of a text in pieces; what reaches over a border is replaced where it starts."""
    forms = [form for secret in secrets for form in (secret, _escaped(secret), quote(secret, safe=""))]
    if forms:
        pieces = _replaced(pieces, re.compile("|".join(map(re.escape, forms))), lambda found: "[redacted]")
    return _replaced(pieces, _WORD, _without_key)


def _escaped(text: str) -> str:
    return msgspec.json.encode(text).decode()[1:-1]


def _without_key(word: str) -> str:
    if word[0] == "\\" or _NAME.fullmatch(word):
        return word
    return redacted(word, sys.maxsize)


def _replaced(pieces: list[str], pattern: re.Pattern[str], replacement: Callable[[str], str]) -> list[str]:
    text = "".join(pieces)
    borders = list(accumulate(map(len, pieces)))
    made: list[list[str]] = [[] for _ in pieces]

    def copy(start: int, stop: int) -> None:
        while start < stop:
            piece = bisect_right(borders, start)
            end = min(stop, borders[piece])
            made[piece].append(text[start:end])
            start = end

    at = 0
    for found in pattern.finditer(text):
        copy(at, found.start())
        made[bisect_right(borders, found.start())].append(replacement(found[0]))
        at = found.end()
    copy(at, len(text))
    return ["".join(parts) for parts in made if parts]


def _labelled(value: Any) -> Iterator[str]:
    """The strings in a body that its field names call secret, such as the tokens of MCP servers."""
    if isinstance(value, list):
        for item in value:
            yield from _labelled(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, str) and _SECRET_FIELD.search(name):
                yield item.rpartition(" ")[2]
            else:
                yield from _labelled(item)


def _url(url: str) -> str:
    parts = urlsplit(url)
    query = [pair for pair in parts.query.split("&") if not _SECRET_PARAM.search(pair.partition("=")[0])]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="&".join(query), fragment="").geturl()


def _headers(headers: dict[str, str], secrets: tuple[str, ...]) -> dict[str, str]:
    lower = {name.lower(): value for name, value in headers.items()}
    return {name: cleaned(lower[name], secrets) for name in sorted(_KEPT & lower.keys())}


def _json(data: bytes) -> Any:
    """A body as JSON data, or `UNSET` where it is none that can be written again."""
    try:
        value = msgspec.json.decode(data)
        msgspec.json.encode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return UNSET
    return value


def _plain(data: bytes) -> dict[str, str]:
    if not data:
        return {}
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode()}


def written(exchanges: Iterable[Exchange]) -> bytes:
    """The file's content."""
    lines: list[Struct] = [_Begin(VERSION)]
    for exchange in exchanges:
        lines += _lines(exchange)
    return b"".join([msgspec.json.encode(line) + b"\n" for line in lines])


def _lines(exchange: Exchange) -> Iterator[Struct]:
    if not exchange.how:  # the call goes on and may bring more
        exchange = msgspec.structs.replace(exchange)
        exchange.settle("closed")
    yield exchange.sent
    if exchange.head is not None:
        yield _Answer(exchange.head.status, exchange.head.headers)
    for read in exchange.reads:
        yield _Read(**_plain(read))
    yield _End(exchange.how or "closed", exchange.error)


_DECODER = msgspec.json.Decoder(_Begin | Sent | _Answer | _Read | _End)


def load(path: Path) -> list[Exchange]:
    """The exchanges of a recording.

    Raises `ConfigurationError` where there is no such file, and `ValidationError` with the line where it
    is damaged or of a newer version.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        text = f"there is no recording {str(path)!r}; make it with allm.testing.record(...), or recorded(...)"
        raise ConfigurationError(text) from None
    reader = _Reader(path)
    for number, line in enumerate(lines, 1):
        if line.strip():
            reader.take(number, line)
    return reader.finished()


class _Reader:
    """Lines into exchanges, each line checked against what may come there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 1
        self.exchanges: list[Exchange] = []
        self.begun = False
        self.open: Exchange | None = None

    def take(self, number: int, data: bytes) -> None:
        self.number = number
        try:
            line = _DECODER.decode(data)
            self._place(line)
        except (ValueError, RecursionError) as error:
            if isinstance(error, ValidationError):
                raise
            raise self._damaged(str(error)) from None

    def _place(self, line: Any) -> None:
        exchange = self.open
        if type(line) is _Begin:
            self._begin(line)
        elif not self.begun:
            raise self._damaged("the first line is not that of a recording")
        elif type(line) is Sent and exchange is None:
            self.open = Exchange(line)
        elif exchange is None or type(line) is Sent:
            raise self._damaged(f"a line {_kind(line)!r} is out of place")
        elif type(line) is _Answer and exchange.head is None:
            exchange.head = HttpHead(line.status, line.headers)
        elif type(line) is _Read and exchange.head is not None:
            exchange.reads.append(_bytes(line))
        elif type(line) is _End and (exchange.head is not None or line.error is not None):
            exchange.how, exchange.error = line.how, line.error
            self.exchanges.append(exchange)
            self.open = None
        else:
            raise self._damaged(f"a line {_kind(line)!r} is out of place")

    def _begin(self, line: _Begin) -> None:
        if self.begun:
            raise self._damaged("a second recording begins")
        if line.version > VERSION:
            raise self._damaged(f"version {line.version}; this allm reads up to version {VERSION}")
        self.begun = True

    def finished(self) -> list[Exchange]:
        if not self.begun:
            raise self._damaged("the file is empty")
        if self.open is not None:
            raise self._damaged("the last exchange has no end: the file was cut")
        return self.exchanges

    def _damaged(self, why: str) -> ValidationError:
        return ValidationError.of("the recording cannot be read", (f"{self.path}, line {self.number}", why))


def _kind(line: Any) -> str:
    return str(type(line).__struct_config__.tag)


def _bytes(line: _Read) -> bytes:
    if line.text is not None:
        return line.text.encode()
    return b64decode(line.base64 or "", validate=True)
