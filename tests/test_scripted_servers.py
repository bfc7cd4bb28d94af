"""What is scripted is what our adapters fold: every dialect, streamed and whole, on all three faces."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

import allm
from allm.testing import scripted
from allm.testing.rendering import rendered
from allm.testing.scripts import read_turn
from allm.testing.servers import KEY, ScriptedServer
from allm.testing.wire_requests import read_request
from tests.faces import FACES, Face, no_threads_left

PNG = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
DIALECTS = {
    "chat": ("openai:gpt-6-luna", {"endpoint": "chat"}),
    "responses": ("openai:gpt-6-luna", {}),
    "messages": ("anthropic:claude-haiku-5-5", {}),
    "generate": ("gemini:gemini-3.8-flash", {}),
}
SHOWING = [name for name in DIALECTS if name != "messages"]
CALLS = [
    {"tool_call": {"id": f"call_{city}", "name": "weather", "arguments": {"city": city, "days": [1, None]}}}
    for city in ("Oslo", "Čačak")
]

dialects = pytest.mark.parametrize("dialect", DIALECTS)
streaming = pytest.mark.parametrize("streaming", [True, False], ids=["stream", "whole"])
faces = pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)


def engine_of(server: ScriptedServer, dialect: str, streaming: bool = True) -> allm.Engine:
    model, options = DIALECTS[dialect]
    return server.engine(model, adapter_options={**options, "streaming": streaming}, retry=False)


# -- Chat ----------------------------------------------------------------------------------------------


@dialects
@streaming
@faces
def test_a_turn_is_folded_as_it_is_scripted(face: Face, dialect: str, streaming: bool) -> None:
    counts = {"input_tokens": 30, "output_tokens": 20, "cached_input_tokens": 10, "reasoning_tokens": 0}
    turn: list[Any] = [{"reasoning": ["Hm", "m."]}, {"text": ["Hel", "lo"]}, *CALLS, {"usage": counts}]
    with scripted([turn]) as server:
        seen = face.events(engine_of(server, dialect, streaming), "Hi", verb="stream_generate")
    response = seen.result
    assert (response.reasoning, response.text) == ("Hmm.", "Hello")
    assert [(call.id, call.name, call.arguments) for call in response.tool_calls] == [
        (entry["tool_call"]["id"], "weather", entry["tool_call"]["arguments"]) for entry in CALLS
    ]
    assert response.finish_reason == "tool_calls"
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens) == (30, 20, 10)
    assert response.model == DIALECTS[dialect][0].partition(":")[2]
    deltas = [event.text for event in seen.events if isinstance(event, allm.TextDelta)]
    assert deltas == (["Hel", "lo"] if streaming else ["Hello"])


@dialects
@streaming
@pytest.mark.parametrize("finish", ["stop", "length", "content_filter"])
def test_finish_reasons(dialect: str, streaming: bool, finish: str) -> None:
    with scripted([[{"text": "Hi"}, {"finish": finish}]]) as server:
        response = allm.generate(engine_of(server, dialect, streaming), "Hi")
    assert (response.text, response.finish_reason) == ("Hi", finish)


@pytest.mark.parametrize("dialect", SHOWING)
@streaming
@faces
def test_an_image_in_an_answer(face: Face, dialect: str, streaming: bool) -> None:
    with scripted([[{"text": "Look:"}, {"image": PNG}]]) as server:
        response = face.generate(engine_of(server, dialect, streaming), "Draw a dot")
    (image,) = [part.image for part in response.message.parts if isinstance(part, allm.ImagePart)]
    assert (image.data, image.mime_type, response.text) == (PNG, "image/png", "Look:")


REFUSALS = {
    400: "invalid_request",
    401: "authentication_failed",
    403: "permission_denied",
    404: "not_found",
    429: "rate_limited",
}


@dialects
@streaming
@pytest.mark.parametrize("status", REFUSALS)
def test_refusals(dialect: str, streaming: bool, status: int) -> None:
    fault = {"status": status, "message": "No.", "headers": {"retry-after": "3"}}
    with scripted([[{"error": fault}]]) as server, pytest.raises(allm.AllmError) as caught:
        allm.generate(engine_of(server, dialect, streaming), "Hi")
    info = caught.value.info
    assert (info.reason, info.status, info.message, info.retry_after) == (REFUSALS[status], status, "No.", 3)


@dialects
@streaming
@faces
def test_a_failure_is_retried(face: Face, dialect: str, streaming: bool) -> None:
    with scripted([[{"error": 503}], [{"text": "Hi"}]]) as server:
        engine = engine_of(server, dialect, streaming).merge(retry=allm.RetryPolicy(base_delay=0))
        assert face.generate(engine, "Hi").text == "Hi"


@dialects
@faces
def test_a_failure_in_mid_stream_keeps_what_came(face: Face, dialect: str) -> None:
    with scripted([[{"text": ["Hal", "f"]}, {"error": 503}]]) as server:
        seen = face.events(engine_of(server, dialect), "Hi", verb="stream_generate")
    assert isinstance(seen.error, allm.AllmError)
    assert seen.error.info.reason in ("overloaded", "provider_unavailable")
    assert seen.error.partial.text == "Half"


@dialects
@faces
def test_a_conversation_with_tools(face: Face, dialect: str) -> None:
    @allm.tool
    def weather(city: str, days: list[int | None]) -> str:
        """The forecast."""
        return f"sunny in {city}"

    with scripted([CALLS, [{"text": "Sunny in both."}]]) as server:
        engine = engine_of(server, dialect).merge(tools=[weather])
        result = face.chat(engine, "And the weather?")
    assert result.text == "Sunny in both."
    asked = server.asked[1].request
    assert [message.role for message in asked.messages] == ["user", "assistant", "tool", "tool"]
    assert [message.text for message in asked.messages[2:]] == ["sunny in Oslo", "sunny in Čačak"]
    assert [tool.name for tool in asked.tools] == ["weather"]


# -- What was asked --------------------------------------------------------------------------------------


@dialects
@streaming
def test_requests_are_read_back_alike(dialect: str, streaming: bool) -> None:
    picture = allm.ImagePart(allm.Image.from_bytes(PNG))
    call = allm.ToolCall("call_1", "look", {"at": "it"})
    thread = [
        allm.user([allm.TextPart("See?"), picture]),
        allm.assistant([allm.TextPart("Wait."), call]),
        allm.tool_result("call_1", "a dot"),
        allm.user("Well?"),
    ]
    tool = allm.ToolSpec("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}})
    with scripted([[{"text": "A dot."}]]) as server:
        engine = engine_of(server, dialect, streaming)
        allm.generate(engine, thread, system="Be brief.", tools=[tool], max_tokens=99)
    asked = server.asked[0]
    request = asked.request
    assert (asked.number, asked.dialect, asked.streaming) == (1, dialect, streaming)
    assert (request.system, request.max_tokens) == ("Be brief.", 99)
    assert f"{engine.ref.provider}:{request.model}" == DIALECTS[dialect][0]
    assert [(message.role, message.text) for message in request.messages] == [
        ("user", "See?"),
        ("assistant", "Wait."),
        ("tool", "a dot"),
        ("user", "Well?"),
    ]
    assert request.messages[0].parts[1].image.data == PNG
    (read,) = request.messages[1].tool_calls
    assert (read.id, read.name, read.arguments) == ("call_1", "look", {"at": "it"})
    (spec,) = request.tools
    assert (spec.name, spec.description, spec.schema["properties"]) == (
        tool.name,
        tool.description,
        tool.schema["properties"],
    )


@dialects
def test_the_format_of_the_answer_is_read_back(dialect: str) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    formats = [allm.json_schema("count", schema), None]
    with scripted([[{"text": '{"n": 1}'}], [{"text": "1"}]]) as server:
        for wanted in formats:
            allm.generate(engine_of(server, dialect), "Count.", response_format=wanted)
    shaped, plain = [asked.request.response_format for asked in server.asked]
    assert (shaped.type, list(shaped.schema["properties"])) == ("json_schema", ["n"])
    assert plain is None


@pytest.mark.parametrize("dialect", ["chat", "responses", "generate"])
def test_json_without_a_schema_is_read_back(dialect: str) -> None:
    with scripted([[{"text": "{}"}]]) as server:
        wanted = allm.ResponseFormat("json_object")
        allm.generate(engine_of(server, dialect), "Count in JSON.", response_format=wanted)
    assert server.asked[0].request.response_format.type == "json_object"


@dialects
def test_a_script_may_be_a_function_of_the_request(dialect: str) -> None:
    def echo(request: allm.Request) -> list[dict[str, Any]]:
        return [{"text": request.messages[-1].text.upper()}]

    with scripted(echo) as server:
        engine = engine_of(server, dialect)
        assert [allm.generate(engine, text).text for text in ("one", "two")] == ["ONE", "TWO"]
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("dialect", "header", "value"),
    [
        ("chat", "authorization", f"Bearer {KEY}"),
        ("responses", "authorization", f"Bearer {KEY}"),
        ("messages", "x-api-key", KEY),
        ("generate", "x-goog-api-key", KEY),
    ],
)
def test_no_real_key_is_sent(dialect: str, header: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(name, "sk-real-0123456789")
    with scripted([[{"text": "Hi"}]]) as server:
        allm.generate(engine_of(server, dialect), "Hi")
    assert server.asked[0].headers[header] == value
    assert "sk-real" not in repr(server.asked)


def test_a_compatible_server_is_spoken_to_in_its_own_way() -> None:
    with scripted([[{"text": "Hi"}]]) as server:
        assert allm.generate(server.engine("groq:qwen"), "Hi").text == "Hi"
    assert server.asked[0].path == "/openai/v1/chat/completions"


# -- The official types ------------------------------------------------------------------------------


def asked_of(dialect: str, streaming: bool, path: str | None = None, **fields: Any) -> Any:
    method = "streamGenerateContent" if streaming else "generateContent"
    paths = {
        "chat": "/v1/chat/completions",
        "responses": "/v1/responses",
        "messages": "/v1/messages",
        "generate": f"/v1/models/m:{method}",
    }
    body = {"model": "m", "stream": streaming, "stream_options": {"include_usage": True}, **fields}
    return read_request(1, path or paths[dialect], {}, json.dumps(body).encode())


def events_of(entries: list[dict[str, Any]], asked: Any) -> list[Any]:
    """The JSON documents of an answer: one, or those of a stream."""
    answer = rendered(read_turn(entries), asked)
    if not asked.streaming:
        return [json.loads(b"".join(answer.reads))]
    payloads = [read.decode().partition("data: ")[2].strip() for read in answer.reads]
    return [json.loads(payload) for payload in payloads if payload != "[DONE]"]


def sdk_type(dialect: str, streaming: bool) -> Any:
    sdk = {"messages": "anthropic", "generate": "google.genai"}.get(dialect, "openai")
    pytest.importorskip(sdk, reason=f"the SDK {sdk} is not installed")
    if dialect == "generate":
        from google.genai.types import GenerateContentResponse

        return GenerateContentResponse
    if dialect == "messages":
        from anthropic.types import Message, RawMessageStreamEvent

        return RawMessageStreamEvent if streaming else Message
    if dialect == "chat":
        from openai.types.chat import ChatCompletion, ChatCompletionChunk

        return ChatCompletionChunk if streaming else ChatCompletion
    if dialect == "images":
        from openai.types import ImageEditStreamEvent, ImageGenStreamEvent, ImagesResponse

        return ImageGenStreamEvent | ImageEditStreamEvent if streaming else ImagesResponse
    if dialect == "embeddings":
        from openai.types import CreateEmbeddingResponse

        return CreateEmbeddingResponse
    from openai.types.responses import Response, ResponseStreamEvent

    return ResponseStreamEvent if streaming else Response


def check(documents: list[Any], type: Any) -> None:
    from pydantic import TypeAdapter

    adapter = TypeAdapter[Any](type)
    assert documents
    for document in documents:
        adapter.validate_python(document)


@dialects
@streaming
@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls"])
def test_answers_fit_the_official_types(dialect: str, streaming: bool, finish: str) -> None:
    shown = [{"image": PNG}] if dialect in ("responses", "generate") else []
    turn: list[Any] = [{"reasoning": "Hm."}, {"text": ["a", "b"]}, *CALLS, *shown, {"finish": finish}]
    check(events_of(turn, asked_of(dialect, streaming)), sdk_type(dialect, streaming))


@streaming
@pytest.mark.parametrize("operation", ["generations", "edits"])
def test_images_fit_the_official_types(streaming: bool, operation: str) -> None:
    turn: list[Any] = [{"partial_image": PNG}, {"image": {"data": PNG, "revised_prompt": "A dot."}}]
    documents = events_of(turn, asked_of("images", streaming, f"/v1/images/{operation}"))
    check(documents, sdk_type("images", streaming))


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_fit_the_official_types(encoding: str) -> None:
    asked = asked_of("embeddings", False, "/v1/embeddings", input="a", encoding_format=encoding)
    documents = events_of([{"vectors": [[1.0, 0.5]]}], asked)
    if encoding == "float":  # the type of the SDK is what it has decoded
        check(documents, sdk_type("embeddings", False))
    expected = [1.0, 0.5] if encoding == "float" else "AACAPwAAAD8="
    assert documents[0]["data"][0]["embedding"] == expected


# -- Images and embeddings -----------------------------------------------------------------------------

EMBEDDERS = ["openai:text-embedding-3-small", "gemini:gemini-embedding-001", "voyage:voyage-4", "mistral:m"]
PAINTERS = {"openai": "openai:gpt-image-2", "gemini": "gemini:gemini-3.1-flash-image"}


@pytest.mark.parametrize("model", EMBEDDERS)
@faces
def test_vectors_are_those_of_the_script(face: Face, model: str) -> None:
    vectors = [[0.5, -0.25, 0.0], [1.0, 2.0, 4.0]]
    with scripted([[{"vectors": vectors}]]) as server:
        engine = server.engine(embed_adapter=model)
        response = face.call("embed", engine, ["a", "b"])
    assert response.vectors() == vectors
    assert server.asked[0].request.input == ("a", "b")
    assert server.asked[0].model == model.partition(":")[2]


@pytest.mark.parametrize("provider", PAINTERS)
@faces
def test_an_image_is_that_of_the_script(face: Face, provider: str) -> None:
    with scripted([[{"image": PNG}]]) as server:
        engine = server.engine(image_adapter=PAINTERS[provider])
        response = face.call("generate_image", engine, "A dot")
    assert (response.image.data, response.image.mime_type) == (PNG, "image/png")
    assert server.asked[0].model == PAINTERS[provider].partition(":")[2]


@pytest.mark.parametrize("provider", PAINTERS)
@faces
def test_an_edit_shows_the_server_the_image(face: Face, provider: str) -> None:
    with scripted([[{"image": PNG}]]) as server:
        engine = server.engine(image_adapter=PAINTERS[provider])
        response = face.call("edit_image", engine, allm.Image.from_bytes(PNG), "Make it red")
    assert response.image.data == PNG
    request = server.asked[0].request
    if provider == "openai":
        assert (request.operation, request.prompt) == ("edit", "Make it red")
        assert [image.data for image in request.input_images] == [PNG]
    else:
        (part,) = [part for part in request.messages[0].parts if isinstance(part, allm.ImagePart)]
        assert (part.image.data, request.messages[0].text) == (PNG, "Make it red")


def test_an_image_of_a_form_or_behind_a_link_is_read_back() -> None:
    link = allm.Image.from_url("https://example.com/a.png")
    red = allm.Image.from_bytes(PNG)
    with scripted([[{"image": PNG}], [{"image": PNG}]]) as server:
        engine = server.engine(image_adapter=PAINTERS["openai"])
        allm.edit_image(engine, [red, red], "Both", mask=red)
        allm.edit_image(engine, [link, red], "Both", mask=link)
    form, linked = [asked.request for asked in server.asked]
    assert [image.data for image in (*form.input_images, form.mask)] == [PNG] * 3
    assert [(image.url, image.data) for image in linked.input_images] == [(link.url, None), (None, PNG)]
    assert linked.mask.url == link.url


@faces
def test_partial_images_come_before_the_whole(face: Face) -> None:
    with scripted([[{"partial_image": PNG[:40]}, {"image": PNG}]]) as server:
        engine = server.engine(image_adapter=PAINTERS["openai"])
        seen = face.events(engine, "A dot", verb="stream_generate_image", options={"partial_images": 1})
    first = next(event for event in seen.events if isinstance(event, allm.MediaProgress))
    assert first.part is not None
    assert first.part.image.data == PNG[:40]
    assert seen.result.image.data == PNG


# -- Mistakes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ([], "no turn for request 1"),
        ([[{"text": "a"}, {"image": PNG}]], "has an entry 'image'"),
        ([[{"tool_call": {"id": "a", "name": "b", "raw_arguments": "{"}}]], "are not JSON"),
        (lambda request: [{"text": str(1 // 0)}], "by zero"),
        (lambda request: [{"txet": "a"}], "'txet'"),
        (lambda request: None, "a turn is a list of entries, not NoneType"),
    ],
)
def test_a_wrong_script_is_refused_and_named_at_the_end(script: Any, said: str) -> None:
    server = ScriptedServer(script)
    with pytest.raises(allm.InvalidRequestError, match=said):
        allm.generate(engine_of(server, "messages", streaming=False), "Hi")
    server.close()
    with pytest.raises(allm.ConfigurationError, match=said):
        server.check()


def test_no_server_can_answer_for_what_runs_in_this_process() -> None:
    with scripted([]) as server, pytest.raises(allm.ConfigurationError, match="runs in this process"):
        server.engine("fake")


def test_turns_that_were_not_played_are_named() -> None:
    with pytest.raises(allm.ConfigurationError, match="1 of 1 turns were not played"), scripted([[]]):
        pass


@pytest.mark.parametrize(
    "entry",
    [
        {"txet": "a"},
        {"text": "a", "finish": "stop"},
        {"tool_call": {"id": "a"}},
        {"usage": {"input_tokens": "many"}},
        "a",
    ],
)
def test_entries_are_checked_before_anything_is_served(entry: Any) -> None:
    with pytest.raises(allm.ConfigurationError, match="entry"), scripted([[entry]]):
        raise AssertionError("it was served")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (5, "a script is a list of turns, or a function of the request, not int"),
        ("abc", "a script is a list of turns"),
        ({"text": "a"}, "a script is a list of turns"),
        ([5], "a turn is a list of entries, not int"),
        ([{"text": "a"}], "a turn is a list of entries, not dict"),
    ],
)
def test_what_is_no_script_is_refused(script: Any, said: str) -> None:
    with no_threads_left(), pytest.raises(allm.ConfigurationError, match=said), scripted(script):
        raise AssertionError("it was served")


BROKEN = {"tool_call": {"id": "a", "name": "weather", "raw_arguments": '{"city": '}}


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
def test_broken_arguments_are_streamed_as_they_are(dialect: str) -> None:
    with scripted([[BROKEN]]) as server:
        (call,) = allm.generate(engine_of(server, dialect), "Hi").tool_calls
    assert (call.name, call.raw_arguments, call.arguments_invalid) == ("weather", '{"city": ', True)


def test_broken_arguments_are_no_object() -> None:
    server = ScriptedServer([[BROKEN]])
    with pytest.raises(
        allm.InvalidRequestError, match="of 'weather' are not JSON, and here an object is sent"
    ):
        allm.generate(engine_of(server, "generate"), "Hi")
    server.close()


def test_an_error_of_the_block_is_not_hidden() -> None:
    with pytest.raises(KeyError), scripted([[{"text": "a"}]]):
        raise KeyError


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/moderations", b"{}", 404, "nothing is served there"),
        ("/v1/embeddings", b"[]", 400, "a request is a JSON object"),
        ("/v1/embeddings", b"{", 400, "JSONDecodeError"),
    ],
)
def test_what_is_no_request_is_refused(path: str, body: bytes, status: int, said: str) -> None:
    server = ScriptedServer([])
    connection = HTTPConnection(urlsplit(server.url).netloc)
    connection.request("POST", path, body)
    answer = connection.getresponse()
    assert answer.status == status
    assert said in json.load(answer)["error"]["message"]
    connection.close()
    server.close()
    assert server.asked == []


def test_nothing_is_left_running() -> None:
    with no_threads_left(), scripted([[{"text": "a"}]] * 3) as server:
        engine = engine_of(server, "chat")
        readers = [threading.Thread(target=allm.generate, args=(engine, "Hi")) for _ in range(3)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
