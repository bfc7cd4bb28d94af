"""Layer A values are frozen, comparable, copied and pickled like plain data."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allm.data import content, events, messages, requests, responses
from allm.data.freeform import json_value
from allm.errors import ValidationError
from tests import strategies

SLOW = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=60
)
ALL: dict[Any, Any] = {**strategies.STRUCTS, **strategies.EVENTS}


@SLOW
@given(strategies.any_value)
def test_pickle_and_copy(value: Any) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(value, protocol)) == value
    assert copy.copy(value) == value
    twin = copy.deepcopy(value)
    assert twin == value
    assert type(twin) is type(value)


@SLOW
@given(strategies.any_value, st.data())
def test_values_are_frozen(value: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(value.__struct_fields__))
    before = getattr(value, name)
    with pytest.raises(AttributeError):
        setattr(value, name, None)
    assert getattr(value, name) is before


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_class_is_frozen_and_closed(cls: Any) -> None:
    config = cls.__struct_config__
    assert config.frozen
    assert config.omit_defaults
    assert config.forbid_unknown_fields


@pytest.mark.parametrize("cls", events.EVENT_TYPES, ids=lambda cls: cls.__name__)
def test_every_event_is_tagged_by_type(cls: Any) -> None:
    assert cls.__struct_config__.tag_field == "type"
    assert cls.__match_args__ == cls.__struct_fields__


def test_events_read_well_in_match() -> None:
    match events.TextDelta("hi", 2):
        case events.TextDelta(text, index):
            assert (text, index) == ("hi", 2)
        case _:
            pytest.fail("no match")


def test_free_form_maps_become_json_values() -> None:
    thread = messages.Thread((), {"a": (1, 2), "b": True})
    assert thread.metadata == {"a": [1, 2], "b": True}
    given_map = {"a": [1]}
    kept = messages.Thread((), given_map)
    given_map["a"].append(2)
    assert kept.metadata == {"a": [1]}


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"a": float("nan")}, "metadata.a", "not_a_finite_number"),
        ({"a": [1, 2**64]}, "metadata.a[1]", "integer_out_of_range"),
        ({1: 2}, "metadata.1", "key_not_a_string"),
        ({"a": {"b": b"x"}}, "metadata.a.b", "type_bytes"),
    ],
)
def test_what_is_no_json_value_is_refused_with_its_path(value: Any, path: str, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        messages.Thread((), value)
    assert caught.value.errors == ((path, reason),)


def test_nesting_is_bounded() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValidationError, match="nested_too_deeply"):
        json_value(deep)


def test_threads_share_their_messages() -> None:
    first = messages.Thread().add_user("a")
    second = first.add_assistant("b")
    assert len(first) == 1
    assert second.messages[0] is first.messages[0]
    assert second.last_message == messages.assistant("b")


def test_an_image_has_one_source() -> None:
    with pytest.raises(ValidationError):
        content.Image()
    with pytest.raises(ValidationError):
        content.Image(url="x", path="y")
    image = content.Image.from_data_uri("data:image/png;base64,aGk=")
    assert (image.data, image.mime_type) == (b"hi", "image/png")
    assert image.to_data_uri() == "data:image/png;base64,aGk="
    with pytest.raises(ValidationError, match="invalid_base64"):
        content.Image.from_base64("%", "image/png")


@pytest.mark.parametrize("raw", ["[1]", "{", '{"a":1,"a":2}', "nul", '"x"', "7", "[" * 9999, '{"a":NaN}'])
def test_arguments_that_are_no_object_are_marked(raw: str) -> None:
    call = content.parsed_call("c", "f", raw)
    assert (call.arguments, call.arguments_invalid, call.raw_arguments) == ({}, True, raw)


@pytest.mark.parametrize("raw", ['{"a":{"b":1,"b":2}}', '{"a":{"b":1},"a":2}', '{"a":":","a":1}'])
def test_a_key_that_comes_twice_is_marked_at_any_depth(raw: str) -> None:
    assert content.parsed_call("c", "f", raw).arguments_invalid


def test_a_colon_in_a_text_is_no_key() -> None:
    call = content.parsed_call("c", "f", '{"at":"10:30"}')
    assert (call.arguments, call.arguments_invalid) == ({"at": "10:30"}, False)


@given(strategies.maps)
def test_arguments_are_parsed(arguments: dict[str, Any]) -> None:
    call = content.parsed_call("c", "f", msgspec.json.encode(arguments).decode())
    assert call.arguments == arguments
    assert not call.arguments_invalid


@given(*[strategies.usages] * 2)
def test_usage_sums_keep_what_only_one_side_reports(left: responses.Usage, right: responses.Usage) -> None:
    total = left.plus(right)
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        known = [n for n in (getattr(left, name), getattr(right, name)) if n is not None]
        assert getattr(total, name) == (sum(known) if known else None)


def test_model_references() -> None:
    parse = requests.ModelRef.parse
    assert parse("openai:gpt") == parse("gpt@openai") == parse(("openai", "gpt")) == parse("gpt", "openai")
