"""A request as it goes on the wire, and the head of its answer."""

from __future__ import annotations

import functools
import re
import time
import urllib.parse
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import httpcore2
import httpx2
from msgspec import Struct

from allm.drivers.http.calls import failure
from allm.ports import HttpHead, HttpRequest

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # all but the tab
Fields = list[tuple[bytes, bytes]]
Headers = dict[str, str]


class Target(Struct, frozen=True):
    """Where a URL leads: `origin` is shown to people and keys the idle connections."""

    url: Any
    host: bytes
    origin: str
    bare: str

    @property
    def secure(self) -> bool:
        return self.origin.startswith("https:")

    @property
    def port(self) -> int:
        return self.url.port or (443 if self.secure else 80)


class Wire(NamedTuple):
    """A request ready to be sent: names and values of the fields are checked, the key is among them."""

    method: str
    target: Target
    fields: Fields
    body: bytes

    def __repr__(self) -> str:
        return f"<{self.method} {self.target.origin}>"


@functools.lru_cache(maxsize=128)
def target_of(url: str) -> Target:
    """Raises ConfigurationError; the message never shows the URL, which may hold a password."""
    try:
        parsed = httpx2.URL(url)
        port = parsed.port
    except (httpx2.InvalidURL, ValueError, TypeError):
        raise failure("configuration", "the base URL cannot be parsed", "input") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise failure("configuration", "the base URL must be http:// or https:// and name a host", "input")
    if parsed.userinfo:
        raise failure("configuration", "the base URL must not hold a user or password", "input")
    raw = httpcore2.URL(
        scheme=parsed.raw_scheme, host=parsed.raw_host, port=port, target=parsed.raw_path or b"/"
    )
    origin = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
    return Target(url=raw, host=parsed.netloc, origin=origin, bare=parsed.raw_host.decode("ascii"))


def wire_of(request: HttpRequest, key: tuple[str, str] | None) -> Wire:
    """Raises ValidationError for a header or the method, ConfigurationError for the URL and the key."""
    target = target_of(request.url)
    if not _TOKEN.fullmatch(request.method):
        raise failure("invalid_input", f"method {request.method[:40]!r} cannot be sent", "input")
    fields = [*_fields(target.host, tuple(request.headers.items()), key[0] if key is not None else "")]
    if request.body or request.method != "GET":
        fields.append((b"content-length", b"%d" % len(request.body)))
    if key is not None:
        fields.append(_key_field(*key))
    return Wire(request.method, target, fields, request.body)


@functools.lru_cache(maxsize=128)
def _fields(host: bytes, given: tuple[tuple[str, str], ...], key: str) -> tuple[tuple[bytes, bytes], ...]:
    """All fields but those of the body and the key. Kept, as most requests have those of the one before."""
    headers = {"host": host.decode("ascii"), "accept": "*/*", "accept-encoding": "gzip, deflate"}
    headers |= {name.lower(): value for name, value in given}
    headers.pop("transfer-encoding", None)
    headers.pop("content-length", None)
    fields = {name: _field(name, value) for name, value in headers.items()}
    fields.pop(key.lower(), None)
    return tuple(fields.values())


def _key_field(name: str, value: str) -> tuple[bytes, bytes]:
    if not _TOKEN.fullmatch(name) or not (value.isascii() and value.isprintable()):
        raise failure("configuration", "the API key holds characters no header can carry", "input")
    return name.lower().encode("ascii"), value.strip().encode("ascii")


def _field(name: str, value: str) -> tuple[bytes, bytes]:
    if not _TOKEN.fullmatch(name) or _CONTROL.search(value) or not value.isascii():
        raise failure("invalid_input", f"header {name[:40]!r} cannot be sent", "input")
    return name.encode("ascii"), value.strip().encode("ascii")


def bytes_of(wire: Wire) -> memoryview:
    """The request as it goes on the wire; a view, whose repr does not show the key."""
    lines = [b"%b %b HTTP/1.1" % (wire.method.encode("ascii"), wire.target.url.target)]
    lines += [b"%b: %b" % field for field in wire.fields]
    return memoryview(b"\r\n".join([*lines, b"", wire.body]))


def headers_of(fields: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The fields of an answer by their names in lower case; what comes twice is joined."""
    headers: Headers = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def head_of(status: int, headers: Headers, target: Target) -> HttpHead:
    """The head of an answer.

    Raises RedirectRefusedError for 3xx, and WireError where it tells its length in two ways.
    """
    if "content-length" in headers and "transfer-encoding" in headers:
        # Readers that choose differently would disagree on where the next answer begins (RFC 9112, 6.3).
        text = "the answer has both a content-length and a transfer-encoding"
        raise failure("protocol_error", text, "response", status=status)
    if "date" not in headers:  # decoders have no clock, and some need the time
        headers["date"] = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    head = HttpHead(status=status, headers=headers)
    _refuse_redirect(head, target)
    return head


def _refuse_redirect(head: HttpHead, target: Target) -> None:
    """Of the new address the error shows scheme, host and port."""
    if not 300 <= head.status < 400:
        return
    where = "an address that cannot be read"
    with suppress(ValueError):
        there = urllib.parse.urlsplit(urllib.parse.urljoin(target.origin, head.headers.get("location", "")))
        port = f":{there.port}" if there.port else ""
        where = f"{there.scheme}://{there.hostname or ''}{port}"[:200]
    message = f"{target.origin} answered with a redirect to {where}; redirects are not followed"
    raise failure("redirect_refused", message, "response", status=head.status)
