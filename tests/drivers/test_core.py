"""What httpcore2 writes and reads, as the connections here pass it on."""

from __future__ import annotations

import pytest

from allm.drivers.http.core import Joint
from allm.drivers.http.messages import wire_of
from allm.ports import HttpRequest

HEAD = b"POST / HTTP/1.1\r\nhost: h\r\n\r\n"


def joint(body: bytes) -> Joint:
    return Joint(wire_of(HttpRequest("https://h.invalid/", body), None))


def test_head_and_body_are_sent_at_once() -> None:
    writes = joint(b"body")
    assert [writes.joined(data) for data in (HEAD, b"body", b"")] == [b"", HEAD + b"body", b""]


def test_a_head_without_a_body_is_not_held_back() -> None:
    assert joint(b"").joined(HEAD) == HEAD


@pytest.mark.parametrize("question", [b"\x05\x01\x00", b"CONNECT h:443 HTTP/1.1\r\n\r\n"])
def test_what_a_proxy_is_asked_first_goes_at_once(question: bytes) -> None:
    writes = joint(b"body")
    assert writes.joined(question) == question
    assert bytes(writes.joined(HEAD)) == b""
    assert writes.joined(b"body") == HEAD + b"body"
