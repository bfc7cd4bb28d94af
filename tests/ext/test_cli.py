"""The command line, in process with a scripted provider and as a process with the local model."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import allm
from allm.ext import cli, cli_chat, weights
from allm.ext.screen import Screen
from allm.ext.store import SQLiteStore
from allm.providers.fake import FakeAdapter

Script = list[dict[str, Any]]
Play = Callable[..., FakeAdapter]


def have_model() -> str:
    """Why the local model cannot be used here; empty where it can."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "the runtime is not installed: pip install 'pyallm[local]'"
    return "" if weights.default_path() else "no default weights: python -m allm.ext.weights"


real = pytest.mark.skipif(bool(have_model()), reason=have_model() or "there")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*cli.MODELS, "ALLM_MODEL", "ALLM_BASE_URL", "ALLM_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALLM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Make the scripts the answers of the model that ALLM_MODEL names."""

    def start(*scripts: Script) -> FakeAdapter:
        adapter = FakeAdapter(list(scripts))
        allm.register_provider("scripted", lambda: adapter)
        monkeypatch.setenv("ALLM_MODEL", "scripted:m")
        return adapter

    return start


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, lines: Sequence[str | Callable[[], Any]]) -> list[str]:
    """Type these lines; what is a function is called before the next one. The prompts as they come."""
    left, prompts = iter(lines), []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        for line in left:
            if isinstance(line, str):
                return line
            line()
        raise EOFError

    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, Terminal())
    monkeypatch.setattr("builtins.input", ask)
    return prompts


def shown(stream: Any) -> str:
    text: str = stream.getvalue()
    return text


def refuses(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake of use: one line on stderr that says this, and the status 2."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("allm: ")
    assert err.count("\n") == 1
    assert said in err


# -- ask ---------------------------------------------------------------------------------------------


def test_ask_prints_the_answer_and_a_newline(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = play([{"text": ["Hel", "lo"]}])
    asked = ["ask", "Say", "hello", "--system", "Be kind.", "--max-tokens", "9", "--temperature", "0.5"]
    assert cli.main(asked) == 0
    assert capsys.readouterr() == ("Hello\n", "")
    request = adapter.requests[0]
    assert request.messages == (allm.user("Say hello"),)
    assert (request.system, request.max_tokens, request.temperature) == ("Be kind.", 9, 0.5)


def test_piped_input_joins_the_prompt(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = play([{"text": "a"}], [{"text": "b"}])
    typed(monkeypatch, "one\ntwo\n")
    assert cli.main(["ask", "Sum up:"]) == 0
    typed(monkeypatch, "alone\n")
    assert cli.main(["ask", "-"]) == 0
    assert [r.messages[0].text for r in adapter.requests] == ["Sum up:\n\none\ntwo", "alone"]


def test_files_and_images(play: Play, tmp_path: Path) -> None:
    adapter = play([{"text": "a"}])
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.pdf").write_bytes(b"%PDF")
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    names = [str(tmp_path / name) for name in ("a.txt", "b.pdf", "c.png")]
    assert cli.main(["ask", "x", "--file", names[0], "--file", names[1], "--image", names[2]]) == 0
    text, file, image = adapter.requests[0].messages[0].parts
    assert text == allm.TextPart("x\n\nFile a.txt:\ntext")
    assert file == allm.FilePart(b"%PDF", mime_type="application/pdf", filename="b.pdf")
    assert image == allm.ImagePart(allm.Image.from_bytes(b"\x89PNG", "image/png"))


def test_json_events(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play([{"text": "Hi"}])
    assert cli.main(["ask", "x", "--json"]) == 0
    events = [allm.from_json(line) for line in capsys.readouterr().out.splitlines()]
    assert isinstance(events[0], allm.MessageStarted)
    assert isinstance(events[-1], allm.ChatCompleted)
    assert events[-1].result.text == "Hi"


def test_a_failure_as_json_is_the_last_event(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play([{"error": "authentication_failed"}])
    assert cli.main(["ask", "x", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["type"] == "error"
    assert err.startswith("allm: ")
    assert "check the key of this provider" in err


@pytest.mark.parametrize("inline", [True, False])
def test_schema(play: Play, inline: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    adapter = play([{"text": "{}"}], [{"text": '{"a'}, {"finish": "length"}])
    given = json.dumps(schema) if inline else str(path)
    assert cli.main(["ask", "x", "--schema", given]) == 0
    assert capsys.readouterr().out == "{}\n"
    assert adapter.requests[0].response_format == allm.json_schema("response", schema)
    assert cli.main(["ask", "x", "--schema", given]) == 1
    assert "max_tokens" in capsys.readouterr().err


def test_a_cut_answer_is_named(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play([{"text": "Hi"}, {"finish": "length"}])
    assert cli.main(["ask", "x"]) == 0
    note = "allm: the answer was cut off at its longest; --max-tokens N allows more\n"
    assert capsys.readouterr() == ("Hi\n", note)


def test_a_failure_is_one_line_below_what_came(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play([{"text": "Hal"}, {"error": {"reason": "invalid_request", "message": "two\nlines \x1b[31m"}}])
    assert cli.main(["ask", "x"]) == 1
    out, err = capsys.readouterr()
    assert out == "Hal\n"
    assert err.count("\n") == 1
    assert "two lines [31m" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["ask"], "nothing to ask"),
        (["ask", "x", "--bogus"], "--bogus"),
        (["ask", "x", "--max-tokens", "0"], "positive number"),
        (["ask", "x", "--model", "gpt-4.1"], "write openai:gpt-4.1"),
        (["ask", "x", "--model", "openai:gpt-4.1"], "set OPENAI_API_KEY, or use --model local"),
        (["ask", "x", "--model", "nobody:m"], "no provider 'nobody'"),
        (["ask", "x", "--model", "nope:m"], "no provider 'nope'; known: openai, "),
        (["ask", "x", "--model", "opnai:m"], "no provider 'opnai': did you mean 'openai'?"),
        (["ask", "x", "--model", ":x"], "write openai:x, local"),
        (["ask", "x", "--model", ":"], "write openai:MODEL, local"),
        (["ask", "x", "--temperature", "9"], "number from 0 to 2"),
        (["ask", "x", "--temperature", "nan"], "number from 0 to 2"),
        (["ask", "x", "--model", "compatible:m"], "--base-url or ALLM_BASE_URL"),
        (["ask", "x", "--model", "compatible:m", "--base-url", "host"], "must be http:// or https://"),
        (["ask", "x", "--schema", "{"], "--schema is not JSON"),
        (["ask", "x", "--schema", "nothing.json"], "nothing.json cannot be read"),
        (["ask", "x", "--image", "a.txt"], "no image by its name; add other files with --file"),
        (["ask", "\udcff"], "not text"),
        (["chat", "--tools", "nothing.py"], "nothing.py"),
        (["chat", "--session", "x"], "no session 'x'"),
        (["sessions", "show", "x"], "no session 'x'"),
        (["models", "pull", "--from", "nothing.whl"], "nothing.whl"),
    ],
)
def test_mistakes_of_use(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    refuses(arguments, said, capsys)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"allm {allm.__version__}\n"


def test_control_characters_have_no_effect_on_a_terminal(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "a\x1b]0;title\x07\r\x9b2Jb\tc\n"
    play([{"text": evil}], [{"text": evil}])
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert cli.main(["ask", "x"]) == 0
    assert shown(sys.stdout) == "a]0;title2Jb\tc\n"
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert cli.main(["ask", "x"]) == 0
    assert shown(sys.stdout) == evil


@pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
def test_colour_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, no_colour: str, coloured: bool) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert cli.main(["sessions", "show", "x"]) == 2
    assert ("\x1b[31m" in shown(sys.stderr)) is coloured


def test_ctrl_c(play: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    play([{"text": "Hi"}])
    monkeypatch.setattr(allm, "to_json", interrupted)
    assert cli.main(["ask", "x", "--json"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_an_unexpected_error_has_no_traceback(
    play: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("oh")

    monkeypatch.setattr(cli, "_question", broken)
    assert cli.main(["ask", "x"]) == 1
    assert capsys.readouterr().err == "allm: unexpected RuntimeError: oh; ALLM_DEBUG=1 shows where\n"
    monkeypatch.setenv("ALLM_DEBUG", "1")
    with pytest.raises(RuntimeError):
        cli.main(["ask", "x"])


# -- Which model -------------------------------------------------------------------------------------


def chosen(*arguments: str) -> str:
    parsed = cli._parser().parse_args(["ask", "x", *arguments])
    return str(cli._engine(parsed.model, parsed, Screen()).model)


def test_the_model_is_chosen_in_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_ready_local", lambda model, screen: None)
    monkeypatch.setattr(weights, "default_path", lambda: None)
    assert chosen() == "local"
    note = "allm: no key set; the local model SmolLM2-135M answers (small, on this machine)\n"
    assert capsys.readouterr().err == note
    for variable, model in reversed(cli.MODELS.items()):
        monkeypatch.setenv(variable, "k")
        assert chosen() == model
    monkeypatch.setenv("ALLM_MODEL", "openai:other")
    assert chosen() == "openai:other"
    assert chosen("--model", "local") == "local"
    assert capsys.readouterr().err == ""


def address(model: str, given: str | None = None) -> dict[str, str]:
    return cli.address(allm.ModelRef.parse(model), given)


def test_the_address_of_a_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ALLM_BASE_URL", "http://usual/v1")
    assert address("compatible:m") == {"base_url": "http://usual/v1"}
    assert address("compatible:m", "http://other/v1") == {"base_url": "http://other/v1"}
    assert address("ollama:m", "http://other/v1") == {"base_url": "http://other/v1"}
    for model in ("openai:m", "ollama:m", "compatible:groq/m", "local"):
        assert address(model) == {}


def test_the_address_stays_with_its_provider_when_the_model_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed = cli._parser().parse_args(["chat", "-m", "ollama:a", "--base-url", "http://there/v1"])
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    chat = cli_chat._Chat(parsed, Screen())
    found = [chat.engine.base_url]
    for model in ("ollama:b", "vllm:c", "openai:d", "ollama:e"):
        chat._take(f"/model {model}")
        found.append(chat.engine.base_url)
    assert found == ["http://there/v1", "http://there/v1", None, None, "http://there/v1"]


@pytest.mark.parametrize("model", ["openai:m", "anthropic:m", "groq:m", "compatible:groq/m"])
def test_a_key_goes_to_no_foreign_host(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GROQ_API_KEY"):
        monkeypatch.setenv(variable, "secret")
    for arguments in (["ask", "x"], ["embed", "x"], ["image", "x"]):
        refuses([*arguments, "-m", model, "--base-url", "http://127.0.0.1:9"], "write compatible:m", capsys)


def test_a_server_that_is_named_by_its_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("COMPATIBLE_API_KEY", "its-own")
    with allm.testing.scripted([[{"text": "Hi"}], [{"vectors": [[0.5]]}]]) as server:
        place = ["-m", "compatible:m", "--base-url", f"{server.url}/v1"]
        assert cli.main(["ask", "x", *place]) == 0
        assert cli.main(["embed", "x", *place]) == 0
        assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer its-own"] * 2
    assert capsys.readouterr().out == 'Hi\n{"index":0,"vector":[0.5]}\n'


def test_the_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_has_runtime", lambda: False)
    assert cli.main(["ask", "x"]) == 2
    assert "pip install 'pyallm[local]'" in capsys.readouterr().err
    assert cli.main(["models"]) == 0
    assert "pip install 'pyallm[local]'" in capsys.readouterr().out


def test_weights_are_fetched_with_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def ensure(progress: weights.Progress) -> Path:
        progress(5_000_000, 10_000_000)
        progress(10_000_000, 10_000_000)
        progress(10_000_000, 10_000_000)
        return Path("m.gguf")

    monkeypatch.setattr(weights, "default_path", lambda: None)
    monkeypatch.setattr(weights, "ensure", ensure)
    for stream, bars in ((Terminal(), 3), (io.StringIO(), 0)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert cli.main(["models", "pull"]) == 0
        assert "fetching the local model" in shown(stream)
        assert shown(stream).count("\r") == bars
        assert shown(stream).endswith("\n")
        assert shown(stream).count("\n") == (2 if bars else 1)


def test_models_names_keys_but_never_shows_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in cli.MODELS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert "key set" in out
    assert "sk-secret" not in out
    names = [line.split()[0] for line in out.splitlines()]
    assert names == ["local", "openai", "anthropic", "gemini", "default"]
    assert "no key (GOOGLE_API_KEY or GEMINI_API_KEY)" in out


# -- chat and sessions -------------------------------------------------------------------------------


def test_a_chat_is_saved_and_resumed(
    play: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = play([{"text": "one"}], [{"text": "two"}], [{"text": "three"}])
    typed(monkeypatch, "first\n\nsecond\n")
    assert cli.main(["chat"]) == 0
    typed(monkeypatch, "third")
    assert cli.main(["chat"]) == 0
    assert capsys.readouterr() == ("one\ntwo\nthree\n", "")
    texts = [message.text for message in adapter.requests[2].messages]
    assert texts == ["first", "one", "second", "two", "third"]
    (entry,) = SQLiteStore().list()
    assert (entry.title, entry.messages, entry.revision) == ("first", 6, 3)


def test_new_and_named_sessions(
    play: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = play([{"text": "one"}], [{"text": "two"}], [{"text": "three"}])
    for text, more in (("a", []), ("b", ["--new"])):
        typed(monkeypatch, text)
        assert cli.main(["chat", *more]) == 0
    first = next(entry.id for entry in SQLiteStore().list() if entry.title == "a")
    typed(monkeypatch, "c")
    assert cli.main(["chat", "--session", first]) == 0
    assert [message.text for message in adapter.requests[2].messages] == ["a", "one", "c"]


def test_commands(play: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    play([{"text": "one"}], [{"text": "two"}])
    typed(monkeypatch, "hi\n/model\n/model scripted:n\n/model\n/history\n/new\nyou\n/help\n/exit\nlost\n")
    assert cli.main(["chat"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("one\nscripted:m\nscripted:n\nuser: hi\nassistant: one\ntwo\n/model")
    assert err == "allm: from now on scripted:n\nallm: a new conversation\n"
    assert [entry.title for entry in SQLiteStore().list()] == ["you", "hi"]
    assert SQLiteStore().load(SQLiteStore().list()[0].id).metadata == {"model": "scripted:n"}
    for line, said in (("/bogus", "no command /bogus"), ("/retry", "nothing to send again")):
        typed(monkeypatch, line)
        refuses(["chat", "--new"], said, capsys)


def test_tools_from_a_file(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import allm\n@allm.tool\ndef add(a: int, b: int) -> int:\n    '''Add.'''\n    return a + b\n"
        "plus = add\n"
    )
    call = {"tool_call": {"id": "c", "name": "add", "arguments": {"a": 1, "b": 2}}}
    adapter = play([{"text": "Let me see."}, call], [{"text": "three"}])
    typed(monkeypatch, "1 + 2?")
    assert cli.main(["chat", "--tools", str(path)]) == 0
    assert capsys.readouterr() == ("Let me see.\nthree\n", 'allm: tool add {"a": 1, "b": 2}\n')
    assert adapter.requests[1].messages[-1].text == "3"
    path.write_text("1 / 0")
    assert cli.main(["chat", "--tools", str(path)]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
    path.write_text("")
    assert cli.main(["chat", "--tools", str(path)]) == 2


def test_a_question_to_the_user_and_a_manual_tool(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import allm\n@allm.tool\ndef which() -> str:\n    return allm.AskUser('Which one?')\n"
        "look = allm.Tool(name='look', manual=True)\n"
    )
    calls = [{"tool_call": {"id": name, "name": name}} for name in ("which", "look")]
    adapter = play([calls[0]], [calls[1]], [{"text": "done"}])
    typed(monkeypatch, "go\nthat one\nseen\n")
    assert cli.main(["chat", "--tools", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out == "Which one?\ndone\n"
    assert "the model asks for look" in err
    assert adapter.requests[2].messages[-1].text == "seen"


def test_the_choices_of_a_question_are_shown(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import allm\n@allm.tool\ndef which() -> str:\n    return allm.AskUser('Which?', ['red', 'blue'])\n"
    )
    play([{"tool_call": {"id": "c", "name": "which"}}], [{"text": "Red it is."}])
    typed(monkeypatch, "go\nred\n")
    assert cli.main(["chat", "--tools", str(path)]) == 0
    assert capsys.readouterr().out == "Which?\n- red\n- blue\nRed it is.\n"


@pytest.fixture
def guarded(tmp_path: Path) -> Path:
    """Tools that wait for a decision, and what they have done, beside them in `done`."""
    path = tmp_path / "guarded.py"
    path.write_text(
        "import allm, pathlib\n@allm.tool(requires_approval=True)\ndef delete(path: str) -> str:\n"
        "    with (pathlib.Path(__file__).parent / 'done').open('a') as file:\n"
        "        file.write(path)\n    return 'deleted'\n"
        "look = allm.Tool(name='look', manual=True)\n"
    )
    return path


def done(path: Path) -> str:
    written = path.parent / "done"
    return written.read_text() if written.exists() else ""


def deletions(*paths: str) -> Script:
    return [{"tool_call": {"id": f"c{p}", "name": "delete", "arguments": {"path": p}}} for p in paths]


@pytest.mark.parametrize(
    ("said", "ran", "told"),
    [
        ("y", "a", "deleted"),
        ("YES", "a", "deleted"),
        ("n", "", '{"error":"the user did not allow this call"}'),
        ("", "", '{"error":"the user did not allow this call"}'),
        ("not that one", "", '{"error":"the user did not allow this call: not that one"}'),
    ],
)
def test_a_tool_runs_once_it_is_approved(
    said: str,
    ran: str,
    told: str,
    play: Play,
    monkeypatch: pytest.MonkeyPatch,
    guarded: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = play(deletions("a"), [{"text": "Well."}])
    typed(monkeypatch, f"go\n{said}\n")
    assert cli.main(["chat", "--tools", str(guarded)]) == 0
    assert done(guarded) == ran
    assert adapter.requests[1].messages[-1].text == told
    out, err = capsys.readouterr()
    assert out == "Well.\n"
    assert 'the model asks for delete {"path": "a"}: it runs after y' in err


def test_each_waiting_call_is_decided_on(
    play: Play, monkeypatch: pytest.MonkeyPatch, guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look = {"tool_call": {"id": "l", "name": "look"}}
    adapter = play([*deletions("a", "b"), look], [{"text": "Well."}])
    typed(monkeypatch, "go\nn\ny\nseen\n")
    assert cli.main(["chat", "--tools", str(guarded)]) == 0
    assert done(guarded) == "b"
    answers = {message.tool_call_id: message.text for message in adapter.requests[1].messages[2:]}
    assert (answers["cb"], answers["l"]) == ("deleted", "seen")
    assert "did not allow" in answers["ca"]
    notes = [line for line in capsys.readouterr().err.splitlines() if "asks for" in line]
    assert [note.partition(": ")[2].split(" {")[0] for note in notes] == [
        "the model asks for delete",
        "the model asks for delete",
        "the model asks for look",
    ]


def test_the_prompt_says_what_is_waited_for(
    play: Play, monkeypatch: pytest.MonkeyPatch, guarded: Path
) -> None:
    play([*deletions("a"), {"tool_call": {"id": "l", "name": "look"}}], [{"text": "Well."}])
    prompts = at_a_terminal(monkeypatch, ["go", "y", "", "seen"])
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.main(["chat", "--tools", str(guarded)]) == 0
    wanted = ["> ", "run delete? [y/N/why not]> ", "result of look> ", "result of look> ", "> "]
    assert prompts == wanted


def test_a_pipe_that_ends_before_the_decision_has_failed(
    play: Play, monkeypatch: pytest.MonkeyPatch, guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(deletions("a"), [{"text": "Well."}])
    typed(monkeypatch, "go\n")
    assert cli.main(["chat", "--tools", str(guarded)]) == 1
    assert "the input ended before delete was answered" in capsys.readouterr().err
    typed(monkeypatch, "y\n")
    assert cli.main(["chat"]) == 2
    assert "allm chat --tools FILE.py" in capsys.readouterr().err
    assert SQLiteStore().list()[0].status == "awaiting_tools"
    typed(monkeypatch, "y\n")
    assert cli.main(["chat", "--tools", str(guarded)]) == 0
    assert (done(guarded), capsys.readouterr().out) == ("a", "Well.\n")


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Event:
    """While it is set, the user stops a chat at the result of a tool."""
    shows, wanted = cli_chat._Chat._event, Event()

    def stops(self: Any, event: Any) -> None:
        shows(self, event)
        if isinstance(event, allm.ToolResultEncoded) and wanted.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr(cli_chat._Chat, "_event", stops)
    return wanted


def test_an_approved_tool_runs_once_also_where_the_user_stops_then(
    play: Play,
    monkeypatch: pytest.MonkeyPatch,
    guarded: Path,
    stopping: Event,
    capsys: pytest.CaptureFixture[str],
) -> None:
    play(deletions("a"), [{"text": "Well."}])
    stopping.set()
    typed(monkeypatch, "go\ny\n")
    assert cli.main(["chat", "--tools", str(guarded)]) == 130
    stopping.clear()
    typed(monkeypatch, "/retry")
    assert cli.main(["chat", "--tools", str(guarded)]) == 0
    assert (done(guarded), capsys.readouterr().out) == ("a", "Well.\n")


def test_an_approved_call_that_has_not_run_yet_is_announced(
    play: Play, monkeypatch: pytest.MonkeyPatch, guarded: Path
) -> None:
    """The chat died between the decision and the call."""
    play(deletions("a"), [{"text": "Well."}])
    typed(monkeypatch, "go\n")
    assert cli.main(["chat", "--tools", str(guarded)]) == 1
    store = SQLiteStore()
    before = store.load(store.list()[0].id)
    engine = allm.Engine("fake", tools=cli_chat.load_tools(str(guarded)))
    decision = allm.approve(before.pending_tool_calls[0])
    store.save(allm.sessions.submit(engine, before, decisions=[decision]), before.revision)
    at_a_terminal(monkeypatch, ["/retry"])
    assert cli.main(["chat", "--tools", str(guarded)]) == 0
    assert "/retry goes on" in shown(sys.stderr)
    assert (done(guarded), shown(sys.stdout)) == ("a", "Well.\n")


def elsewhere(text: str) -> None:
    """Another writer answers in the last conversation."""
    store = SQLiteStore()
    before = store.load(store.list()[0].id)
    store.save(before.append_user(text).append(allm.assistant("Indeed.")), before.revision)


def test_of_two_writers_the_second_asks_nothing_and_takes_up_the_new_state(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = play([{"text": "one"}], [{"text": "two"}])
    at_a_terminal(monkeypatch, ["a", lambda: elsewhere("b"), "c", "c"])
    assert cli.main(["chat"]) == 0
    assert [message.text for message in adapter.requests[1].messages] == ["a", "one", "b", "Indeed.", "c"]
    assert len(adapter.requests) == 2
    assert "conflict: " in shown(sys.stderr)
    assert "send your line again" in shown(sys.stderr)
    assert SQLiteStore().list()[0].messages == 6


def test_a_conversation_that_was_deleted_elsewhere_is_saved_anew(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    play([{"text": "one"}], [{"text": "two"}])
    at_a_terminal(monkeypatch, ["a", lambda: SQLiteStore().delete(SQLiteStore().list()[0].id), "c", "c"])
    assert cli.main(["chat"]) == 0
    assert "it is gone" in shown(sys.stderr)
    assert SQLiteStore().list()[0].messages == 4


def test_a_pipe_stops_at_a_conflict(
    play: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(screen: Screen, prompt: str) -> str:
        if adapter.requests:
            elsewhere("b")
        return "a"

    adapter = play([{"text": "one"}], [{"text": "two"}])
    monkeypatch.setattr(Screen, "ask", ask)
    assert cli.main(["chat"]) == 1
    assert "conflict: " in capsys.readouterr().err
    assert len(adapter.requests) == 1


def test_a_failed_turn_is_kept_and_tried_again(
    play: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = play([{"error": "invalid_request"}], [{"text": "now"}])
    typed(monkeypatch, "hi")
    assert cli.main(["chat"]) == 1
    assert SQLiteStore().list()[0].status == "error"
    typed(monkeypatch, "/retry")
    assert cli.main(["chat"]) == 0
    assert capsys.readouterr().out == "now\n"
    assert [message.text for message in adapter.requests[1].messages] == ["hi"]


def test_a_chat_that_was_cut_goes_on(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How far the turn had come was stored before each tool, so that a crash loses none of it."""
    path = tmp_path / "mine.py"
    path.write_text("import allm\n@allm.tool\ndef first() -> str:\n    return 'done'\n")
    calls = [{"tool_call": {"id": name, "name": "first"}} for name in ("a", "b")]
    adapter = play(calls, [{"text": "now"}])
    saved: list[allm.Session] = []

    class Recording(SQLiteStore):
        def save(self, session: allm.Session, expected_revision: int | None = None) -> None:
            super().save(session, expected_revision)
            saved.append(session)

    monkeypatch.setattr(cli_chat, "SQLiteStore", Recording)
    typed(monkeypatch, "go")
    assert cli.main(["chat", "--tools", str(path)]) == 0
    assert [session.status for session in saved] == ["interrupted"] * 4 + ["completed"]
    capsys.readouterr()
    SQLiteStore().delete(saved[0].id or "")
    SQLiteStore().save(saved[2])  # after the third event of the tools: one of them has answered
    play([{"text": "now"}])
    typed(monkeypatch, "/retry")
    assert cli.main(["chat", "--tools", str(path)]) == 0
    assert capsys.readouterr().out == "now\n"
    after = SQLiteStore().load(saved[0].id or "")
    assert (after.status, len(after.messages), len(adapter.requests)) == ("completed", 5, 2)


def test_a_turn_that_the_user_stops_leaves_nothing(
    play: Play, monkeypatch: pytest.MonkeyPatch, stopping: Event, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import allm\n@allm.tool\ndef first() -> str:\n    return 'done'\n")
    call = {"tool_call": {"id": "a", "name": "first"}}
    play([call], [{"text": "one"}], [call])
    stopping.set()
    typed(monkeypatch, "go")
    assert cli.main(["chat", "--tools", str(path)]) == 130
    assert SQLiteStore().list() == ()
    stopping.clear()
    play([{"text": "one"}], [call])
    typed(monkeypatch, "go")
    assert cli.main(["chat"]) == 0
    (kept,) = SQLiteStore().list()
    stopping.set()
    typed(monkeypatch, "more")
    assert cli.main(["chat", "--tools", str(path)]) == 130
    assert SQLiteStore().load(kept.id).status == "completed"
    assert len(SQLiteStore().load(kept.id).messages) == 2


def test_a_terminal_chat_survives_failures(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    play([{"error": "invalid_request"}], [{"text": "now"}])
    at_a_terminal(monkeypatch, ["hi", "/bogus", "/retry"])
    assert cli.main(["chat"]) == 0
    assert shown(sys.stdout) == "now\n"
    assert "a new conversation" in shown(sys.stderr)
    assert "no command /bogus" in shown(sys.stderr)


def test_sessions(play: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sessions"]) == 0
    assert capsys.readouterr().out == ""
    play([{"text": "one"}])
    typed(monkeypatch, "hi")
    assert cli.main(["chat"]) == 0
    capsys.readouterr()
    id = SQLiteStore().list()[0].id
    assert cli.main(["sessions", "list"]) == 0
    assert capsys.readouterr().out.startswith(id)
    assert cli.main(["sessions", "show", id[:5]]) == 0
    assert capsys.readouterr().out == "user: hi\nassistant: one\n"
    assert cli.main(["sessions", "export", "last"]) == 0
    assert allm.from_json(capsys.readouterr().out) == SQLiteStore().load(id)
    assert cli.main(["sessions", "delete", id]) == 0
    assert SQLiteStore().list() == ()


# -- As a process ------------------------------------------------------------------------------------


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "allm.ext.cli", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    folder = str(Path(allm.__file__).parents[1])
    return subprocess.Popen(
        command, text=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": folder}, **(pipes | options)
    )


@pytest.mark.parametrize("module", ["allm", "allm.ext.cli"])
def test_as_a_module(module: str) -> None:
    command = [sys.executable, "-m", module, "--version"]
    folder = str(Path(allm.__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": folder})
    assert (done.returncode, done.stdout, done.stderr) == (0, f"allm {allm.__version__}\n", "")


@real
def test_the_local_model_answers_without_a_key() -> None:
    process = start("ask", "Answer briefly.", "--max-tokens", "12")
    out, err = process.communicate("What is the capital of France?", timeout=120)
    assert process.returncode == 0
    assert out.strip()
    assert out.endswith("\n")
    assert err.startswith("allm: no key set; the local model")


@real
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a single process there")
def test_ctrl_c_ends_a_real_answer_quietly() -> None:
    process = start("ask", "Tell me a long story.", "--max-tokens", "3000")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdin = None
    assert process.stdout.read(1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.endswith("\n")
    assert "Traceback" not in err
    assert time.monotonic() - began < 10


@real
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE there")
def test_a_reader_who_leaves_is_no_error() -> None:
    process = start("ask", "Tell me a long story.", "--max-tokens", "3000")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.close()
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read().count("\n") == 1
    process.stderr.close()
