"""Recordings: what is written and what never is, replay on every face, damage, and the modes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import allm
from allm.data.failure import ErrorInfo
from allm.ports import HttpHead, HttpRequest
from allm.testing import record, recorded, replay
from allm.testing.cassette import begun, load, written
from allm.testing.played import Answer, Played
from tests.faces import Face
from tests.loopback import Loopback

SECRET = "zz9-plural-alpha-71"  # looks like no known key, so that only its being the key can hide it
LOOKALIKE = "sk-proj-abcdefghijkl1234"
SSE = {"content-type": "text/event-stream", "x-request-id": "req_1", "set-cookie": "session=abc"}


def stream_of(*pieces: str) -> bytes:
    """A Chat Completions stream with these deltas."""
    chunks: list[Any] = [
        {"id": "c", "choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces
    ]
    chunks.append({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"


def in_events(body: bytes) -> tuple[bytes, ...]:
    return tuple(piece + b"\n\n" for piece in body.split(b"\n\n") if piece)


def playing(*reads: bytes, status: int = 200, headers: dict[str, str] = SSE) -> Played:
    return Played(lambda _: Answer(HttpHead(status, headers), reads))


def engine(transport: Any, **fields: Any) -> allm.Engine:
    options: dict[str, Any] = {"base_url": "http://127.0.0.1:1/v1", "retry": False, **fields}
    return allm.Engine("compatible:m", transport=transport, **options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    return tmp_path / "tapes" / "hello.jsonl"


def made(tape: Path, *texts: str, ask: str = "Hi") -> None:
    """A recording of one call whose answer has these deltas."""
    with record(tape, playing(*in_events(stream_of(*texts)))) as transport:
        allm.generate(engine(transport), ask, api_key=SECRET)


# Recording


def test_a_recording_is_replayed_on_every_face(tape: Path, face: Face) -> None:
    reads = in_events(stream_of("Grü", "ezi ☃"))
    with record(tape, playing(*reads)) as transport:
        first = face.events(engine(transport), "Hi", verb="stream_generate", api_key=SECRET)
    with replay(tape) as again:
        second = face.events(engine(again), "Hi", verb="stream_generate")
    assert second == first
    assert first.result.text == "Grüezi ☃"


def test_the_file_is_lines_that_a_person_can_read(tape: Path) -> None:
    made(tape, "Grü", "ezi")
    begin, request, answer, *reads, end = lines(tape)
    assert begin == {"line": "recording", "version": 1}
    assert request["url"] == "http://127.0.0.1:1/v1/chat/completions"
    assert request["json"]["messages"] == [{"role": "user", "content": "Hi"}]
    assert request["headers"] == {"accept": "text/event-stream", "content-type": "application/json"}
    assert answer["status"] == 200
    assert answer["headers"] == {"content-type": "text/event-stream", "x-request-id": "req_1"}
    assert "".join(read["text"] for read in reads).encode() == stream_of("Grü", "ezi")
    assert end == {"line": "end", "how": "complete"}


def test_what_came_over_a_socket_is_replayed_without_it(tape: Path, face: Face) -> None:
    body = stream_of("Hel", "lo")
    with Loopback(lambda path, _: (200, SSE, body)) as server:
        url = f"{server.url}/bytewise/v1"
        with record(tape) as transport:
            result = face.generate(engine(transport, base_url=url), "Hi", api_key=SECRET)
        assert server.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert result.text == "Hello"
    assert SECRET not in tape.read_text()
    with replay(tape) as again:  # the server is gone
        assert face.generate(engine(again, base_url=url), "Hi").text == "Hello"


def test_what_is_not_utf8_or_not_json_is_kept_as_it_was(tape: Path) -> None:
    snowman = "☃".encode()
    request = HttpRequest("http://h/upload?alt=sse", b"\xff\x00", {"content-type": "audio/wav"})
    text = HttpRequest("http://h/upload", b"hello")
    empty = HttpRequest("http://h/models", method="GET")
    with record(tape, playing(snowman[:1], snowman[1:], status=201)) as transport:
        for sent in (request, text, empty):
            body = transport.blocking.open(sent, allm.Timeouts())
            while body.read(None):
                pass
    written = lines(tape)
    assert written[1]["base64"] == "/wA="
    assert {name for line in written if line["line"] == "read" for name in line} == {"line", "base64"}
    assert written[-1] == {"line": "end", "how": "complete"}
    with replay(tape) as again:
        for sent in (request, text, empty):
            played = again.blocking.open(sent, allm.Timeouts())
            assert [played.read(None) for _ in range(4)] == [snowman[:1], snowman[1:], b"", b""]
            assert played.head.status == 201


def test_parallel_calls_each_keep_their_own_reads(tape: Path) -> None:
    gate = threading.Barrier(4)

    def answer(request: HttpRequest) -> Answer:
        gate.wait(10)
        said = json.loads(request.body)["messages"][0]["content"]
        return Answer(HttpHead(200, SSE), in_events(stream_of(said, "!")))

    texts: dict[str, str] = {}
    with record(tape, Played(answer)) as transport:
        asked = engine(transport)

        def ask(text: str) -> None:
            texts[text] = allm.generate(asked, text, api_key=SECRET).text

        threads = [threading.Thread(target=ask, args=(str(n),)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == {str(n): f"{n}!" for n in range(4)}
    with replay(tape) as again:
        for n in (2, 0, 3, 1):
            assert allm.generate(engine(again), str(n)).text == f"{n}!"


def test_a_stream_left_early_is_kept_with_what_came(tape: Path, face: Face) -> None:
    inner = playing(*in_events(stream_of("Hel", "lo", " you")))
    with record(tape, inner) as transport:
        face.consume(engine(transport), "Hi", body=lambda _, e: type(e) is allm.TextDelta, api_key=SECRET)
    assert (inner.opened, inner.closed) == (1, 1)
    assert lines(tape)[-1]["how"] == "closed"
    assert sum(line["line"] == "read" for line in lines(tape)) == 1
    with replay(tape) as again:
        seen = face.events(engine(again), "Hi")
    assert isinstance(seen.error, allm.ConfigurationError)
    assert "ends here" in str(seen.error)
    assert seen.error.partial.text == "Hel"


def test_a_call_under_way_is_written_when_the_block_is_left(tape: Path) -> None:
    with record(tape, playing(*in_events(stream_of("Hel", "lo")))) as transport:
        stream = allm.stream(engine(transport), "Hi", api_key=SECRET)
        next(stream)
        assert not tape.exists()
    assert lines(tape)[-1] == {"line": "end", "how": "closed"}
    stream.close()


def test_a_call_without_its_answer_is_not_written(tape: Path) -> None:
    def answer(request: HttpRequest) -> Answer:
        transport.close()
        assert load(tape) == []
        return Answer(HttpHead(200, SSE), in_events(stream_of("Hi")))

    with record(tape, Played(answer)) as transport:
        allm.generate(engine(transport), "Hi", api_key=SECRET)
    assert len(load(tape)) == 1


@pytest.mark.parametrize("opened", [True, False], ids=["while reading", "while connecting"])
def test_a_broken_connection_is_part_of_the_recording(tape: Path, face: Face, opened: bool) -> None:
    failure = ErrorInfo(reason="network_error", message=f"reset by {SECRET}", retryable=True)
    head = HttpHead(200, SSE) if opened else None
    reads = in_events(stream_of("Hel", "lo"))[: 1 if opened else 0]
    with record(tape, Played(lambda _: Answer(head, reads, failure))) as transport:
        face.events(engine(transport), "Hi", api_key=SECRET)
    assert SECRET not in tape.read_text()
    with replay(tape) as again:
        seen = face.events(engine(again), "Hi")
    assert isinstance(seen.error, allm.ConnectionFailedError)
    assert seen.error.info.retryable
    assert seen.error.partial.text == ("Hel" if opened else "")


def test_a_call_given_up_while_connecting_leaves_nothing(tape: Path) -> None:
    def answer(request: HttpRequest) -> Answer:
        raise KeyboardInterrupt

    with record(tape, Played(answer)) as transport, pytest.raises(KeyboardInterrupt):
        allm.generate(engine(transport), "Hi", api_key=SECRET)
    assert lines(tape) == [{"line": "recording", "version": 1}]


def test_a_transport_of_the_other_face_is_refused(tape: Path, face: Face) -> None:
    inner = playing()
    wrong = inner.awaited if face.name == "blocking" else inner.blocking
    with record(tape, wrong) as transport, pytest.raises(allm.AllmError, match="cannot be used on the"):
        face.generate(engine(transport), "Hi", api_key=SECRET)
    with pytest.raises(allm.ConfigurationError, match="transport is a"):
        face.generate(engine(wrong), "Hi", api_key=SECRET)


def test_of_two_equal_calls_the_one_given_up_is_forgotten(tape: Path) -> None:
    request = HttpRequest("http://h/p", b"{}")
    with record(tape) as transport:
        first, second = transport.begin(request, None), transport.begin(request, None)
        transport.drop(second)
        first.head = HttpHead(204)
        transport.end(first, "complete")
    assert [exchange.head for exchange in load(tape)] == [HttpHead(204)]


# Keys


def test_no_key_is_shown_by_the_objects(tape: Path) -> None:
    with record(tape, playing(ECHO.encode(), status=401)) as transport:
        body = transport.blocking.open(
            HttpRequest("http://h/p"), allm.Timeouts(), ("authorization", f"Bearer {SECRET}")
        )
        while body.read(None):
            pass
        shown = [transport, body, body._exchange]
        assert not any(SECRET in repr(value) for value in shown)
        assert SECRET not in repr(vars(transport))
        assert SECRET.encode() not in b"".join(body._exchange.reads)


ECHO = json.dumps({"error": {"message": f"Bad key {SECRET}, not {LOOKALIKE}", "code": "invalid_api_key"}})


def test_no_key_reaches_the_file_by_any_way(tape: Path, face: Face) -> None:
    echo = ECHO.encode()
    cut = echo.index(SECRET.encode()) + 5
    headers = {**SSE, "content-type": f"application/json; note={SECRET}", "x-request-id": LOOKALIKE}
    inner = playing(echo[:cut], echo[cut : cut + 3], echo[cut + 3 :], status=401, headers=headers)
    hosted = {
        "type": "mcp",
        "authorization": "Bearer opaque-token-5",
        "headers": {"X-Api-Key": "plain-one-6"},
    }
    with record(tape, inner) as transport:
        asked = engine(transport, base_url=f"http://me:{SECRET}@127.0.0.1:1/v1?key={SECRET}&alt=sse")
        options = {"tools": [hosted], "user": LOOKALIKE, "note": f"my\n{LOOKALIKE} and {SECRET}"}
        face.events(asked, f"The key is {SECRET}.", options=options, api_key=SECRET)
    text = tape.read_text()
    for secret in (SECRET, LOOKALIKE, "opaque-token-5", "plain-one-6", 'authorization": "B', "set-cookie"):
        assert secret not in text
    request = lines(tape)[1]
    assert request["url"] == "http://127.0.0.1:1/v1/chat/completions?alt=sse"
    assert request["json"]["messages"][0]["content"] == "The key is [redacted]."
    assert "".join(line["text"] for line in lines(tape) if line["line"] == "read") == (
        '{"error": {"message": "Bad key [redacted], not [redacted]", "code": "invalid_api_key"}}'
    )


def test_a_cleaned_request_still_matches(tape: Path) -> None:
    options = {"tools": [{"type": "mcp", "authorization": "Bearer opaque-token-5"}]}
    with record(tape, playing(*in_events(stream_of("Hi")))) as transport:
        allm.generate(engine(transport), f"Hi {LOOKALIKE}", options=options, api_key=SECRET)
    options["tools"][0]["authorization"] = "Bearer another-token-7"
    with replay(tape) as again:
        answer = allm.generate(engine(again), f"Hi {LOOKALIKE}", options=options)
    assert answer.text == "Hi"


def test_cleaning_leaves_the_rest_alone() -> None:
    body = {"properties": {"api_key": {"type": "string"}, "key_value_store": {}}, "required": ["api_key"]}
    sent = begun(HttpRequest("http://h/p", json.dumps(body).encode()), ("authorization", "Bearer k")).sent
    assert sent.json == body
    text = "the key_value_store of\\nline\\u00e9nd " + "x" * 40
    assert begun(HttpRequest("http://h/p", text.encode()), None).sent.text == text


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_key_over_read_borders_is_found(size: int) -> None:
    body = f"a {SECRET} b {LOOKALIKE}\nc\\n{LOOKALIKE} d".encode()
    exchange = begun(HttpRequest("http://h/p"), ("authorization", f"Bearer {SECRET}"))
    exchange.head = HttpHead(200)
    exchange.reads = [body[at : at + size] for at in range(0, len(body), size)]
    reads = [json.loads(line) for line in written([exchange]).split(b"\n")[3:-2]]
    assert all(read["text"] for read in reads)
    assert "".join(read["text"] for read in reads) == "a [redacted] b [redacted]\nc\\n[redacted] d"


# Replaying


@pytest.mark.parametrize("reads", ["recorded", "whole", "bytewise"])
def test_the_borders_of_the_reads(tape: Path, face: Face, reads: Any) -> None:
    made(tape, "Grü", "ezi")
    pieces: list[bytes] = []
    with replay(tape, reads=reads) as again:
        opened = again._answer

        def answer(request: HttpRequest) -> Answer:
            found = opened(request)
            pieces.extend(found.reads)
            return found

        assert face.generate(engine(Played(answer)), "Hi").text == "Grüezi"
    body = stream_of("Grü", "ezi")
    expected = {
        "recorded": list(in_events(body)),
        "whole": [body],
        "bytewise": [body[at : at + 1] for at in range(len(body))],
    }
    assert pieces == expected[reads]


def test_equal_requests_are_answered_in_their_order_and_each_once(tape: Path) -> None:
    answers = iter(["one", "two"])
    inner = Played(lambda _: Answer(HttpHead(200, SSE), in_events(stream_of(next(answers)))))
    with record(tape, inner) as transport:
        for _ in range(2):
            allm.generate(engine(transport), "Hi", api_key=SECRET)
    with replay(tape) as again:
        assert [allm.generate(engine(again), "Hi").text for _ in range(2)] == ["one", "two"]
        with pytest.raises(allm.ConfigurationError, match="played before, and each is played once"):
            allm.generate(engine(again), "Hi")


def test_a_request_that_was_not_recorded_names_the_nearest(tape: Path, face: Face) -> None:
    with record(tape, playing(*in_events(stream_of("Hello")))) as transport:
        for text in ("Say hello", "Something else altogether"):
            allm.generate(engine(transport), text, temperature=0.5, api_key=SECRET)
    with replay(tape, strict=False) as again, pytest.raises(allm.ConfigurationError) as caught:
        face.generate(engine(again), "Say hello!", temperature=0.5, seed=1)
    assert (
        "no unplayed exchange for POST /v1/chat/completions; the nearest differs in "
        'body.messages[0].content: recorded "Say hello", asked "Say hello!"; '
        "body.seed: recorded nothing, asked 1; to record anew"
    ) in str(caught.value)


def test_an_empty_recording_says_so(tape: Path) -> None:
    with record(tape):
        pass
    with replay(tape) as again, pytest.raises(allm.ConfigurationError, match="the recording is empty"):
        allm.generate(engine(again), "Hi")


def test_what_was_not_played_is_an_error_unless_told_otherwise(tape: Path) -> None:
    made(tape, "Hello")
    with pytest.raises(allm.ConfigurationError, match=r"1 of the 1 exchanges of .* were not"), replay(tape):
        pass
    with replay(tape, strict=False) as again:
        assert [sent.method for sent in again.unplayed] == ["POST"]
    with pytest.raises(ZeroDivisionError), replay(tape):
        1 / 0  # noqa: B018


def test_the_whole_loop_with_tools_is_replayed(tape: Path, face: Face) -> None:
    @allm.tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1,"b":2}'}}
    asks = {"choices": [{"index": 0, "message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    says = {"choices": [{"index": 0, "message": {"content": "3"}, "finish_reason": "stop"}]}

    def answer(request: HttpRequest) -> Answer:
        body = says if len(json.loads(request.body)["messages"]) > 1 else asks
        return Answer(HttpHead(200, {"content-type": "application/json"}), (json.dumps(body).encode(),))

    def ask(transport: Any) -> allm.ChatResult:
        whole = {"streaming": False}
        return face.chat(engine(transport, tools=[add], adapter_options=whole), "1+2?", api_key=SECRET)

    with record(tape, Played(answer)) as transport:
        first = ask(transport)
    with replay(tape) as again:
        assert ask(again) == first
    assert first.text == "3"
    assert [line["how"] for line in lines(tape) if line["line"] == "end"] == ["complete", "complete"]


# The file


def test_a_missing_recording_says_how_to_make_one(tape: Path) -> None:
    with pytest.raises(allm.ConfigurationError, match=r"make it with allm\.testing\.record"):
        replay(tape)


@pytest.mark.parametrize(
    ("damage", "line", "why"),
    [
        (lambda text: "", 1, "empty"),
        (lambda text: text.replace('"version":1', '"version":2'), 1, "version 2; this allm reads"),
        (lambda text: "\n".join(text.split("\n")[1:]), 1, "not that of a recording"),
        (lambda text: text[: text.index('"line":"read"') + 30], 4, "JSON|truncated|end"),
        (lambda text: text.replace('{"line":"end","how":"complete"}\n', ""), 6, "has no end"),
        (lambda text: text.replace('"status":200', '"status":"ok"'), 3, "Expected `int`"),
        (lambda text: text.replace('"line":"answer"', '"line":"answr"'), 3, "answr"),
        (lambda text: text + text, 8, "second recording"),
        (lambda text: text.replace('"how":"complete"', '"how":"odd"'), 7, "odd"),
        (lambda text: text + '{"line":"read","text":"x"}\n', 8, "out of place"),
        (lambda text: text.replace('"line":"read","text"', '"line":"read","base64"', 1), 4, "."),
        (lambda text: "[" * 100_000, 1, "."),
    ],
)
def test_damage_is_told_with_its_line(tape: Path, damage: Callable[[str], str], line: int, why: str) -> None:
    made(tape, "Hel")
    tape.write_text(damage(tape.read_text()))
    with pytest.raises(allm.ValidationError, match=rf"hello\.jsonl, line {line}: .*(?:{why})"):
        replay(tape)


def test_a_file_that_was_read_and_written_is_the_same(tape: Path) -> None:
    made(tape, "Grü", "ezi")
    before = tape.read_bytes()
    assert written(load(tape)) == before


def test_writing_replaces_the_file_in_one_move(tape: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tape, "old")
    before = tape.read_bytes()

    def refuse(self: Path, target: Path) -> Path:
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refuse)
        with pytest.raises(OSError, match="no space"):
            made(tape, "new")
    assert tape.read_bytes() == before


# Modes


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("ALLM_RECORD", raising=False)
    return monkeypatch


def asked(tape: Path, inner: Played, **options: Any) -> str:
    with recorded(tape, inner, **options) as transport:
        return allm.generate(engine(transport), "Hi", api_key=SECRET).text


def test_recorded_records_once_and_replays_after(tape: Path, unset: pytest.MonkeyPatch) -> None:
    inner = playing(*in_events(stream_of("Hello")))
    assert [asked(tape, inner), asked(tape, inner)] == ["Hello", "Hello"]
    assert inner.opened == 1
    assert asked(tape, inner, mode="record") == "Hello"
    assert inner.opened == 2


def test_the_environment_decides(tape: Path, unset: pytest.MonkeyPatch) -> None:
    inner = playing(*in_events(stream_of("Hello")))
    unset.setenv("ALLM_RECORD", "replay")
    with pytest.raises(allm.ConfigurationError, match="no recording"):
        asked(tape, inner)
    unset.setenv("ALLM_RECORD", "record")
    asked(tape, inner)
    asked(tape, inner)
    assert inner.opened == 2
    assert asked(tape, inner, mode="auto") == "Hello"
    assert inner.opened == 2


@pytest.mark.parametrize("by", ["mode", "ALLM_RECORD", "reads"])
def test_unknown_words_are_refused(tape: Path, unset: pytest.MonkeyPatch, by: str) -> None:
    made(tape, "Hello")
    options: dict[str, Any] = {} if by == "ALLM_RECORD" else {by: "once"}
    if not options:
        unset.setenv(by, "once")
    with pytest.raises(allm.ConfigurationError, match=f"{by}='once' is not one of"):
        recorded(tape, **options)
