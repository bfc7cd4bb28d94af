"""Image answers and forms, read by an adapter or the standard library and held against what is expected."""

from __future__ import annotations

import email.parser
import email.policy
import struct
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from allm.data.content import Image
from allm.data.events import StreamFailed
from allm.data.failure import ErrorInfo
from allm.data.media import ImageRequest, ImageResponse
from allm.data.responses import Response
from allm.ports import CallContext, HttpHead, HttpRequest
from tests.decoder_support import JSON, media_events
from tests.wire_support import Record, _usage, compare, head_of, refused

SSE = HttpHead(200, {"content-type": "text/event-stream", "x-request-id": "req-1"})


def png(width: int = 3, height: int = 2) -> bytes:
    """A whole PNG, grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class FormPart(NamedTuple):
    name: str
    filename: str | None
    mime_type: str | None
    data: bytes


def form(content_type: str, body: bytes) -> list[FormPart]:
    """The parts of a form, as the standard library's parser of e-mail reads them."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    parts = []
    for part in message.iter_parts():
        assert part.get_content_disposition() == "form-data"
        data: Any = part.get_payload(decode=True)
        name: Any = part.get_param("name", header="content-disposition")
        kind = part.get_content_type() if part["content-type"] else None
        parts.append(FormPart(name, part.get_filename(), kind, data))
    return parts


def form_of(sent: HttpRequest) -> list[FormPart]:
    return form(sent.headers["content-type"], sent.body)


def events_of(
    adapter: Any, request: ImageRequest, pieces: Iterable[bytes], head: HttpHead = JSON
) -> list[Any]:
    """The events of an answer that comes in these reads; exactly one ends it."""
    return media_events(adapter.decoder(request, head, CallContext()), pieces)


def decoded(
    adapter: Any, request: ImageRequest, pieces: Iterable[bytes], head: HttpHead = JSON
) -> ImageResponse | ErrorInfo:
    """The images of an answer, or why there are none."""
    last = events_of(adapter, request, pieces, head)[-1]
    found: ImageResponse | ErrorInfo = last.error if type(last) is StreamFailed else last.result
    return found


def result_of(adapter: Any, record: Record, pieces: Iterable[bytes]) -> ImageResponse | ErrorInfo:
    if refusal := refused(adapter, record, pieces):
        return refusal
    count = len(record["expected"]["images"])
    return decoded(adapter, ImageRequest(prompt="recorded", n=count, model="asked"), pieces, head_of(record))


def differences(record: Record, result: ImageResponse | ErrorInfo) -> list[str]:
    """How a result differs from the record's `expected`; none is a pass."""
    expected = record["expected"]
    if expected["kind"] == "error":
        return compare(record, result if isinstance(result, ErrorInfo) else Response())
    if isinstance(result, ErrorInfo):
        return [f"refused: {result.reason}: {result.message}"]
    pairs: dict[str, tuple[Any, Any]] = {
        "images": (_expected(expected["images"]), [_seen(image) for image in result.images]),
        "text": (expected.get("text", ""), result.text),
        "error": (None, result.error),
        "revised prompts": (
            expected.get("revised_prompts", 0),
            sum(image.revised_prompt is not None for image in result.images),
        ),
    }
    if "finish" in expected:
        pairs["raw finish"] = (expected["finish"]["raw"], result.metadata.get("raw_finish_reason"))
        pairs["finish"] = (expected["finish"]["normalized"], result.finish_reason)
        pairs["id"] = (expected["id"], result.id)
    found = [f"{name}: expected {a!r}, got {b!r}" for name, (a, b) in pairs.items() if a != b]
    return found + _usage(expected["usage"], result.usage)


def _expected(images: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(image["mime"], image["bytes"], bool(image.get("url"))) for image in images]


def _seen(image: Image) -> tuple[Any, ...]:
    return image.mime_type, None if image.data is None else len(image.data), image.url is not None
