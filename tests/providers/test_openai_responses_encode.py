"""What is sent to the Responses API."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from allm.data.codec import from_json, to_json
from allm.data.content import (
    AudioPart,
    FilePart,
    Image,
    ImagePart,
    OpaquePart,
    Origin,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
)
from allm.data.messages import Message, Thread, assistant, system, tool_result, user
from allm.data.requests import Request, ResponseFormat, ToolSpec, json_schema
from allm.errors import ConfigurationError, UnsupportedError, ValidationError
from allm.ports import CallContext, HttpRequest
from allm.providers.openai.responses import OpenAIResponses

TOOL = ToolSpec("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
CLOSED = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
MINE = Origin("openai", "responses", "gpt-6-luna")
ENCRYPTED = "reasoning.encrypted_content"


def encoded(name: str = "openai", ctx: CallContext | None = None, **fields: Any) -> HttpRequest:
    fields.setdefault("model", "gpt-6-luna")
    fields.setdefault("messages", (user("hi"),))
    return OpenAIResponses(name).encode(Request(**fields), ctx or CallContext())


def sent(name: str = "openai", ctx: CallContext | None = None, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(encoded(name, ctx, **fields).body)
    return body


def items(*messages: Message) -> list[Any]:
    found: list[Any] = sent(messages=messages)["input"]
    return found


def test_smallest_request() -> None:
    assert sent() == {
        "model": "gpt-6-luna",
        "input": [{"role": "user", "content": "hi"}],
        "store": False,
        "include": [ENCRYPTED],
        "stream": True,
    }
    request = encoded()
    assert request.url == "https://api.openai.com/v1/responses"
    assert request.headers == {"content-type": "application/json", "accept": "text/event-stream"}
    assert request.key is not None
    assert request.key.variables == ("OPENAI_API_KEY",)
    assert request.warnings == ()


def test_without_streaming() -> None:
    request = encoded(ctx=CallContext(adapter_options={"streaming": False, "organization": "o"}))
    assert "stream" not in msgspec.json.decode(request.body)
    assert (request.headers["accept"], request.headers["openai-organization"]) == ("application/json", "o")


def test_system_is_instructions_and_stands_in_place() -> None:
    body = sent(system="be brief", messages=(system("s"), user("hi"), system("t")))
    assert body["instructions"] == "be brief"
    assert [item["role"] for item in body["input"]] == ["system", "user", "system"]


def test_sampling_fields() -> None:
    body = sent(temperature=0.5, top_p=0.9, max_tokens=20, seed=3, stop=("x",), metadata={"a": 1})
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.5, 0.9, 20)
    assert not {"seed", "stop", "metadata"} & body.keys()
    assert sent(max_tokens=20, options={"max_output_tokens": 30})["max_output_tokens"] == 30


@pytest.mark.parametrize(
    ("name", "model", "asked"),
    [
        ("openai", "gpt-6-luna", True),
        ("openai", "o3", True),
        ("openai", "gpt-4.1-mini", False),
        ("openai", "ft:gpt-4o:team::id", False),
        ("openai", "gpt-9-unheard-of", True),
        ("openrouter", "openai/gpt-5-nano", True),
        ("openrouter", "openai/gpt-4.1-mini", False),
        ("azure", "gpt-5.5", True),
    ],
)
def test_encrypted_reasoning_is_asked_of_models_that_reason(name: str, model: str, asked: bool) -> None:
    assert (sent(name, model=model).get("include") == [ENCRYPTED]) is asked


def test_where_nothing_is_known_the_server_decides() -> None:
    request = Request(model="anything", messages=(user("hi"),))
    http = OpenAIResponses("lmstudio", "http://h/v1", encrypted=False).encode(request, CallContext())
    assert "include" not in msgspec.json.decode(http.body)


def test_reasoning() -> None:
    assert sent(reasoning="low")["reasoning"] == {"effort": "low"}
    body = sent(reasoning={"effort": "high", "summary": "auto", "verbosity": "low"})
    assert body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert body["text"] == {"verbosity": "low"}
    assert "reasoning" not in sent(reasoning={"verbosity": "low"})


def test_text_is_merged_from_all_places() -> None:
    body = sent(response_format=ResponseFormat("json_object"), options={"verbosity": "low"})
    assert body["text"] == {"format": {"type": "json_object"}, "verbosity": "low"}
    assert "verbosity" not in body
    body = sent(
        response_format=ResponseFormat("text"), reasoning="low", options={"reasoning": {"summary": "auto"}}
    )
    assert body["text"] == {"format": {"type": "text"}}
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}


def test_json_schema() -> None:
    wanted = {"type": "json_schema", "name": "person", "schema": CLOSED, "strict": True}
    assert sent(response_format=json_schema("person", CLOSED))["text"] == {"format": wanted}
    loose = json_schema("person", {"type": "object"}, strict=False)
    assert sent(response_format=loose)["text"]["format"]["strict"] is False
    request = encoded(response_format=json_schema("x", {"type": "object", "additionalProperties": True}))
    assert msgspec.json.decode(request.body)["text"]["format"]["strict"] is False
    assert request.warnings


def test_options_come_last() -> None:
    body = sent(
        temperature=0.5,
        options={"temperature": 1, "include": ["web_search_call.action.sources", ENCRYPTED], "store": True},
    )
    assert (body["temperature"], body["store"]) == (1, True)
    assert body["include"] == [ENCRYPTED, "web_search_call.action.sources"]


def test_background_needs_a_stored_response() -> None:
    assert sent(options={"background": True})["store"] is True


def test_prompt_cache() -> None:
    assert sent(prompt_cache="k")["prompt_cache_key"] == "k"
    body = sent(prompt_cache={"key": "k", "retention": "long", "prompt_cache_options": {"ttl": "12h"}})
    assert (body["prompt_cache_key"], body["prompt_cache_retention"]) == ("k", "24h")
    assert body["prompt_cache_options"] == {"ttl": "12h"}
    assert "prompt_cache_retention" not in sent(prompt_cache={"key": "k", "retention": "short"})


def test_tools() -> None:
    own = ToolSpec("find", metadata={"openai": {"defer_loading": True}, "anthropic": {"x": 1}})
    search = {"type": "web_search"}
    body = sent(tools=(TOOL, own), parallel_tool_calls=False, options={"tools": [search]})
    first, second, third = body["tools"]
    assert first == {
        "type": "function",
        "name": "add",
        "description": "Adds.",
        "parameters": TOOL.schema,
        "strict": False,
    }
    assert (second["name"], second["defer_loading"], second["parameters"]["type"]) == ("find", True, "object")
    assert "x" not in second
    assert third == search
    assert body["parallel_tool_calls"] is False
    assert sent(tools=(ToolSpec("now", schema=CLOSED, strict=True),))["tools"][0]["strict"] is True


def test_custom_tools() -> None:
    custom = ToolSpec(
        "sql", "Writes SQL.", metadata={"openai": {"type": "custom", "format": {"type": "text"}}}
    )
    body = sent(tools=(custom,), tool_choice="sql")
    assert body["tools"] == [
        {"type": "custom", "name": "sql", "description": "Writes SQL.", "format": {"type": "text"}}
    ]
    assert body["tool_choice"] == {"type": "custom", "name": "sql"}


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_tool_choice_words(choice: str) -> None:
    assert sent(tools=(TOOL,), tool_choice=choice)["tool_choice"] == choice
    assert sent(options={"tools": [{"type": "web_search"}]}, tool_choice=choice)["tool_choice"] == choice
    assert "tool_choice" not in sent(tool_choice=choice)


def test_tool_choice_of_one_tool() -> None:
    assert sent(tools=(TOOL,), tool_choice="add")["tool_choice"] == {"type": "function", "name": "add"}
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]}
    assert sent(tools=(TOOL,), tool_choice=allowed)["tool_choice"] == allowed


def content(*parts: Any) -> Any:
    return items(user(parts))[0]["content"]


def test_images() -> None:
    assert content(TextPart("a"), ImagePart(Image.from_bytes(b"abc", "image/png"), "low")) == [
        {"type": "input_text", "text": "a"},
        {"type": "input_image", "image_url": "data:image/png;base64,YWJj", "detail": "low"},
    ]
    assert content(ImagePart(Image.from_url("https://x/y.png")))[0]["image_url"] == "https://x/y.png"
    with pytest.raises(ValidationError, match="file_not_read"):
        content(ImagePart(Image.from_file("x.png")))


def test_files() -> None:
    assert content(FilePart(file_id="f"))[0] == {"type": "input_file", "file_id": "f"}
    assert content(FilePart(url="https://x"))[0] == {"type": "input_file", "file_url": "https://x"}
    file = content(FilePart(data=b"abc", mime_type="text/plain", filename="n"))[0]
    assert file == {"type": "input_file", "filename": "n", "file_data": "data:text/plain;base64,YWJj"}


def test_parts_carry_their_own_fields() -> None:
    point = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    (part,) = content(TextPart("long", provider_data=point, origin=Origin("openai")))
    assert part == {"type": "input_text", "text": "long", **point}


def test_what_cannot_be_said_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"no sound.*'chat'"):
        content(AudioPart(b"abc", "mp3"))
    with pytest.raises(ValidationError, match="ToolCall_is_not_for_input"):
        content(ToolCall("c", "f"))


def test_items_of_the_user_stand_for_themselves() -> None:
    approval = OpaquePart({"type": "mcp_approval_response", "approve": True}, origin=Origin("openai"))
    handle = OpaquePart({"type": "input_image", "file_id": "f"}, origin=Origin("openai"))
    found = items(user([TextPart("a"), handle, approval, TextPart("b")]))
    assert [item.get("type", item.get("role")) for item in found] == ["user", "mcp_approval_response", "user"]
    assert [part["type"] for part in found[0]["content"]] == ["input_text", "input_image"]


def test_names_of_users_are_reported() -> None:
    request = encoded(messages=(Message("user", "hi", name="ann"),))
    assert b"ann" not in request.body
    assert any("names of users" in warning for warning in request.warnings)


def test_tool_results() -> None:
    calls = assistant([ToolCall("c", "add"), ToolCall("d", "add"), ToolCall("e", "sql", kind="custom")])
    shown: list[Part] = [TextPart("x"), ImagePart(Image.from_url("https://x/y.png"))]
    found = items(
        user("q"),
        calls,
        tool_result("c", "3", is_error=True),
        tool_result("d", shown),
        tool_result("e", [TextPart("ok"), TextPart("!")]),
    )[-3:]
    assert found[0] == {"type": "function_call_output", "call_id": "c", "output": "3"}
    assert [part["type"] for part in found[1]["output"]] == ["input_text", "input_image"]
    assert found[2] == {"type": "custom_tool_call_output", "call_id": "e", "output": "ok!"}


def replayed(*parts: Any) -> list[Any]:
    calls = [part for part in parts if isinstance(part, ToolCall)]
    results = [tool_result(call.id, "r") for call in calls]
    return items(user("q"), assistant(parts), *results)[1 : -len(results) or None]


def test_plain_text_of_the_assistant() -> None:
    assert replayed(TextPart("a"), TextPart("b")) == [{"role": "assistant", "content": "ab"}]
    assert items(user("q"), assistant("a"), user("r"))[1] == {"role": "assistant", "content": "a"}
    assert items(user("q"), assistant(""), user("r"))[1:] == [{"role": "user", "content": "r"}]


def text(words: str, id: str, **data: Any) -> TextPart:
    return TextPart(words, provider_data={"item_id": id, **data}, origin=MINE)


def test_texts_of_one_item_go_back_together() -> None:
    first, second = replayed(
        text("a", "m1", phase="commentary"), text("b", "m1", phase="commentary"), text("c", "m2")
    )
    assert first == {
        "type": "message",
        "id": "m1",
        "role": "assistant",
        "status": "completed",
        "phase": "commentary",
        "content": [
            {"type": "output_text", "text": "a", "annotations": []},
            {"type": "output_text", "text": "b", "annotations": []},
        ],
    }
    assert (second["id"], "phase" in second) == ("m2", False)


def test_sound_of_the_assistant_has_no_place() -> None:
    spoken = AudioPart(b"abc", origin=MINE)
    assert replayed(TextPart("a"), spoken, TextPart("b")) == [{"role": "assistant", "content": "ab"}]
    assert replayed(spoken) == []


def test_refusals_go_back() -> None:
    (item,) = replayed(text("", "m", refusal="No."))
    assert item["content"] == [{"type": "refusal", "refusal": "No."}]
    (item,) = replayed(TextPart("", provider_data={"refusal": "No."}, origin=MINE))
    assert item == {"role": "assistant", "content": "No."}


def reasoning(**item: Any) -> ReasoningPart:
    return ReasoningPart("t", provider_data={"item": {"type": "reasoning", "id": "rs", **item}}, origin=MINE)


def test_items_keep_their_order() -> None:
    search = OpaquePart({"type": "web_search_call", "id": "ws"}, origin=MINE)
    found = replayed(
        reasoning(summary=[], encrypted_content="e", status=None),
        search,
        text("a", "m"),
        ToolCall("c", "add", {"a": 1}, '{"a": 1}', provider_data={"item_id": "fc"}, origin=MINE),
    )
    assert found[0] == {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"}
    assert found[1] == {"type": "web_search_call", "id": "ws"}
    assert found[3] == {
        "type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 1}', "id": "fc",
    }  # fmt: skip
    assert [item["type"] for item in found] == [
        "reasoning", "web_search_call", "message", "function_call",
    ]  # fmt: skip


def test_calls() -> None:
    data = {"item_id": "fc", "namespace": "n", "caller": {"type": "program", "caller_id": "p"}}
    mine = ToolCall("c", "add", {}, "{}", provider_data=data, origin=MINE)
    broken = ToolCall("d", "add", {}, '{"a":', True)
    custom = ToolCall("e", "sql", {"input": "SELECT"}, "SELECT", kind="custom")
    first, second, third = replayed(mine, broken, custom)
    assert (first["id"], first["namespace"], first["caller"]) == ("fc", "n", data["caller"])
    assert (second["arguments"], "id" in second) == ("{}", False)
    assert third == {"type": "custom_tool_call", "call_id": "e", "name": "sql", "input": "SELECT"}


def test_what_others_made_stays_here() -> None:
    other = Origin("openai", "chat", "gpt-6-luna")
    request = encoded(
        messages=(
            user("q"),
            assistant(
                [
                    ReasoningPart("t", origin=other),
                    OpaquePart({"type": "x"}, origin=Origin("anthropic")),
                    TextPart("a", provider_data={"item_id": "m"}, origin=other),
                ]
            ),
            user("r"),
        )
    )
    assert msgspec.json.decode(request.body)["input"][1] == {"role": "assistant", "content": "a"}
    assert request.warnings


def test_a_session_that_went_through_json_sends_the_same_bytes() -> None:
    data = {"item_id": "fc", "caller": {"z": 1, "a": {"y": 1, "b": 2}}}
    parts: list[Part] = [
        reasoning(summary=[{"type": "summary_text", "text": "t"}], encrypted_content="e"),
        OpaquePart({"type": "web_search_call", "id": "ws", "action": {"z": 1, "a": 2}}, origin=MINE),
        text("a", "m"),
        ToolCall("c", "add", {"b": 1, "a": 2}, None, provider_data=data, origin=MINE),
    ]
    thread = Thread((user("q"), assistant(parts), tool_result("c", "r")))
    again = from_json(to_json(thread))
    assert encoded(messages=again.messages).body == encoded(messages=thread.messages).body


def state(id: str, **other: str) -> dict[str, Any]:
    return {"provider_state": {"provider": "openai", "endpoint": "responses", "response_id": id, **other}}


STATEFUL = CallContext(adapter_options={"stateful": True})


def test_stateful() -> None:
    first = sent(ctx=STATEFUL)
    assert (first["store"], "previous_response_id" in first) == (True, False)
    call = Message("assistant", (ToolCall("c", "add"),), metadata=state("r2"))
    thread = (
        user("q"),
        Message("assistant", "a", metadata=state("r1")),
        user("b"),
        call,
        tool_result("c", "3"),
    )
    body = sent(ctx=STATEFUL, messages=thread, system="s")
    assert (body["previous_response_id"], body["instructions"]) == ("r2", "s")
    assert body["input"] == [{"type": "function_call_output", "call_id": "c", "output": "3"}]
    chosen = sent(ctx=STATEFUL, messages=thread, options={"previous_response_id": "mine"})
    assert chosen["previous_response_id"] == "mine"


def test_results_of_custom_calls_that_the_provider_holds() -> None:
    call = Message("assistant", (ToolCall("c", "sql", kind="custom"),), metadata=state("r"))
    body = sent(ctx=STATEFUL, messages=(user("q"), call, tool_result("c", "3")))
    assert [item["type"] for item in body["input"]] == ["custom_tool_call_output"]


@pytest.mark.parametrize("other", [{"provider": "azure"}, {"endpoint": "chat"}, {"response_id": ""}])
def test_state_of_others_is_not_sent(other: dict[str, str]) -> None:
    thread = (user("q"), Message("assistant", "a", metadata=state("r", **other)), user("b"))
    body = sent(ctx=STATEFUL, messages=thread)
    assert "previous_response_id" not in body
    assert len(body["input"]) == 3


def test_state_is_not_sent_unasked() -> None:
    thread = (user("q"), Message("assistant", "a", metadata=state("r")), user("b"))
    assert "previous_response_id" not in sent(messages=thread)


def test_orphans() -> None:
    thread = (user("q"), assistant([ToolCall("c", "add")]), user("?"))
    assert sent(messages=thread)["input"][2]["type"] == "function_call_output"
    with pytest.raises(ValidationError):
        sent(ctx=CallContext(orphans="refuse"), messages=thread)


def test_credentials_in_headers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="credential"):
        sent(ctx=CallContext(adapter_options={"headers": {"Authorization": "x"}}))


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(ValidationError, match="lone_surrogate"):
        encoded(messages=(user("\ud800"),))


def test_target() -> None:
    assert OpenAIResponses("xai").target(Request(model="m"), CallContext()) == Origin("xai", "responses", "m")


def test_explain() -> None:
    assert repr(OpenAIResponses("xai")) == "OpenAIResponses('xai')"
    info = OpenAIResponses().explain(400, {}, b'{"error":{"message":"m","code":"context_length_exceeded"}}')
    assert info.reason == "context_length_exceeded"
