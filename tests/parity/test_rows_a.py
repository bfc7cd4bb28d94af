"""Rows A of the parity table: data and serialisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import allm
from allm.data import responses
from tests.parity.support import Transport, wired
from tests.test_loop import DONE, calls, double, fake, requests

PNG = b"\x89PNG\r\n\x1a\n"


def test_f001_message_has_four_roles() -> None:
    made = (allm.system("s"), allm.user("u"), allm.assistant("a"), allm.tool_result("c", "t"))
    assert [(m.role, m.content) for m in made] == [
        ("system", "s"), ("user", "u"), ("assistant", "a"), ("tool", "t"),
    ]  # fmt: skip
    for message in made:
        allm.validate(message)


def test_f002_parts_keep_their_order_on_the_wire() -> None:
    parts = (allm.TextPart("a"), allm.ImagePart(allm.Image.from_bytes(PNG)), allm.TextPart("b"))
    allm.validate(allm.user(parts))
    transport = Transport()
    allm.generate(wired(transport), allm.user(parts), api_key="k")
    assert [part["type"] for part in transport.sent[0]["messages"][0]["content"]] == [
        "text", "image_url", "text",
    ]  # fmt: skip


def test_f003_tool_calls_are_parts_of_the_message() -> None:
    result = allm.chat(fake(calls(("c1", "double", {"n": 1})), DONE, tools=[double]), "go")
    message = result.thread.messages[1]
    assert [(call.id, call.name, call.arguments) for call in message.tool_calls] == [
        ("c1", "double", {"n": 1})
    ]
    assert message.metadata == {}


def test_f004_a_tool_needs_a_name_only() -> None:
    with pytest.raises(TypeError, match="name"):
        allm.Tool(description="d", schema={})  # type: ignore[call-arg]
    assert allm.Tool(name="t").schema == {"type": "object", "properties": {}}


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_f005_manual_is_a_boolean(value: Any) -> None:
    with pytest.raises(allm.ValidationError, match="manual"):
        allm.Tool(name="t", manual=value)


def test_f007_defaults_of_a_request() -> None:
    bare = allm.Request()
    values = {name: getattr(bare, name) for name in bare.__struct_fields__}
    empty = {name: value for name, value in values.items() if value is not None}
    assert empty == {"messages": (), "tools": (), "stop": (), "options": {}, "metadata": {}, "extra": {}}


def test_f008_fields_of_a_response() -> None:
    transport = Transport()
    response = allm.generate(wired(transport), "hi", api_key="k")
    assert (response.text, response.finish_reason, response.raw_finish_reason) == ("Hello", "stop", "stop")
    assert (response.id, response.provider, response.model) == ("c", "openai", "m")
    assert response.tool_calls == ()
    assert response.usage is None  # this server reported none


def test_f012_shapes_of_results() -> None:
    script = calls(("c1", "double", {"n": 1}))
    step = allm.step(fake(script, tools=[double]), "go")
    assert [message.role for message in step.thread.messages] == ["user", "assistant", "tool"]
    assert [message.text for message in step.tool_results] == ["2"]
    assert (step.done, step.response.finish_reason) == (False, "tool_calls")
    chat = allm.chat(fake(script, DONE, tools=[double]), "go")
    assert chat.final_response == chat.steps[-1].response
    assert (chat.halted_reason, chat.pending_question, chat.pending_tool_call_id) == ("completed", None, None)
    assert isinstance(chat, responses.ChatResult)


def test_f013_five_spellings_of_a_model() -> None:
    ref = allm.ModelRef("openai", "gpt-x")
    for spelling in ("openai:gpt-x", "gpt-x@openai", ("openai", "gpt-x"), ref):
        assert allm.ModelRef.parse(spelling) == ref
    assert allm.Engine("gpt-x", adapter="openai").ref == ref
    transport = Transport()
    allm.generate(wired(transport, "openai:nobody/knows:it@all"), "hi", api_key="k")
    assert transport.sent[0]["model"] == "nobody/knows:it@all"


@pytest.mark.parametrize("extension", ["png", "jpg", "JPEG", "webp", "gif", "bmp"])
def test_f014_an_image_from_a_file_reads_nothing(extension: str) -> None:
    image = allm.Image.from_file(f"nowhere/a.{extension}")
    name = {"jpg": "jpeg", "bmp": None}.get(extension, extension.lower())
    assert image.mime_type == (f"image/{name}" if name else None)
    with pytest.raises(allm.ValidationError, match="nowhere/a"):
        allm.generate(fake(DONE), allm.user([allm.ImagePart(image)]))


def test_f016_bytes_and_data_uri(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    image = allm.Image.from_bytes(PNG)
    assert allm.Image.from_base64("iVBORw0KGgo=").data == image.data == PNG
    assert image.to_data_uri() == "data:image/png;base64,iVBORw0KGgo="
    for source, reason in (
        (allm.Image.from_url("https://example.org/a"), "remote_source"),
        (allm.Image.from_bytes(b"??"), "missing_mime_type"),
        (allm.Image.from_file(str(path)), "file_not_read"),
    ):
        with pytest.raises(allm.ValidationError, match=reason):
            source.to_data_uri()
    engine = fake(DONE)
    allm.generate(engine, allm.user([allm.ImagePart(allm.Image.from_file(str(path)))]))
    (part,) = requests(engine)[0].messages[0].parts
    assert isinstance(part, allm.ImagePart)
    assert part.image.data == PNG


@pytest.mark.parametrize("detail", ["auto", "low", "high"])
def test_f017_detail_of_an_image(detail: str) -> None:
    image = allm.Image.from_url("https://example.org/a.png")
    assert allm.ImagePart(image).detail == "auto"
    transport = Transport()
    allm.generate(wired(transport), allm.user([allm.ImagePart(image, detail)]), api_key="k")
    (part,) = transport.sent[0]["messages"][0]["content"]
    assert part["image_url"].get("detail", "auto") == detail


def test_f018_constructors() -> None:
    assert allm.system("a") == allm.Message("system", "a")
    assert allm.user("a") == allm.Message("user", "a")
    assert allm.assistant("a") == allm.Message("assistant", "a")
    assert allm.tool_result("c", "a") == allm.Message("tool", "a", tool_call_id="c")
    shape = allm.json_schema("n", {"type": "object"})
    assert (shape.type, shape.name, shape.schema) == ("json_schema", "n", {"type": "object"})


def test_f019_json_schema_is_strict_unless_said() -> None:
    assert allm.json_schema("n", {"type": "object"}).strict is True
    assert allm.json_schema("n", {"type": "object"}, strict=False).strict is False


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", ("", "malformed")),
        ("[]", ("", "not_an_object")),
        ('{"role": "user"}', ("allm", "missing")),
        ('{"allm": 1, "type": "message"}', ("", "missing_field")),
        ('{"allm": 1, "type": "message", "role": 7}', ("role", "invalid_type")),
        ('{"allm": 1, "type": "audio", "data": "%"}', ("data", "invalid_base64")),
    ],
)
def test_f024_a_document_that_cannot_be_loaded_says_why(text: str, problem: tuple[str, str]) -> None:
    with pytest.raises(allm.ValidationError) as caught:
        allm.from_json(text)
    ((path, reason),) = caught.value.errors
    assert (path, reason.split(":")[0].split(" ")[0]) == problem
    with pytest.raises(allm.ValidationError, match="unknown_type"):
        allm.from_json('{"role": "user"}', dict)


def test_f025_a_document_of_an_unknown_type_survives() -> None:
    text = '{"allm":1,"type":"of_a_newer_version","n":[1]}'
    loaded = allm.from_json(text)
    assert isinstance(loaded, allm.RawChunk)
    assert json.loads(allm.to_json(loaded)) == json.loads(text)


def test_f027_a_handler_is_not_data() -> None:
    tool: Any = allm.Tool(name="t", handler=lambda arguments: 1)
    with pytest.raises(allm.ValidationError, match="type_Tool"):
        allm.to_json(tool)
    assert allm.from_json(allm.to_json(tool.spec)) == tool.spec


def test_f029_an_engine_comes_back_by_the_names_of_its_adapters() -> None:
    engine = allm.Engine("m", adapter="openai", params={"temperature": 0}, context={"a": 1})
    loaded = allm.Engine.from_data(json.loads(json.dumps(engine.to_data())))
    assert loaded == engine
    assert loaded.id == engine.id
    gone = allm.Engine.from_data({"model": "m", "adapter": "not_installed"})
    with pytest.raises(allm.UnknownProviderError, match="not_installed"):
        allm.stream(gone, "hi")


def test_f030_keys_of_a_schema_are_strings() -> None:
    with pytest.raises(allm.ValidationError, match=r"schema\.1: key_not_a_string"):
        allm.Tool(name="t", schema={"type": "object", 1: {}})  # type: ignore[dict-item]
    with pytest.raises(allm.ValidationError, match="key_not_a_string"):
        allm.json_schema("n", {1: {}})  # type: ignore[dict-item]
