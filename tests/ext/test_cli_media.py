"""`allm image` and `allm embed`, in process with fakes of the adapters, and as a process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import allm
from allm.data.media import packed
from allm.ext import cli, cli_media, weights
from allm.ext.inline_images import inline_image
from allm.ports import CallContext
from tests.ext.test_cli import Terminal, real, refuses, shown, start, typed

PNG = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
JPEG = b"\xff\xd8\xff\xe0" + bytes(16)


class Painter:
    """An image adapter that gives these images; it may fail instead."""

    name = "painter"

    def __init__(self, *images: bytes, **fields: Any) -> None:
        self.images = [allm.Image.from_bytes(data) for data in images or (PNG,)]
        self.fields = fields
        self.requests: list[allm.ImageRequest] = []

    def complete(self, request: allm.ImageRequest, ctx: CallContext) -> allm.ImageResponse:
        self.requests.append(request)
        return allm.ImageResponse(**{"images": self.images[: request.n], **self.fields})


class Embedder:
    """An embedding adapter: the vector of a text is its length and a third; `failing` texts fail."""

    name = "embedder"
    max_batch = 2

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.requests: list[allm.EmbeddingRequest] = []

    def complete(self, request: allm.EmbeddingRequest, ctx: CallContext) -> allm.EmbeddingResponse:
        self.requests.append(request)
        if self.failing in request.input:
            raise allm.InvalidRequestError("no")
        data = packed([(len(text), 1 / 3) for text in request.input])
        return allm.EmbeddingResponse(data=data, dimensions=2, warnings=("rough",))


Play = Callable[..., None]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*cli_media.EMBED_MODELS, *cli_media.IMAGE_MODELS):
        monkeypatch.delenv(name, raising=False)
    for name in ("ALLM_DEBUG", "KITTY_WINDOW_ID", "TERM_PROGRAM", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Let this adapter answer whatever model is named."""

    def use(adapter: Any) -> None:
        def engine(slot: str, model: str, _: Any) -> allm.Engine:
            fields: dict[str, Any] = {slot: adapter, "retry": False}
            return allm.Engine(**fields)

        monkeypatch.setattr(cli_media, "_engine", engine)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-not-used")

    return use


def run(*arguments: str) -> int:
    return cli.main(arguments)


# -- image -------------------------------------------------------------------------------------------


def test_a_picture_is_saved_and_named(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    painter = Painter()
    play(painter)
    asked = ("image", "a", "kestrel", "-o", "kestrel.png", "--size", "64x64", "--quality", "low")
    assert run(*asked) == 0
    assert Path("kestrel.png").read_bytes() == PNG
    assert capsys.readouterr() == (f"kestrel.png 1x1 {len(PNG)} bytes\n", "")
    (request,) = painter.requests
    assert (request.operation, request.prompt, request.n) == ("generate", "a kestrel", 1)
    assert (request.size, request.quality) == ("64x64", "low")


def test_the_prompt_is_joined_by_what_is_piped(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    painter = Painter()
    play(painter)
    typed(monkeypatch, "a kestrel\n")
    assert run("image", "-") == 0
    typed(monkeypatch, "in the rain\n")
    assert run("image", "a kestrel", "-o", "b.png") == 0
    assert [request.prompt for request in painter.requests] == ["a kestrel", "a kestrel\n\nin the rain"]
    assert Path("image.png").exists()


def test_several_pictures_are_numbered(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play(Painter(PNG, PNG))
    assert run("image", "x", "-n", "2", "-o", "a.png") == 0
    names = [line.partition(" ")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["a-1.png", "a-2.png"]
    assert all(Path(name).read_bytes() == PNG for name in names)


def test_nothing_is_overwritten_without_force(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    painter = Painter()
    play(painter)
    for name in ("image.png", "a-2.png"):
        Path(name).write_text("mine")
    assert run("image", "x") == 2
    assert "image.png is there already: --force overwrites it" in capsys.readouterr().err
    assert run("image", "x", "-n", "2", "-o", "a.png") == 2
    assert painter.requests == []
    assert run("image", "x", "--force") == 0
    assert Path("image.png").read_bytes() == PNG


def test_a_file_that_came_in_the_meantime_is_kept(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    class Slow(Painter):
        def complete(self, request: allm.ImageRequest, ctx: CallContext) -> allm.ImageResponse:
            Path("image.png").write_text("mine")
            return super().complete(request, ctx)

    play(Slow())
    assert run("image", "x") == 0
    assert Path("image.png").read_text() == "mine"
    assert capsys.readouterr().out.startswith("image-1.png ")


def test_the_name_follows_the_type_unless_it_was_given(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    play(Painter(JPEG))
    assert run("image", "x") == 0
    assert capsys.readouterr() == ("image.jpg 20 bytes\n", "")
    assert run("image", "x", "-o", "a.png") == 0
    assert capsys.readouterr().err == "allm: a.png holds image/jpeg, whatever its name says\n"
    assert run("image", "x", "-o", "b.JPEG") == 0
    assert capsys.readouterr() == ("b.JPEG 20 bytes\n", "")


@pytest.mark.parametrize(
    ("model", "name", "options"),
    [
        ("openai:m", "a.webp", {"output_format": "webp"}),
        ("openai:m", "a.JPG", {"output_format": "jpeg"}),
        ("openai:m", "a.png", {}),
        ("gemini:m", "a.webp", {}),
    ],
)
def test_openai_is_asked_for_the_type_of_the_name(
    play: Play, model: str, name: str, options: dict[str, Any]
) -> None:
    painter = Painter()
    play(painter)
    assert run("image", "x", "-m", model, "-o", name) == 0
    assert painter.requests[0].options == options


def test_edit_and_mask(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    painter = Painter()
    play(painter)
    for name in ("a.png", "b.png", "mask.png"):
        Path(name).write_bytes(PNG)
    assert run("image", "one of both", "--edit", "a.png", "--edit", "b.png", "--mask", "mask.png") == 0
    (request,) = painter.requests
    assert (request.operation, request.prompt) == ("edit", "one of both")
    assert [image.data for image in request.input_images] == [PNG, PNG]
    assert request.mask is not None
    assert request.mask.data == PNG


def test_a_link_is_printed_and_not_fetched(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play(Painter(images=(allm.Image.from_url("https://example.com/a.png"),)))
    assert run("image", "x") == 0
    assert capsys.readouterr() == ("https://example.com/a.png\n", "")


def test_image_events_as_json(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play(Painter())
    assert run("image", "x", "--json") == 0
    out, err = capsys.readouterr()
    events = [allm.from_json(line) for line in out.splitlines()]
    assert isinstance(events[-1], allm.MediaCompleted)
    response = events[-1].result
    assert isinstance(response, allm.ImageResponse)
    assert response.image.data == PNG
    assert err == f"allm: image.png 1x1 {len(PNG)} bytes\n"


def test_warnings_and_words_are_notes(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play(Painter(text="Here it is.", warnings=("style is not sent",)))
    assert run("image", "x") == 0
    assert capsys.readouterr().err == "allm: style is not sent\nallm: Here it is.\n"


def test_an_answer_without_an_image_is_a_failure(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play(Painter(images=(), text="I would rather not."))
    assert run("image", "x") == 1
    assert capsys.readouterr().err == "allm: I would rather not.\nallm: openai:gpt-image-2 gave no image\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["image"], "nothing to draw"),
        (["image", "x"], "no key for images: set OPENAI_API_KEY or GEMINI_API_KEY"),
        (["image", "x", "-m", "openai:gpt-image-2"], "no API key for openai: set OPENAI_API_KEY"),
        (["image", "x", "-m", "gpt-image-2"], "write openai:gpt-image-2"),
        (["image", "x", "-m", "anthropic:m"], "no provider 'anthropic' for images"),
        (["image", "x", "-m", "fake", "--mask", "a.png"], "--edit FILE"),
        (["image", "x", "-m", "fake", "--edit", "a.png"], "a.png cannot be read"),
        (["image", "x", "-m", "fake", "--edit", "a.txt"], "a.txt is no image by its name\n"),
        (["image", "x", "-m", "fake", "-o", "nowhere/a.png"], "there is no directory nowhere"),
        (["image", "x", "-n", "0"], "positive number"),
        (["embed"], "nothing to embed"),
        (["embed", "x", "--file", "a.txt"], "not both"),
        (["embed", "--file", "a.txt"], "a.txt cannot be read"),
        (["embed", "x", "-m", "openai:m"], "set OPENAI_API_KEY, or use --model local"),
        (["embed", "x", "-m", "m"], "write openai:m, local"),
        (["embed", "x", "-m", "fake", "--task", "poetry"], "search_query"),
        (["embed", "x", "-m", "fake", "-o", "."], ". is there already"),
        (["embed", "\udcff", "-m", "fake"], "not text"),
    ],
)
def test_mistakes_of_use(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    refuses(arguments, said, capsys)


def test_the_first_key_chooses_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []

    def engine(slot: str, model: str, _: Any) -> allm.Engine:
        chosen.append(model)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_media, "_engine", engine)
    for command, models in (("image", cli_media.IMAGE_MODELS), ("embed", cli_media.EMBED_MODELS)):
        for variable in reversed(models):
            monkeypatch.setenv(variable, "k")
            assert run(command, "x") == 130
        assert chosen == list(reversed(models.values()))
        chosen.clear()
        for variable in models:
            monkeypatch.delenv(variable)


# -- Pictures in a terminal ------------------------------------------------------------------------------

TERMINALS = {
    "kitty": ({"TERM": "xterm-kitty"}, "\x1b_Ga=T,f=100,q=2,c=60,m=0;iVBOR"),
    "kitty window": ({"KITTY_WINDOW_ID": "1"}, "\x1b_Ga=T"),
    "iterm": ({"TERM_PROGRAM": "iTerm.app"}, f"\x1b]1337;File=inline=1;size={len(PNG)};width=60:iVBOR"),
    "wezterm": ({"TERM_PROGRAM": "WezTerm"}, "\x1b]1337;"),
}
PLAIN = {
    "plain": {"TERM": "xterm-256color"},
    "apple": {"TERM_PROGRAM": "Apple_Terminal"},
    "tmux": {"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1", "TERM_PROGRAM": "iTerm.app"},
    "screen": {"TERM": "screen", "KITTY_WINDOW_ID": "1"},
    "inside": {"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"},
}


@pytest.mark.parametrize("name", TERMINALS)
def test_terminals_that_show_pictures(name: str) -> None:
    environment, begins = TERMINALS[name]
    assert inline_image(allm.Image.from_bytes(PNG), environment, 200).startswith(begins)


@pytest.mark.parametrize("name", PLAIN)
def test_terminals_that_do_not(name: str) -> None:
    assert inline_image(allm.Image.from_bytes(PNG), PLAIN[name], 80) == ""


def test_kitty_takes_png_only_and_in_pieces() -> None:
    environment = {"TERM": "xterm-kitty"}
    assert inline_image(allm.Image.from_bytes(JPEG), environment, 80) == ""
    assert inline_image(allm.Image.from_url("https://example.com/a.png"), environment, 80) == ""
    data = PNG + bytes(6000)
    pieces = inline_image(allm.Image.from_bytes(data), environment, 80).split("\x1b\\")
    assert [piece.partition(";")[0] for piece in pieces[:-1]] == [
        "\x1b_Ga=T,f=100,q=2,c=60,m=1",
        "\x1b_Gm=0",
    ]
    assert b64decode("".join([piece.partition(";")[2] for piece in pieces])) == data


@pytest.mark.parametrize(("json", "pictured"), [(False, True), (True, False)])
def test_a_picture_is_shown_above_its_name(
    play: Play, monkeypatch: pytest.MonkeyPatch, json: bool, pictured: bool
) -> None:
    play(Painter())
    monkeypatch.setenv("TERM_PROGRAM", "iTerm.app")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Terminal())
    assert run("image", "x", *(["--json"] if json else [])) == 0
    assert shown(sys.stdout).startswith("\x1b]1337;") is pictured
    if pictured:
        assert shown(sys.stdout).endswith(f"\x07\nimage.png 1x1 {len(PNG)} bytes\n")
        assert shown(sys.stderr).startswith("\rallm: openai:gpt-image-2 is at work")
        assert shown(sys.stderr).endswith(" \n")


def command(engine: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command as a process; its engine has these further arguments, as source."""
    code = f"""
import sys, allm
from allm.ext import cli, cli_media
cli_media._engine = lambda slot, model, _: allm.Engine(**{{slot: model}}, {engine})
sys.exit(cli.main({list(arguments)!r}))
"""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(Path(allm.__file__).parents[1])}
    run = [sys.executable, "-c", code]
    return subprocess.Popen(run, text=True, encoding="utf-8", env=environment, **(pipes | options))


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
@pytest.mark.parametrize("terminal", ["kitty", "plain"])
def test_as_a_process_on_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: str) -> None:
    """Through a real pseudo-terminal: the picture where it can be shown, else the line and nothing else."""
    import pty

    settings = {"kitty": TERMINALS["kitty"][0], "plain": PLAIN["plain"]}[terminal]
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    script = f"adapter_options={{'image_script': [{{'images': ['{b64encode(PNG).decode()}']}}]}}"
    reader, writer = pty.openpty()
    process = command(script, "image", "a kestrel", "-m", "fake", stdout=writer)
    os.close(writer)
    out = b""
    try:
        while data := os.read(reader, 65536):
            out += data
    except OSError:  # Linux, when the other end is closed
        pass
    os.close(reader)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    picture, _, line = out.decode().replace("\r\n", "\n").removesuffix("\n").rpartition("\n")
    assert line == f"image.png 1x1 {len(PNG)} bytes"
    assert picture.startswith("\x1b_Ga=T") if terminal == "kitty" else picture == ""
    assert Path("image.png").read_bytes() == PNG


# -- embed -------------------------------------------------------------------------------------------


def lines_of(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def numbers(*lengths: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"index": index, "vector": [length, 0.333333343]} for index, length in lengths]


def test_texts_of_arguments(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    embedder = Embedder()
    play(embedder)
    assert run("embed", "a b", "c", "--dimensions", "2", "--task", "search_query") == 0
    out, err = capsys.readouterr()
    assert lines_of(out) == numbers((0, 3), (1, 1))
    assert err == "allm: rough\n"
    (request,) = embedder.requests
    assert (request.input, request.dimensions, request.task_type) == (("a b", "c"), 2, "search_query")


def test_the_numbers_are_the_vectors_and_no_longer(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play(Embedder())
    assert run("embed", "abc") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line == '{"index":0,"vector":[3,0.333333343]}'
    assert packed([json.loads(line)["vector"]]) == packed([(3, 1 / 3)])


@pytest.mark.parametrize("source", ["stdin", "file"])
def test_texts_one_a_line(
    play: Play, source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(Embedder())
    Path("texts.txt").write_text("one\n\nthree\nčty\x0cři\r\n", newline="")
    if source == "stdin":
        typed(monkeypatch, Path("texts.txt").read_text())
    assert run("embed", *(["--file", "texts.txt"] if source == "file" else [])) == 0
    assert lines_of(capsys.readouterr().out) == numbers((0, 3), (2, 5), (3, 6))


def test_lines_go_to_a_file(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play(Embedder())
    assert run("embed", "a", "-o", "out.jsonl") == 0
    assert lines_of(Path("out.jsonl").read_text()) == numbers((0, 1))
    assert capsys.readouterr() == ("", "allm: rough\nallm: out.jsonl 1 x 2\n")
    assert run("embed", "ab", "-o", "out.jsonl") == 2
    assert run("embed", "ab", "-o", "out.jsonl", "--force") == 0
    assert lines_of(Path("out.jsonl").read_text()) == numbers((0, 2))


@pytest.mark.parametrize("concurrency", ["1", "2"])
def test_progress_on_a_terminal_only(
    play: Play, concurrency: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(Embedder())
    texts = [str(number) for number in range(6)]
    for stream, steps in ((Terminal(), ["1 of 3", "2 of 3", "3 of 3"]), (io.StringIO(), [])):
        monkeypatch.setattr(sys, "stderr", stream)
        assert run("embed", *texts, "--concurrency", concurrency) == 0
        said = [line for line in shown(stream).replace("\n", "\r").split("\r") if "requests" in line]
        assert [line.strip() for line in said] == [f"allm: {step} requests" for step in steps]
    assert len(capsys.readouterr().out.splitlines()) == 12


def test_what_came_before_a_failure_is_kept(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play(Embedder(failing="d"))
    assert run("embed", "a", "bb", "ccc", "d") == 1
    out, err = capsys.readouterr()
    assert lines_of(out) == numbers((0, 1), (1, 2))
    assert err.splitlines()[0] == "allm: the vectors of the first 2 of 4 texts came"
    assert len(err.splitlines()) == 2
    assert run("embed", "a", "bb", "ccc", "d", "--concurrency", "2") == 1
    assert capsys.readouterr().out == ""


def test_without_a_key_the_local_model_does_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Sequence[str]] = []

    def engine(slot: str, model: str, _: Any) -> allm.Engine:
        seen.append((slot, model))
        return allm.Engine(embed_adapter=Embedder())

    monkeypatch.setattr(cli_media, "_engine", engine)
    monkeypatch.setattr(cli, "_ready_local", lambda model, screen: seen.append(("ready", model)))
    monkeypatch.setattr(weights, "default_path", lambda: None)
    assert run("embed", "a") == 0
    assert seen == [("ready", ""), ("embed_adapter", "local")]
    note = "allm: no key set; the local model SmolLM2-135M makes the vectors (rough, on this machine)\n"
    assert capsys.readouterr().err.startswith(note)
    assert run("embed", "a", "-m", "local:x.gguf") == 0
    assert seen[2:] == [("ready", "x.gguf"), ("embed_adapter", "local:x.gguf")]
    assert "no key" not in capsys.readouterr().err


@real
def test_the_local_model_makes_vectors_without_a_key() -> None:
    process = start("embed")
    out, err = process.communicate("a kestrel\na falcon\n", timeout=120)
    assert process.returncode == 0
    first, second = lines_of(out)
    assert len(first["vector"]) == len(second["vector"]) > 100
    assert err.startswith("allm: no key set; the local model")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a single process there")
def test_ctrl_c_ends_a_waiting_call_quietly() -> None:
    """The server takes the request and says nothing; the command is interrupted as it waits."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        process = command(f"base_url={url!r}", "embed", "x", "-m", "compatible:m")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(65536).startswith(b"POST /v1/embeddings")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
