"""Messages as Gemini's `contents`: turns of `user` and `model`, made of parts.

Tool results are parts of a user turn; system messages are not here (`systemInstruction`). Signatures go back
on the very part they came on, and no part with a signature is joined with another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from allm.data.content import (
    AudioPart,
    FilePart,
    Image,
    ImagePart,
    OpaquePart,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    base64_text,
)
from allm.data.messages import Message
from allm.errors import UnsupportedError
from allm.preparing import SIGNATURE
from allm.providers.encoding import arguments_object, image_bytes, stable

FILES = "https://generativelanguage.googleapis.com/v1beta/files/"
"""The URIs of the Files API; an id alone (`files/abc`) is refused as a `fileUri`."""

_TYPES = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "heic": "image/heic", "heif": "image/heif", "pdf": "application/pdf", "txt": "text/plain",
    "md": "text/markdown", "csv": "text/csv", "html": "text/html", "json": "application/json",
    "mp3": "audio/mp3", "wav": "audio/wav", "ogg": "audio/ogg", "flac": "audio/flac", "mp4": "video/mp4",
    "mov": "video/quicktime", "webm": "video/webm",
}  # fmt: skip


def contents_of(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The turns; neighbours of one role become one, so that all results of a turn stand together.

    Raises `ValidationError` for media that the wire has no place for.
    """
    contents: list[dict[str, Any]] = []
    calls: dict[str, ToolCall] = {}
    for message in messages:
        if message.role == "system":
            continue
        if message.role == "tool":
            parts = [_result(message, calls.get(message.tool_call_id or ""))]
        elif message.role == "assistant":
            parts = _parts(message)
            calls.update([(call.id, call) for call in message.tool_calls])
        else:
            parts = _parts(message) or [{"text": ""}]
        role = "model" if message.role == "assistant" else "user"
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})
    return contents


def _parts(message: Message) -> list[dict[str, Any]]:
    if type(message.content) is str:
        return [{"text": message.content}] if message.content else []
    return [encoded for encoded in map(_part, message.parts) if encoded]


def _part(part: Part) -> dict[str, Any]:
    """One part on the wire; nothing for one that has nothing to say."""
    encoded = _data(part)
    signature = part.provider_data.get(SIGNATURE)
    if signature:
        encoded[SIGNATURE] = signature
    elif type(part) is ReasoningPart or encoded == {"text": ""}:
        return {}  # thinking without a signature tells the model nothing
    return encoded


def _data(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    if isinstance(part, ReasoningPart):
        return {"text": part.text, "thought": True}
    if isinstance(part, ToolCall):
        return {"functionCall": _call(part)}
    if isinstance(part, OpaquePart):
        data = part.data if isinstance(part.data, dict) else {}
        return {name: stable(value) for name, value in sorted(data.items())}
    return _media(part)


def _call(call: ToolCall) -> dict[str, Any]:
    encoded: dict[str, Any] = {"name": call.name}
    encoded["args"] = arguments_object(call) if call.kind == "function" else stable(call.arguments)
    if not call.provider_data.get("made_id"):
        encoded["id"] = call.id
    return encoded


def _result(message: Message, call: ToolCall | None) -> dict[str, Any]:
    name = message.name or (call.name if call is not None else "")
    response: dict[str, Any] = {"name": name, "response": _response(message)}
    if call is None or not call.provider_data.get("made_id"):
        response["id"] = message.tool_call_id
    media = [_media(part) for part in message.parts if isinstance(part, ImagePart | AudioPart | FilePart)]
    if media:
        response["parts"] = media
    return {"functionResponse": response}


def _response(message: Message) -> Any:
    """What a tool gave: a JSON object as it is, other text as `output` or `error`."""
    text = message.text
    given = _json_object(text)
    if given is not None and (not message.is_error or "error" in given):
        return msgspec.Raw(text.encode())
    if not text and type(message.content) is not str:
        return {}  # it is all in the parts
    return {"error" if message.is_error else "output": text}


def _json_object(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _media(part: ImagePart | AudioPart | FilePart) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return _image(part.image)
    if isinstance(part, AudioPart):
        return _inline(f"audio/{part.format}", part.data)
    if part.data is not None:
        kind = part.mime_type or _type_of(part.filename or "") or "application/pdf"
        return _inline(kind, part.data)
    if part.url is not None:
        return _link(part.url, part.mime_type)
    return _link(_file_uri(part.file_id or ""), part.mime_type)


def _image(image: Image) -> dict[str, Any]:
    if image.url is not None:
        return _link(image.url, image.mime_type)
    mime_type, data = image_bytes(image)
    return {"inlineData": {"mimeType": mime_type, "data": data}}


def _inline(mime_type: str, data: bytes) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type, "data": base64_text(data)}}


def _link(url: str, mime_type: str | None) -> dict[str, Any]:
    """A link that Gemini reads itself: the Files API, Cloud Storage, public or signed HTTPS.

    Source: "File input methods" (ai.google.dev, read 2026-11); models before 2.5 take only the first.
    """
    if url.startswith("data:"):
        return _image(Image.from_data_uri(url))
    if not url.startswith(("https://", "gs://")):
        why = "use https:// or gs://, or send the bytes"
        raise UnsupportedError.of("Gemini cannot read this link", (f"{url[:80]!r}", why))
    data = {"fileUri": url}
    mime_type = mime_type or _type_of(urlsplit(url).path)
    if mime_type:
        data["mimeType"] = mime_type
    return {"fileData": data}


def _file_uri(file_id: str) -> str:
    return file_id if "://" in file_id else FILES + file_id.removeprefix("files/")


def _type_of(name: str) -> str | None:
    return _TYPES.get(name.rpartition(".")[2].lower())
