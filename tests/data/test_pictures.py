"""What the bytes of a picture tell, and where an image's bytes may go."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import allm
from allm.data import pictures
from allm.data.content import Image
from tests.image_support import png


def jpeg(width: int, height: int, *segments: bytes, marker: int = 0xC0) -> bytes:
    frame = struct.pack(">BBHBHHB", 0xFF, marker, 11, 8, height, width, 1) + b"\1\x11\0"
    return b"\xff\xd8" + b"".join(segments) + frame


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def webp(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(body) + 12) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


def lossless(width: int, height: int) -> bytes:
    return b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(5)


JFIF, EXIF = segment(0xE0, b"JFIF\0" + bytes(9)), segment(0xE1, b"Exif\0\0" + jpeg(9, 9))
PICTURES = {
    "png": (png(300, 200), "image/png", (300, 200)),
    "gif": (b"GIF89a" + struct.pack("<HH", 300, 200), "image/gif", (300, 200)),
    "jpeg": (jpeg(300, 200, JFIF), "image/jpeg", (300, 200)),
    "jpeg, progressive, a thumbnail before": (jpeg(300, 200, EXIF, marker=0xC2), "image/jpeg", (300, 200)),
    "jpeg, tables and fill bytes before": (
        jpeg(300, 200, JFIF, segment(0xC4, bytes(20)), b"\xff\xff"),
        "image/jpeg",
        (300, 200),
    ),
    "webp, lossy": (
        webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 300, 200 | 1 << 14)),
        "image/webp",
        (300, 200),
    ),
    "webp, lossless": (webp(b"VP8L", lossless(300, 200)), "image/webp", (300, 200)),
    "webp, extended": (
        webp(b"VP8X", bytes(4) + (299).to_bytes(3, "little") + (199).to_bytes(3, "little")),
        "image/webp",
        (300, 200),
    ),
    "bmp": (b"BM" + bytes(60), None, None),
    "no height": (jpeg(300, 0, JFIF), "image/jpeg", None),
    "jpeg, cut": (jpeg(300, 200, JFIF)[:28], "image/jpeg", None),
    "jpeg, fill bytes without end": (b"\xff\xd8" + b"\xff" * 100_000, "image/jpeg", None),
    "jpeg, segments without end": (b"\xff\xd8" + segment(0xE0, b"") * 100_000, "image/jpeg", None),
    "jpeg, lost": (b"\xff\xd8\xff\xe0\0\4..??" + bytes(20), "image/jpeg", None),
    "png, cut": (png()[:20], "image/png", None),
    "webp, of a kind to come": (webp(b"VP9 ", bytes(20)), "image/webp", None),
    "nothing": (b"", None, None),
}


@pytest.mark.parametrize("name", PICTURES)
def test_type_and_size(name: str) -> None:
    data, kind, size = PICTURES[name]
    assert (pictures.media_type(data), pictures.size(data)) == (kind, size)
    image = Image.from_bytes(data)
    assert (image.mime_type, image.width, image.height) == (kind, *(size or (None, None)))


@given(
    start=st.sampled_from([data[:cut] for data, _, _ in PICTURES.values() for cut in (3, 8, 12, 16)]),
    rest=st.binary(max_size=64),
)
def test_garbage_is_never_an_error(start: bytes, rest: bytes) -> None:
    size = pictures.size(start + rest)
    assert size is None or min(size) > 0


def test_all_ways_to_the_same_bytes_give_the_same_image() -> None:
    image = Image.from_bytes(png(4, 5))
    assert (image.width, image.height) == (4, 5)
    assert Image.from_data_uri(image.to_data_uri()) == image
    assert Image.from_base64(image.to_data_uri().partition(",")[2]) == image
    assert allm.from_json(allm.to_json(image)) == image
    assert allm.from_msgpack(allm.to_msgpack(image)) == image


def test_a_given_type_is_kept() -> None:
    assert Image.from_bytes(png(), "image/x-png").mime_type == "image/x-png"


def test_save(tmp_path: Path) -> None:
    image = Image.from_bytes(png())
    target = tmp_path / "kestrel"  # no extension is added
    assert image.save(str(target)) == target
    assert target.read_bytes() == image.to_bytes() == png()
    Image.from_bytes(b"other").save(target)
    assert target.read_bytes() == b"other"
    assert os.listdir(tmp_path) == ["kestrel"]


def test_save_leaves_nothing_behind_where_it_fails(tmp_path: Path) -> None:
    image = Image.from_bytes(png())
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        image.save(tmp_path / "taken")
    with pytest.raises(FileNotFoundError):
        image.save(tmp_path / "nowhere" / "kestrel.png")
    assert os.listdir(tmp_path) == ["taken"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such mode bits")
def test_a_saved_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    saved = Image.from_bytes(png()).save(tmp_path / "kestrel.png")
    assert saved.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.from_url("https://example.com/a.png?token=s3cret"), "a URL, not bytes: image: remote_source"),
        (Image.from_file("a.png"), "a file, not bytes: image: file_not_read"),
    ],
)
def test_bytes_that_are_elsewhere(image: Image, reason: str, tmp_path: Path) -> None:
    for use in (image.to_bytes, image.to_data_uri, lambda: image.save(tmp_path / "a.png")):
        with pytest.raises(allm.ValidationError, match=reason) as caught:
            use()
        assert "s3cret" not in str(caught.value)
    assert os.listdir(tmp_path) == []
