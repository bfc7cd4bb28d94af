"""A real model behind a server that nobody here wrote: llama.cpp, through three of our adapters.

Its program is the package `xllamacpp` of the extra `local`; how it is started, and its weights, come from
`tools/servers` beside the checkout (`scripts/test` fetches them). What llama.cpp itself leaves out of a
dialect is said where it matters.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

import pytest

import allm
from tests.faces import FACES, Face
from tests.fault_support import PATH
from tests.four_dialects import CHAT, MESSAGES, RESPONSES, Dialect

SCRIPTS = PATH / "tools" / "servers"
HOME = Path(os.environ.get("ALLM_SERVERS") or Path(tempfile.gettempdir()) / "allm-servers")
WEIGHTS = HOME / "models" / "qwen2.5-coder-0.5b.gguf"
PATIENCE = 60.0  # seconds that the model may take to load


def _absent() -> str:
    """Why there can be no server here, or nothing."""
    if not (SCRIPTS / "llama_serve.py").exists():
        return "the scripts that start llama.cpp are not beside the checkout"
    if not WEIGHTS.exists():
        return f"{WEIGHTS} is missing: `models.sh qwen2.5-coder-0.5b` fetches it"
    return "" if find_spec("xllamacpp") else "the extra `local` is not installed"


pytestmark = [
    pytest.mark.skipif(bool(_absent()), reason=_absent() or "all there"),
    pytest.mark.parametrize("dialect", [CHAT, RESPONSES, MESSAGES], ids=repr),
    pytest.mark.parametrize("face", FACES[:2], ids=lambda face: face.name),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server of this module's own on a free port, ended with it."""
    command = [sys.executable, str(SCRIPTS / "llama_serve.py"), str(WEIGHTS)]
    port, context, threads, slots = "0", "4096", "1", "2"
    command += [port, context, threads, slots, str(SCRIPTS / "chatml-json-tools.jinja")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        late = threading.Timer(PATIENCE, server.kill)
        late.start()
        try:
            assert server.stdout is not None
            ready = server.stdout.readline()
            late.cancel()
            assert ready.startswith("http://127.0.0.1:"), f"llama.cpp did not come up: {ready!r}"
            yield ready.split()[0]
        finally:
            late.cancel()
            server.kill()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    allm.close()


def engine_at(dialect: Dialect, address: str, **fields: Any) -> allm.Engine:
    return dialect.engine(
        address,
        model="local",
        params={"temperature": 0, "max_tokens": 64},
        options={"anthropic_version": "2023-06-01"},  # the newest has no temperature
        timeouts=allm.Timeouts(request=60.0),
        retry=False,
        **fields,
    )


def test_streams_an_answer(face: Face, dialect: Dialect, address: str) -> None:
    seen = face.events(
        engine_at(dialect, address), "Count from one to five.", verb="stream_generate", api_key="k"
    )
    pieces = [event.text for event in seen.events if isinstance(event, allm.TextDelta)]
    assert len(pieces) > 3
    assert "".join(pieces) == seen.result.text != ""
    assert seen.kinds[-1] == "message_completed"
    assert seen.result.finish_reason in ("stop", "length")
    assert seen.result.usage.input_tokens > 10
    assert seen.result.usage.output_tokens > 3
    assert seen.result.id


@allm.tool(manual=True)
def get_weather(city: str) -> str:
    """Get the current weather for a city."""
    raise AssertionError("a manual tool is not run")


def test_streams_a_forced_tool_call(face: Face, dialect: Dialect, address: str) -> None:
    seen = face.events(
        engine_at(dialect, address, tools=[get_weather]),
        "What is the weather in Paris?",
        verb="stream_generate",
        tool_choice="get_weather",
        api_key="k",
    )
    call = seen.result.tool_calls[0]  # a small model may ask twice
    assert (call.name, call.arguments) == ("get_weather", {"city": "Paris"})
    assert seen.result.finish_reason == "tool_calls"
    deltas = [e.text for e in seen.events if isinstance(e, allm.ToolCallDelta) and e.id == call.id]
    assert json.loads("".join(deltas)) == call.arguments
    assert len(deltas) > 1


def test_answers_from_the_result_of_a_tool(face: Face, dialect: Dialect, address: str) -> None:
    asked = allm.Thread().add_user("What is the weather in Paris?")
    engine = engine_at(dialect, address)
    call = face.generate(engine, asked, tools=[get_weather], tool_choice="get_weather", api_key="k")
    results = [allm.tool_result(made.id, "It is snowing in Paris.") for made in call.tool_calls]
    response = face.generate(engine, asked.add_messages((call.message, *results)), api_key="k")
    assert "snow" in response.text.lower()
    assert response.finish_reason in ("stop", "length")


class Person(TypedDict):
    name: str
    age: int


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_gives_a_structured_answer(face: Face, dialect: Dialect, address: str) -> None:
    """llama.cpp keeps to a schema on Chat; on Responses under the field of Chat; on Messages not at all,
    so there the words ask for it."""
    wanted = allm.json_schema("person", PERSON)
    chat_field = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    response = face.generate(
        engine_at(dialect, address, system="You answer with one JSON object: no prose, no code fence."),
        'Fill in {"name": string, "age": integer} for Ann, who is 30.',
        response_format=wanted,
        options={"response_format": chat_field} if dialect is RESPONSES else {},
        api_key="k",
    )
    assert response.parse(Person) == {"name": "Ann", "age": 30}
