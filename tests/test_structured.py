"""Structured output through the verbs: formats, checks, corrections, and the pass of its own."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal, TypedDict

import msgspec
import pydantic
import pytest

import allm
from allm.data.events import Event, Retrying
from allm.data.responses import Response
from allm.errors import OutputError, raised
from allm.loops.structured import NUDGE
from allm.ports import CallContext
from allm.providers.fake import FakeAdapter
from allm.schemas import in_object, is_object
from tests.faces import Face

Script = list[dict[str, Any]]


class Person(msgspec.Struct):
    name: str
    age: int


@dataclasses.dataclass
class Place:
    city: str


class Card(TypedDict):
    number: int


class Model(pydantic.BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def _short(cls, name: str) -> str:
        if len(name) > 3:
            raise ValueError("must be short")
        return name


ADA = {"text": '{"name": "Ada", "age": 36}'}
WRONG = {"text": '{"name": "Ada", "age": "old"}'}
PROSE = {"text": "I would rather not."}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
PERSON = allm.json_schema("person", SCHEMA)


class Served(FakeAdapter):
    """A scripted provider that says it is a real one, for what is known of the models there."""

    def __init__(self, endpoint: str, provider: str, *scripts: Script) -> None:
        super().__init__(list(scripts))
        self.endpoint = endpoint
        self.provider = provider

    def target(self, request: allm.Request, ctx: CallContext) -> allm.Origin:
        return allm.Origin(self.provider, self.endpoint, request.model or "")


def fake(*scripts: Script, **fields: Any) -> allm.Engine:
    return allm.Engine(adapter=FakeAdapter(list(scripts)), **fields)


def served(model: str, *scripts: Script, endpoint: str = "chat", **fields: Any) -> allm.Engine:
    provider, _, name = model.partition(":")
    return allm.Engine(name, adapter=Served(endpoint, provider, *scripts), **fields)


def asked(engine: allm.Engine) -> list[allm.Request]:
    return engine.adapter.requests  # type: ignore[no-any-return]


def call(name: str = "double", **arguments: Any) -> dict[str, Any]:
    return {"tool_call": {"id": f"c_{name}", "name": name, "arguments": arguments}}


@allm.tool
def double(n: int) -> int:
    """Twice the number."""
    return 2 * n


def body(model: str, **options: Any) -> dict[str, Any]:
    """What the first request of a chat sends."""
    endpoint = options.pop("endpoint", None)
    engine = allm.Engine(model, adapter_options={"endpoint": endpoint} if endpoint else {})
    stream = allm.stream(engine, "?", api_key="k", **options)
    first = stream._plan.first
    http = first.take() if first is not None else None
    assert http is not None
    sent: dict[str, Any] = json.loads(http.body)
    return sent


# What is sent


def test_a_python_type_on_every_wire() -> None:
    chat = body("openai:gpt-6-luna", endpoint="chat", response_format=Person)["response_format"]
    assert (chat["type"], chat["json_schema"]["name"], chat["json_schema"]["strict"]) == (
        "json_schema",
        "Person",
        True,
    )
    text = body("openai:gpt-6-luna", endpoint="responses", response_format=Person)["text"]["format"]
    assert (text["type"], text["name"], text["strict"]) == ("json_schema", "Person", True)
    native = body("anthropic:claude-sonnet-5", response_format=Person)["output_config"]["format"]
    assert native["schema"]["required"] == ["name", "age"]
    gemini = body("gemini:gemini-3-flash", response_format=Person)["generationConfig"]
    assert gemini["responseMimeType"] == "application/json"
    assert gemini["responseJsonSchema"]["required"] == ["name", "age"]
    forced = body("anthropic:claude-3-5-haiku-latest", response_format=Person)
    assert forced["tool_choice"]["name"] == "Person"


KINDS: dict[str, tuple[Any, str, Any]] = {
    "Struct": (Person, '{"name": "Ada", "age": 36}', Person("Ada", 36)),
    "dataclass": (Place, '{"city": "Rome"}', Place("Rome")),
    "TypedDict": (Card, '{"number": 3}', {"number": 3}),
    "model": (Model, '{"name": "Bo"}', Model(name="Bo")),
    "dict": (dict[str, int], '{"a": 1}', {"a": 1}),
    "list": (list[Place], '[{"city": "Rome"}]', [Place("Rome")]),
    "tuple": (tuple[int, str], '[1, "a"]', (1, "a")),
    "Literal": (Literal["yes", "no"], '"yes"', "yes"),
    "union": (Place | Model, '{"name": "Bo"}', Model(name="Bo")),
    "optional": (Place | None, "null", None),
    "int": (int, "7", 7),
    "keys": (dict[int, Place], '{"1": {"city": "Rome"}}', {1: Place("Rome")}),
}
PLAIN = ("Struct", "dataclass", "TypedDict", "model", "dict", "keys")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_type_comes_back(face: Face, kind: str) -> None:
    type, text, expected = KINDS[kind]
    response = face.generate(fake([{"text": text}]), "?", response_format=type)
    assert response.parse(type) == expected
    assert response.metadata == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("model", "endpoint"),
    [
        ("openai:gpt-6-luna", "chat"),
        ("openai:gpt-6-luna", "responses"),
        ("groq:llama-4", "chat"),
        ("anthropic:claude-3-5-haiku-latest", "messages"),
        ("deepseek:deepseek-chat", "chat"),
    ],
)
def test_a_root_that_is_no_object_goes_into_one_where_it_must(model: str, endpoint: str, kind: str) -> None:
    type, text, expected = KINDS[kind]
    wrapped = text if kind in PLAIN else f'{{"value": {text}}}'
    engine = served(model, [{"text": [wrapped[:4], wrapped[4:]]}], endpoint=endpoint)
    stream = allm.stream_generate(engine, "?", response_format=type)
    values = list(stream.partial(type))
    assert values[-1] == expected
    response = stream.result()
    assert response.parse(type) == expected
    assert response.metadata == ({} if kind in PLAIN else {"output_root": "value"})
    assert response.output_text == wrapped
    shape = asked(engine)[0].response_format
    assert shape is not None
    assert is_object(shape.schema)
    assert allm.from_json(allm.to_json(response)).parse(type) == expected


@pytest.mark.parametrize(
    ("model", "endpoint"),
    [("anthropic:claude-sonnet-5", "messages"), ("gemini:gemini-3-flash", "generate")],
)
def test_a_root_that_is_taken_stays(model: str, endpoint: str) -> None:
    engine = served(model, [{"text": "[1]"}], endpoint=endpoint)
    assert allm.generate(engine, "?", response_format=list[int]).parse(list[int]) == [1]
    shape = asked(engine)[0].response_format
    assert shape is not None
    assert shape.schema == {"type": "array", "items": {"type": "integer"}}


def test_strict_goes_out_for_a_wrapped_root() -> None:
    shape = body("openai:gpt-6-luna", endpoint="chat", response_format=list[Person])["response_format"]
    assert shape["json_schema"]["strict"] is True
    assert shape["json_schema"]["name"] == "list"
    assert shape["json_schema"]["schema"]["required"] == ["value"]


def test_a_model_that_does_not_wrap_is_understood() -> None:
    engine = served("openai:gpt-6-luna", [{"text": "[1, 2]"}])
    assert allm.generate(engine, "?", response_format=list[int]).parse(list[int]) == [1, 2]


def test_references_follow_a_schema_into_its_object() -> None:
    tree = {
        "anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}}, {"$ref": "#/$defs/leaf"}],
        "$defs": {"leaf": {"anyOf": [{"type": "string"}, {"$ref": "#/anyOf/0"}]}},
    }
    moved = in_object(tree, "value")
    assert moved["properties"]["value"]["anyOf"][1]["items"] == {"$ref": "#/properties/value"}
    assert moved["properties"]["value"]["anyOf"][2] == {"$ref": "#/$defs/leaf"}
    assert moved["$defs"]["leaf"]["anyOf"][1] == {"$ref": "#/properties/value/anyOf/0"}
    assert (moved["required"], moved["additionalProperties"]) == (["value"], False)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "object"}, True),
        ({"properties": {}}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}, True),
        ({"$ref": "#/definitions/a", "definitions": {"a": {"type": "array"}}}, False),
        ({"type": ["object", "null"]}, False),
        ({"anyOf": [{"type": "object"}]}, False),
        ({"enum": [1]}, False),
        ({"type": "array"}, False),
    ],
)
def test_which_roots_are_objects(schema: dict[str, Any], expected: bool) -> None:
    assert is_object(schema) is expected


def test_a_model_that_only_promises_json_is_told_the_schema() -> None:
    sent = body("deepseek:deepseek-chat", response_format=Person, system="Be brief.")
    assert sent["response_format"] == {"type": "json_object"}
    head, _, schema = sent["messages"][0]["content"].rpartition("\n")
    assert head == "Be brief.\n\nAnswer with nothing but JSON that fits this JSON Schema:"
    assert json.loads(schema)["required"] == ["name", "age"]
    assert "JSON Schema" not in str(body("deepseek:deepseek-chat", response_format="json_object"))


def test_the_type_may_be_set_on_the_engine() -> None:
    engine = fake([ADA], [PROSE], params={"response_format": Person})
    assert allm.generate(engine, "?").parse(Person) == Person("Ada", 36)
    assert allm.generate(engine, "?", response_format=None).text == "I would rather not."


def test_plain_text_is_not_checked() -> None:
    assert allm.generate(fake([PROSE]), "?", response_format="text", output_retries=1).text == PROSE["text"]


# The answer


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ada", "age": 36}',
        '\n {"name": "Ada", "age": 36}\n',
        '```json\n{"name": "Ada", "age": 36}\n```',
        'Here you are:\n```\n{"name": "Ada", "age": 36}\n```\nAnything else?',
        '```json\n{"name": "Ada", "age": 36}',
        '{"name": "Ada", "age": 36.0}',
    ],
)
def test_what_is_read_as_an_answer(text: str) -> None:
    assert allm.generate(fake([{"text": text}]), "?", response_format=Person).parse(Person) == Person(
        "Ada", 36
    )


def test_fences_inside_an_answer_are_its_own() -> None:
    text = '```json\n{"city": "```py\\nx\\n```"}\n```'
    assert Response(message=allm.assistant(text)).parse(Place) == Place("```py\nx\n```")
    assert Response(message=allm.assistant('{"city": "```"}')).parse(Place) == Place("```")


@pytest.mark.parametrize(
    ("text", "type", "path", "reason"),
    [
        ("", Person, "", "it is empty"),
        ("Ada, 36", Person, "", "malformed"),
        ('Here: {"name": "Ada", "age": 36}', Person, "", "malformed"),
        ('```\n{"city": "a"}\n```\n```\n{"city": "b"}\n```', Place, "", "malformed"),
        ('{"name": "Ada"', Person, "", "truncated"),
        ('{"name": "Ada"}', Person, "", "missing required field"),
        ('{"name": "Ada", "age": []}', Person, "age", "Expected `int`".replace("`", "")),
        ('[{"city": 1}]', list[Place], "[0].city", "Expected str"),
        ('{"name": "Adam"}', Model, "name", "must be short"),
        ('"maybe"', Literal["yes", "no"], "", "Invalid enum value"),
        ("[" * 5000, list[Any], "", "recursion"),
        ('{"city": "\\ud800"}', Place, "", ""),
        ("{}\ud800", Place, "", ""),
    ],
)
def test_an_answer_that_does_not_fit(text: str, type: Any, path: str, reason: str) -> None:
    response = Response(message=allm.assistant(text))
    with pytest.raises(OutputError) as caught:
        response.parse(type)
    assert caught.value.partial is response
    assert caught.value.info.reason == "output_invalid"
    assert caught.value.info.extra["text"] == caught.value.text == text
    assert caught.value.errors == caught.value.info.problems
    (found,) = caught.value.errors
    assert found[0] == path
    assert reason in found[1]
    assert text[:2000] in str(caught.value)


@pytest.mark.parametrize("verb", ["generate", "step", "chat"])
@pytest.mark.parametrize("shape", [Person, PERSON])
def test_the_answer_is_checked(face: Face, verb: str, shape: Any) -> None:
    with pytest.raises(OutputError, match="age") as caught:
        face.call(verb, fake([WRONG]), "?", response_format=shape)
    assert caught.value.partial.text == WRONG["text"]
    assert caught.value.info.problems[0][0] == "age"
    assert caught.value.info.phase == "output"


def test_it_is_checked_by_the_schema_as_it_was_given() -> None:
    """OpenAI's strict mode has no place for a rule like this one: the answer is held to it here."""
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    engine = served("openai:gpt-6-luna", [{"text": '{"a": [1, 1]}'}])
    with pytest.raises(OutputError, match="differ from each other"):
        allm.generate(engine, "?", response_format=allm.json_schema("x", schema))


def test_keywords_that_cannot_be_checked_are_named() -> None:
    schema = {"type": "object", "unevaluatedProperties": False}
    response = allm.generate(fake([{"text": "{}"}]), "?", response_format=allm.json_schema("x", schema))
    assert response.warnings == ("response_format: 'unevaluatedProperties' is not checked here",)


def test_any_json_object() -> None:
    assert allm.generate(fake([{"text": "{}"}]), "?", response_format="json_object").text == "{}"
    with pytest.raises(OutputError, match="expected object, got array"):
        allm.generate(fake([{"text": "[]"}]), "?", response_format="json_object")


def test_calls_are_no_answer(face: Face) -> None:
    response = face.generate(fake([call(n=1)]), "?", response_format=Person, tools=[double])
    assert response.finish_reason == "tool_calls"
    assert face.step(fake([call(n=1)]), "?", response_format=Person, tools=[double]).done is False


def test_a_run_that_halts_is_not_checked(face: Face) -> None:
    engine = fake([{"text": "One moment."}, call(n=1)], tools=[double])
    assert face.chat(engine, "?", response_format=Person, mode="manual").halted_reason == "manual_tool_calls"
    engine = fake([call(n=1)], tools=[double])
    assert face.chat(engine, "?", response_format=Person, max_turns=1).halted_reason == "max_turns"


@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_an_answer_that_was_cut_is_not_asked_for_again(face: Face, verb: str) -> None:
    engine = fake([{"text": '{"name": "A'}, {"finish": "length"}], [ADA])
    with pytest.raises(OutputError, match="max_tokens allows more"):
        face.call(verb, engine, "?", response_format=Person, output_retries=2)
    assert len(asked(engine)) == 1
    whole = fake([ADA, {"finish": "length"}])
    assert face.call(verb, whole, "?", response_format=Person).parse(Person) == Person("Ada", 36)


class Refusing:
    """An in-process adapter whose model says no."""

    name = "refusing"
    asked = 0

    def complete(self, request: allm.Request, ctx: CallContext) -> Response:
        self.asked += 1
        return Response(message=allm.assistant("No."), refusal="No.", finish_reason="stop")


def test_a_refusal_is_not_asked_for_again() -> None:
    adapter = Refusing()
    with pytest.raises(OutputError, match=r"the model refused \(No\.\)"):
        allm.generate(allm.Engine(adapter=adapter), "?", response_format=Person, output_retries=2)
    assert adapter.asked == 1


# Corrections


def spent(tokens: int) -> dict[str, Any]:
    return {"usage": {"input_tokens": tokens, "output_tokens": 1}}


def test_a_chat_sends_the_mistake_and_shows_it_as_a_step(face: Face) -> None:
    engine = fake([WRONG, spent(5)], [PROSE], [ADA, spent(7)])
    seen = face.events(engine, "?", response_format=PERSON, output_retries=2)
    result = seen.result
    assert result.parse(Person) == Person("Ada", 36)
    assert [message.role for message in result.thread.messages] == ["user", "assistant"] * 3
    assert [len(step.asked) for step in result.steps] == [0, 1, 1]
    assert "- age: expected integer, got string" in result.steps[1].asked[0].text
    assert "- JSON is malformed" in result.steps[2].asked[0].text
    assert [message.metadata for message in result.steps[2].asked] == [{"output_retry": 2}]
    assert [len(request.messages) for request in asked(engine)] == [1, 3, 5]
    assert result.usage.input_tokens == 12
    assert seen.kinds.count("retrying") == 2
    assert seen.kinds.count("step_completed") == 3
    assert seen.kinds.count("chat_completed") == 1
    assert allm.fold(seen.events, result.base) == result
    assert allm.from_json(allm.to_json(result)) == result


@pytest.mark.parametrize("verb", ["generate", "step"])
def test_one_turn_begins_anew_with_the_mistake(face: Face, verb: str) -> None:
    engine = fake([WRONG, spent(5)], [PROSE, spent(6)], [ADA, spent(7)])
    seen = face.events(engine, "?", verb=f"stream_{verb}", response_format=Person, output_retries=2)
    response = seen.result if verb == "generate" else seen.result.response
    assert response.parse(Person) == Person("Ada", 36)
    assert response.text == ADA["text"]
    assert (response.usage.input_tokens, response.usage.output_tokens) == (18, 3)
    assert seen.kinds.count("message_completed") == 1
    again = [event for event in seen.events if isinstance(event, Retrying)]
    assert [event.attempt for event in again] == [1, 2]
    assert {event.error.reason for event in again} == {"output_invalid"}
    third = asked(engine)[2].messages
    assert [message.role for message in third] == ["user", "assistant", "user", "assistant", "user"]
    assert allm.fold(seen.events) == seen.result or verb == "step"


@pytest.mark.parametrize("verb", ["generate", "step", "chat"])
def test_after_the_last_correction_it_is_an_error(face: Face, verb: str) -> None:
    engine = fake([PROSE], [WRONG])
    with pytest.raises(OutputError) as caught:
        face.call(verb, engine, "?", response_format=Person, output_retries=1)
    assert caught.value.partial.text == WRONG["text"]
    quiet = face.call(verb, fake([WRONG]), "?", response_format=Person, raise_on_error=False)
    assert quiet.text == WRONG["text"]


def test_the_error_of_a_chat_keeps_all_steps(face: Face) -> None:
    seen = face.events(fake([PROSE], [WRONG]), "?", response_format=Person, output_retries=1)
    assert seen.kinds[-1] == "error"
    assert isinstance(seen.error, OutputError)
    partial = seen.error.partial
    assert (partial.halted_reason, len(partial.steps)) == ("error", 2)
    assert [message.role for message in partial.thread.messages] == ["user", "assistant"] * 2


def test_a_correction_may_call_tools_again(face: Face) -> None:
    engine = fake([PROSE], [call(n=18)], [ADA], tools=[double])
    result = face.chat(engine, "?", response_format=Person, output_retries=1, max_turns=2)
    assert result.halted_reason == "max_turns"
    engine = fake([PROSE], [call(n=18)], [ADA], tools=[double])
    result = face.chat(engine, "?", response_format=Person, output_retries=1)
    assert result.parse(Person) == Person("Ada", 36)
    assert [len(step.tool_results) for step in result.steps] == [0, 1, 0]


def test_a_session_keeps_the_corrections(face: Face) -> None:
    turn = face.session("start", fake([WRONG], [ADA]), "?", response_format=Person, output_retries=1)
    assert [message.role for message in turn.session.thread.messages] == ["user", "assistant"] * 2
    with pytest.raises(OutputError) as failed:
        face.session("start", fake([WRONG]), "?", response_format=Person)
    session = failed.value.partial.session
    assert (session.status, session.error.reason) == ("error", "output_invalid")
    turn = face.session("reply", fake([ADA]), session, "Again.")
    assert turn.session.thread.messages[-1].text == ADA["text"]


def test_partial_values_begin_anew_with_a_correction() -> None:
    pieces = [{"text": list(script["text"])} for script in (WRONG, ADA)]
    engine = fake(pieces[:1], pieces[1:])
    values = list(allm.stream_generate(engine, "?", response_format=Person, output_retries=1).partial(Person))
    ages = [value.age for value in values]
    assert ages.index(None) < ages.index("old") < ages.index(36)  # type: ignore[arg-type]
    assert None in ages[ages.index("old") :]  # type: ignore[arg-type]
    assert values[-1] == Person("Ada", 36)


@pytest.mark.parametrize("retries", [-1, 1.5, "2"])
def test_how_many_corrections(retries: Any) -> None:
    with pytest.raises(allm.ValidationError, match="output_retries: must_be_an_integer_not_below_0"):
        allm.stream(fake(), "?", response_format=Person, output_retries=retries)


# Two passes


def test_a_fallback_is_held_to_the_same(face: Face) -> None:
    down: Script = [{"error": "overloaded"}]
    other = fake([{"text": "She is 36."}], [WRONG], [ADA])
    engine = fake(down, down, down, tools=[double], params={"structured_finalize": True})
    result = face.chat(engine, "?", response_format=Person, output_retries=1, fallbacks=[other], retry=False)
    assert result.parse(Person) == Person("Ada", 36)
    assert [request.tools == () for request in asked(other)] == [False, True, True]
    assert [request.response_format is None for request in asked(other)] == [True, False, False]


def two_passes(*scripts: Script, **fields: Any) -> allm.Engine:
    return fake(*scripts, tools=[double], params={"structured_finalize": True, **fields})


def test_two_passes(face: Face) -> None:
    """F134: the first request has the tools and no format, the last the format and no tools."""
    engine = two_passes([call(n=18)], [{"text": "She is 36."}], [ADA])
    seen = face.events(engine, "How old?", response_format=Person)
    first, second, last = asked(engine)
    for request in (first, second):
        assert request.response_format is None
        assert [tool.name for tool in request.tools] == ["double"]
    assert last.response_format is not None
    assert last.response_format.name == "Person"
    assert (last.tools, last.tool_choice) == ((), None)
    result = seen.result
    assert result.parse(Person) == Person("Ada", 36)
    assert result.halted_reason == "completed"
    assert result.metadata == {"structured_finalize": {"pass_1_halted": "completed"}}
    assert len(result.steps) == 3
    assert result.final_response == result.steps[-1].response
    assert [message.role for message in result.thread.messages] == [
        "user", "assistant", "tool", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert seen.kinds.count("chat_completed") == 1
    assert seen.kinds[-1] == "chat_completed"
    assert allm.fold(seen.events, result.base) == result


@pytest.mark.parametrize(
    ("nudge", "said"), [({}, NUDGE), ({"structured_finalize_nudge": "JSON, please."}, "JSON, please.")]
)
def test_the_nudge(face: Face, nudge: dict[str, Any], said: str) -> None:
    """F135: the default, and one's own."""
    engine = two_passes([PROSE], [ADA])
    result = face.chat(engine, "?", response_format=Person, **nudge)
    assert asked(engine)[1].messages[-1].text == said
    assert result.steps[1].asked[0].text == said


def test_no_nudge(face: Face) -> None:
    engine = two_passes([PROSE], [ADA], structured_finalize_nudge="")
    face.chat(engine, "?", response_format=Person)
    assert [message.role for message in asked(engine)[1].messages] == ["user", "assistant"]


def test_the_nudge_of_the_application() -> None:
    allm.configure(params={"structured_finalize_nudge": "Now."})
    try:
        engine = two_passes([PROSE], [ADA])
        allm.chat(engine, "?", response_format=Person)
        assert asked(engine)[1].messages[-1].text == "Now."
    finally:
        allm.configure()


@allm.tool
def ask() -> allm.AskUser:
    """Ask."""
    return allm.AskUser("Who?")


@allm.tool
def stop() -> allm.Halt:
    """Stop."""
    return allm.Halt("enough")


@pytest.mark.parametrize(
    ("script", "options", "reason"),
    [
        ([call("ask")], {}, "ask_user"),
        ([call("stop")], {}, "enough"),
        ([call(n=1)], {"mode": "manual"}, "manual_tool_calls"),
    ],
)
def test_the_second_pass_is_left_out_where_the_first_waits(
    face: Face, script: Script, options: dict[str, Any], reason: str
) -> None:
    """F136: one pass, and what ended it is told."""
    engine = two_passes(script).merge(tools=[ask, stop])
    result = face.chat(engine, "?", response_format=Person, **options)
    assert result.halted_reason == reason
    assert result.metadata["structured_finalize"] == {"pass_1_halted": reason}
    assert len(asked(engine)) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"max_turns": 2}, "max_turns"), ({"halt_when": lambda step: True}, "halt_when")],
)
def test_the_second_pass_is_outside_the_turn_budget(face: Face, options: dict[str, Any], reason: str) -> None:
    """F137, and trap 29: it is not counted and has no tools."""
    turns = 2 if reason == "max_turns" else 1
    engine = two_passes(*[[call(n=1)]] * turns, [ADA])
    seen = face.events(engine, "?", response_format=Person, **options)
    assert seen.result.halted_reason == "completed"
    assert seen.result.metadata == {"structured_finalize": {"pass_1_halted": reason}}
    assert len(asked(engine)) == turns + 1
    assert asked(engine)[-1].tools == ()
    assert seen.kinds.count("chat_completed") == 1


def test_calls_in_the_second_pass_are_mistakes(face: Face) -> None:
    engine = two_passes([PROSE], [call(n=1)], [ADA])
    result = face.chat(engine, "?", response_format=Person, output_retries=1)
    assert result.parse(Person) == Person("Ada", 36)
    assert all(request.tools == () for request in asked(engine)[1:])
    with pytest.raises(OutputError):
        face.chat(two_passes([PROSE], [call(n=1)]), "?", response_format=Person)


class Demanding(FakeAdapter):
    def requires_structured_finalize(self, request: allm.Request) -> bool:
        return bool(request.tools)


def test_an_adapter_may_demand_two_passes() -> None:
    """F138."""
    adapter = Demanding([[PROSE], [ADA], [ADA]])
    engine = allm.Engine(adapter=adapter)
    assert len(allm.chat(engine, "?", response_format=Person, tools=[double]).steps) == 2
    assert len(allm.chat(engine, "?", response_format=Person).steps) == 1


@pytest.mark.parametrize(
    ("model", "endpoint"),
    [("gemini:gemini-2.5-flash", "generate"), ("anthropic:claude-3-5-haiku-latest", "messages")],
)
def test_two_passes_where_the_model_cannot_do_both(model: str, endpoint: str) -> None:
    engine = served(model, [call(n=1)], [PROSE], [ADA], endpoint=endpoint, tools=[double])
    result = allm.chat(engine, "?", response_format=Person)
    assert result.metadata == {"structured_finalize": {"pass_1_halted": "completed"}}
    assert [request.response_format is None for request in asked(engine)] == [True, True, False]
    alone = served(model, [ADA], endpoint=endpoint)
    assert len(allm.chat(alone, "?", response_format=Person).steps) == 1


def test_one_pass_where_the_model_can_do_both() -> None:
    engine = served("gemini:gemini-3-flash", [ADA], endpoint="generate", tools=[double])
    assert len(allm.chat(engine, "?", response_format=Person).steps) == 1


def test_hosted_tools_count_and_are_left_out() -> None:
    hosted = {"tools": [{"google_search": {}}], "seed": 1}
    engine = served("gemini:gemini-2.5-flash", [PROSE], [ADA], endpoint="generate")
    allm.chat(engine, "?", response_format=Person, options=hosted)
    assert [request.options for request in asked(engine)] == [hosted, {"seed": 1}]


@pytest.mark.parametrize("verb", ["generate", "step"])
def test_verbs_without_a_second_pass_say_so(verb: str) -> None:
    engine = served("gemini:gemini-2.5-flash", [ADA], endpoint="generate", tools=[double])
    with pytest.raises(allm.UnsupportedError, match="tools_refused_with_schema"):
        getattr(allm, verb)(engine, "?", response_format=Person)
    with pytest.raises(allm.UnsupportedError, match="tools_refused_with_schema"):
        allm.chat(engine, "?", response_format=Person, structured_finalize=False)
    passed = getattr(allm, verb)(engine, "?", response_format=Person, on_unsupported="pass")
    assert passed.text == ADA["text"]


@pytest.mark.parametrize("shape", [None, "text", "json_object"])
def test_two_passes_need_a_schema(shape: Any) -> None:
    """F035."""
    with pytest.raises(allm.ValidationError, match="structured_finalize: requires_json_schema"):
        allm.stream(fake(), "?", response_format=shape, structured_finalize=True)


class Unencodable(Served):
    """A provider whose request for the second pass cannot be made."""

    def encode(self, request: allm.Request, ctx: CallContext) -> Any:
        if request.response_format is not None:
            raise raised(allm.ErrorInfo(reason="unsupported", message="no schema here"))
        return allm.ports.HttpRequest("https://unused.invalid/")


def test_a_second_pass_that_cannot_start_leaves_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from allm.loops import generate
    from allm.loops.exchange import _Played

    adapter = Unencodable("chat", "openai", [PROSE])
    played: Any = lambda adapter, request, ctx, *rest, **more: _Played(adapter, request, ctx)  # noqa: E731
    monkeypatch.setattr(generate, "source_of", played)
    engine = allm.Engine("gpt-6-luna", adapter=adapter)
    events: list[Event] = list(allm.stream(engine, "?", response_format=Person, structured_finalize=True))
    result: Any = events[-1].result  # type: ignore[union-attr]
    assert result.text == PROSE["text"]
    assert result.halted_reason == "completed"
    note = result.metadata["structured_finalize"]
    assert note == {"pass_1_halted": "completed", "pass_2_error": "unsupported: no schema here"}


def test_a_second_pass_that_fails_on_the_way_is_the_failure_of_the_run(face: Face) -> None:
    engine = two_passes([PROSE], [{"error": "overloaded"}])
    with pytest.raises(allm.OverloadedError) as caught:
        face.chat(engine, "?", response_format=Person, retry=False)
    assert [step.text for step in caught.value.partial.steps] == [PROSE["text"], ""]


def test_partial_values_are_those_of_the_second_pass() -> None:
    engine = two_passes([{"text": '```\n{"name": "Bob"}\n```'}], [ADA])
    *values, final = allm.stream(engine, "?", response_format=Person).partial(Person)
    assert final == Person("Ada", 36)
    assert {value.name for value in values} == {"Ada"}


def test_the_turn_to_the_second_pass_is_seen() -> None:
    stream = allm.stream(two_passes([PROSE], [ADA]), "?", response_format=Person)
    begun = [event for event in stream if isinstance(event, allm.MessageStarted)]
    assert [event.halted for event in begun] == [None, "completed"]
    assert [[message.text for message in event.asked] for event in begun] == [[], [NUDGE]]


def test_both_passes_on_a_real_wire() -> None:
    """What a plan holds for the second pass can be encoded by every dialect."""
    for model in ("openai:gpt-6-luna", "anthropic:claude-3-5-haiku-latest", "gemini:gemini-2.5-flash"):
        sent = body(model, response_format=Person, tools=[double], structured_finalize=True)
        assert "Person" not in str(sent)
        assert "double" in str(sent)
