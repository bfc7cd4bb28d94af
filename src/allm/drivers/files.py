"""Image files that threads and tool results refer to, read before anything is sent or stored."""

from __future__ import annotations

import os
from stat import S_ISREG
from typing import Any

from msgspec.structs import replace

from allm.data.content import Image, ImagePart, Part
from allm.data.media import ImageRequest
from allm.data.messages import Message, Thread
from allm.errors import ValidationError
from allm.validation import MAX_IMAGE


def loaded(thread: Thread) -> Thread:
    """The thread with the bytes of its image files in place of their paths, so that it can be sent,
    stored and resumed elsewhere; the same thread where there are none.

    Raises one `ValidationError` with every file that cannot be read (`messages[i].content[j]`).
    """
    problems: list[tuple[str, str]] = []
    messages = [_message(message, f"messages[{i}]", problems) for i, message in enumerate(thread.messages)]
    if problems:
        raise ValidationError.of("an image cannot be read", *problems)
    return replace(thread, messages=tuple(messages))


def loaded_result(value: Any) -> Any:
    """What a tool returned, with the bytes of its image files; raises `OSError` or `ValueError`."""
    kind = type(value)
    if kind is ImagePart and value.image.path is not None:
        return replace(value, image=_read(value.image, value.image.path))
    if kind is Image and value.path is not None:
        return _read(value, value.path)
    if kind is list or kind is tuple:
        return kind([loaded_result(item) for item in value]) if any(map(_is_file, value)) else value
    return value


def loaded_request(request: ImageRequest) -> ImageRequest:
    """An image request with the bytes of its files. Raises one `ValidationError` with all that cannot be
    read."""
    problems: list[tuple[str, str]] = []

    def read(image: Image, path: str) -> Image:
        try:
            return image if image.path is None else _read(image, image.path)
        except (OSError, ValueError) as error:
            problems.append((path, f"unresolvable_image: {error}"))
            return image

    images = tuple([read(image, f"input_images[{i}]") for i, image in enumerate(request.input_images)])
    mask = read(request.mask, "mask") if request.mask is not None else None
    if problems:
        raise ValidationError.of("an image cannot be read", *problems)
    return replace(request, input_images=images, mask=mask)


def _is_file(value: Any) -> bool:
    image = value.image if type(value) is ImagePart else value
    return type(image) is Image and image.path is not None


def _message(message: Message, path: str, problems: list[tuple[str, str]]) -> Message:
    if isinstance(message.content, str):
        return message
    parts: list[Part] = []
    for index, part in enumerate(message.content):
        if type(part) is ImagePart and part.image.path is not None:
            try:
                part = replace(part, image=_read(part.image, part.image.path))
            except (OSError, ValueError) as error:
                problems.append((f"{path}.content[{index}]", f"unresolvable_image: {error}"))
        parts.append(part)
    return replace(message, content=tuple(parts))


def _read(image: Image, path: str) -> Image:
    status = os.stat(path)
    if not S_ISREG(status.st_mode):
        raise ValueError(f"not a file: {path!r}")
    if status.st_size > MAX_IMAGE:
        raise ValueError(f"larger than {MAX_IMAGE} bytes: {path!r}")
    with open(path, "rb") as file:
        read = Image.from_bytes(file.read(MAX_IMAGE + 1))
    return replace(
        image,
        data=read.data,
        path=None,
        mime_type=read.mime_type or image.mime_type,
        width=read.width,
        height=read.height,
    )
