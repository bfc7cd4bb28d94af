"""API keys: five levels, each above the next; and no key in anything that is shown or stored."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

import allm
from allm import keys
from allm.drivers.threads import finished_key, key_header
from allm.keys import UNSET, KeyRing
from allm.ports import HttpHead, HttpRequest, KeyRule
from tests.faces import Face

RULE = KeyRule("openai", ("OPENAI_API_KEY", "OPENAI_KEY"))
LEVELS = ("call", "store", "application", "environment", "dotenv")
SECRET = "sk-" + "s3cr3t" * 6

pytestmark = pytest.mark.usefixtures("clean")


def put(level: str, value: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Set a key on a level other than the call's."""
    match level:
        case "store":
            keys._levels.store["openai"] = value  # an empty one cannot be put
        case "application":
            allm.configure(keys={"openai": value})
        case "environment":
            monkeypatch.setenv("OPENAI_API_KEY", value)
        case "dotenv":
            (folder / ".env").write_text(f'# keys\nexport OPENAI_API_KEY="{value}"\n')
            allm.configure(env_file=str(folder / ".env"))


@pytest.mark.parametrize("lowest", range(len(LEVELS)), ids=LEVELS)
def test_five_levels(lowest: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every level from `lowest` down has a key; the highest of them is taken."""
    for level in LEVELS[lowest:]:
        put(level, level, monkeypatch, tmp_path)
    ring = KeyRing("call") if lowest == 0 else KeyRing()
    assert ring.find(RULE, "") == LEVELS[lowest]
    ring.check(RULE)


@pytest.mark.parametrize("empty", LEVELS[1:4])
def test_an_empty_key_is_a_missing_one(empty: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put("dotenv", "dotenv", monkeypatch, tmp_path)
    put(empty, "", monkeypatch, tmp_path)
    assert KeyRing().find(RULE, "") == "dotenv"


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_key_of_the_call_is_a_mistake(empty: Any) -> None:
    with pytest.raises(allm.ConfigurationError, match="empty"):
        allm.chat(allm.Engine("openai:gpt-4.1-mini"), "hi", api_key=empty)


def test_store() -> None:
    keys.put("openai", "a")
    assert KeyRing().find(RULE, "") == "a"
    keys.delete("openai")
    keys.delete("openai")
    assert KeyRing().find(RULE, "") is None
    with pytest.raises(allm.ConfigurationError):
        keys.put("openai", "")


def test_the_first_variable_that_is_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_KEY", "second")
    assert KeyRing().find(RULE, "") == "second"
    monkeypatch.setenv("OPENAI_API_KEY", "first")
    assert KeyRing().find(RULE, "") == "first"


def test_dotenv_is_read_only_when_switched_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY=dotenv\n")
    monkeypatch.chdir(tmp_path)
    assert KeyRing().find(RULE, "") is None
    allm.configure(env_file=".env")
    assert KeyRing().find(RULE, "") == "dotenv"
    allm.configure(env_file="nothing-here")
    assert KeyRing().find(RULE, "") is None


def test_dotenv_format(tmp_path: Path) -> None:
    lines = ["# no=comment", "", "A=1", 'export B="two words"', "C='kept'", "  D = 4 ", "no value", "E=a=b"]
    (tmp_path / "e").write_text("\n".join(lines))
    assert keys.read_env_file(str(tmp_path / "e")) == {
        "A": "1", "B": "two words", "C": "'kept'", "D": "4", "E": "a=b",
    }  # fmt: skip


def test_a_missing_key_names_the_variable_and_the_levels() -> None:
    engine = allm.Engine("openai:gpt-4.1-mini")
    with pytest.raises(allm.MissingKeyError) as caught:
        allm.stream(engine, "hi")
    text = str(caught.value)
    for part in (
        "OPENAI_API_KEY",
        "api_key=",
        "allm.keys.put",
        "application",
        "environment",
        ".env is",
    ):
        assert part in text
    assert caught.value.info.code == "missing_key"
    with pytest.raises(allm.MissingKeyError):
        allm.aio.stream(engine, "hi")


def test_an_engine_that_is_not_trusted_takes_no_stored_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "environment")
    keys.put("openai", "store")
    assert KeyRing(trusted=False).find(RULE, "") is None
    assert KeyRing("call", trusted=False).find(RULE, "") == "call"


# Key sources


def test_a_key_source_of_the_call_is_asked_at_each_open() -> None:
    asked: list[tuple[str, str]] = []

    def source(provider: str, origin: str) -> str:
        asked.append((provider, origin))
        return f"key-{len(asked)}"

    ring = KeyRing(source)
    ring.check(RULE)
    assert asked == []
    request = HttpRequest("https://api.example.com:444/v1/chat", key=RULE)
    for number in (1, 2):
        found = finished_key(request, key_header(ring, request))
        assert found == ("authorization", f"Bearer key-{number}")
    assert asked == [("openai", "https://api.example.com:444")] * 2


def test_a_source_that_knows_nothing_is_a_missing_key() -> None:
    request = HttpRequest("https://api.example.com/v1", key=RULE)
    with pytest.raises(allm.MissingKeyError):
        finished_key(request, key_header(KeyRing(lambda provider, origin: None), request))


def test_the_applications_source_sits_between_store_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "environment")
    allm.configure(key_source=lambda provider, origin: "source" if provider == "openai" else None)
    assert KeyRing().find(RULE, "") == "source"
    keys.put("openai", "store")
    assert KeyRing().find(RULE, "") == "store"
    assert KeyRing("call").find(RULE, "") == "call"
    assert KeyRing().find(KeyRule("other", ("OPENAI_API_KEY",)), "") == "environment"


class Transport:
    """Both transports, in memory: what header came, and a refusal as the answer."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, str] | None] = []
        self.head = HttpHead(401)
        self.body = [b'{"error": {"message": "Incorrect API key provided: ' + SECRET.encode() + b'"}}', b""]

    def open(
        self, request: Any, timeouts: Any, key_header: Any = None, on_connection: Any = None
    ) -> Transport:
        self.keys.append(key_header)
        return self

    async def aopen(self, *args: Any) -> Transport:
        raise NotImplementedError

    def read(self, timeout: float | None) -> bytes:
        return self.body.pop(0)

    def close(self) -> None: ...

    def cancel(self) -> None: ...


def refused(**options: Any) -> tuple[Transport, list[Any], BaseException]:
    """A call that the provider refuses: transport, events, exception."""
    transport = Transport()
    events: list[Any] = []
    engine = allm.Engine("openai:gpt-4.1-mini", transport=transport, adapter_options={"endpoint": "chat"})
    with pytest.raises(allm.AuthenticationError) as caught:
        allm.chat(engine, "hi", on_event=events.append, **options)
    return transport, events, caught.value


def test_the_key_goes_into_the_header_and_nowhere_else() -> None:
    transport, events, error = refused(api_key=SECRET)
    assert transport.keys == [("authorization", f"Bearer {SECRET}")]
    shown = [str(error), repr(error), repr(error.__dict__), repr(events), repr(pickle.dumps(error))]
    shown += [repr(allm.to_json(event)) for event in events]
    shown += [repr(allm.to_json(error.partial))]  # type: ignore[attr-defined]
    assert not any(SECRET in text for text in shown)


def test_an_async_source_needs_the_awaited_face() -> None:
    async def source(provider: str, origin: str) -> str:
        return SECRET

    engine = allm.Engine("openai:gpt-4.1-mini", transport=Transport(), adapter_options={"endpoint": "chat"})
    with pytest.raises(allm.ConfigurationError, match=r"allm\.aio"):
        allm.chat(engine, "hi", api_key=source)


def test_no_key_in_a_repr_or_a_pickle() -> None:
    ring = KeyRing(SECRET)
    keys.put("openai", SECRET)
    assert SECRET not in repr(ring) + repr(keys._levels) + repr(UNSET)
    with pytest.raises(allm.ConfigurationError):
        pickle.dumps(ring)
    key = ring.find(RULE, "")
    assert (key, f"{key}") == (SECRET, SECRET)
    assert SECRET not in f"{key!r} {(key,)}"
    with pytest.raises(allm.ConfigurationError):
        pickle.dumps(key)
    stream = allm.stream(allm.Engine("openai:gpt-4.1-mini"), "hi", api_key=SECRET)
    assert SECRET not in repr(stream) + repr(stream._plan)
    for value in (stream._plan.engine, stream._plan.request):
        assert SECRET.encode() not in pickle.dumps(value)
    stream.close()


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "API-Key", "Cookie", "x-goog-api-key"])
def test_headers_that_carry_keys_are_refused(name: str) -> None:
    options = {"headers": {name: SECRET}}
    with pytest.raises(allm.ConfigurationError, match="api_key=") as caught:
        allm.Engine("openai:gpt-4.1-mini", adapter_options=options)
    assert SECRET not in str(caught.value)
    with pytest.raises(allm.ConfigurationError):
        allm.stream(allm.Engine("openai:gpt-4.1-mini"), "hi", api_key="k", adapter_options=options)


def test_an_engine_has_no_field_for_a_key() -> None:
    with pytest.raises(allm.UnknownOptionError):
        allm.Engine("openai:gpt-4.1-mini", api_key=SECRET)  # type: ignore[call-arg]


def test_in_process_adapters_get_the_key_on_every_face(face: Face) -> None:
    class Own:
        name = "own"
        key = KeyRule("own", ("OWN_KEY",))

        def complete(self, request: Any, ctx: Any) -> allm.Response:
            assert ctx.api_key == SECRET
            assert SECRET not in repr(ctx)
            return allm.Response(message=allm.assistant("ok"), finish_reason="stop")

    engine = allm.Engine(adapter=Own())
    assert face.chat(engine, "hi", api_key=SECRET).text == "ok"
    with pytest.raises(allm.MissingKeyError, match="OWN_KEY"):
        face.chat(engine, "hi")
