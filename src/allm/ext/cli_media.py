"""The commands `allm image` and `allm embed`: pictures into files, texts into vectors.

Exit status, colour, pipes and Ctrl-C are those of `allm.ext.cli`, which runs them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import allm
from allm.ext import cli
from allm.ext.inline_images import inline_image
from allm.ext.screen import Screen, is_terminal

IMAGE_MODELS: Final = {
    "OPENAI_API_KEY": "openai:gpt-image-2",
    "GOOGLE_API_KEY": "gemini:gemini-3.1-flash-image",
    "GEMINI_API_KEY": "gemini:gemini-3.1-flash-image",
}
EMBED_MODELS: Final = {
    "OPENAI_API_KEY": "openai:text-embedding-3-small",
    "GOOGLE_API_KEY": "gemini:gemini-embedding-001",
    "GEMINI_API_KEY": "gemini:gemini-embedding-001",
    "VOYAGE_API_KEY": "voyage:voyage-4",
}
"""The model that is asked where none is named: that of the first key that is set."""

_SUFFIXES: Final = {
    "image/png": (".png",),
    "image/jpeg": (".jpg", ".jpeg"),
    "image/webp": (".webp",),
    "image/gif": (".gif",),
}
_FORMATS: Final = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def register(commands: Any) -> None:
    """Add the commands to the parser of `allm`."""
    _image_arguments(commands.add_parser("image", help="make a picture, or change one, and save it"))
    _embed_arguments(commands.add_parser("embed", help="vectors for texts, as JSON lines"))


def _engine(slot: str, model: str, arguments: argparse.Namespace) -> allm.Engine:
    fields: dict[str, Any] = {slot: model, **cli.address(cli._ref(model), arguments.base_url)}
    return allm.Engine(**fields)


def _model_of_a_key(models: Mapping[str, str]) -> str | None:
    return next((model for variable, model in models.items() if os.environ.get(variable)), None)


def _chooses(models: Mapping[str, str]) -> str:
    """What the help says of the model where none is named."""
    chosen = ", ".join([f"{model} for {variable}" for variable, model in models.items()])
    return f"Without --model the first key that is set chooses it: {chosen}."


def _check_target(path: Path, force: bool) -> None:
    """Before anything is paid for: may the result be written there?"""
    if not path.parent.is_dir():
        raise allm.ConfigurationError(f"there is no directory {path.parent}")
    if path.exists() and not force:
        raise allm.ConfigurationError(f"{path} is there already: --force overwrites it, -o names another")


def _followed(stream: Any, screen: Screen, unit: str, show: Callable[[Any], None]) -> Any:
    """The result of a stream. `show` gets its events; the terminal tells how far it is."""
    with stream as events:
        for event in events:
            show(event)
            match event:
                case allm.MediaProgress(done, total) if total is not None and total > 1:
                    screen.status(f"{done} of {total} {unit}")
                case allm.Retrying(delay=delay, error=error):
                    screen.note(f"{error.reason}; trying again in {delay:.1f} s")
        return events.result()


# -- image -------------------------------------------------------------------------------------------


def _image_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make a picture, or change one with --edit. Piped input is added to the prompt."
    parser.epilog = _chooses(IMAGE_MODELS)
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="what is to be seen; words are joined")
    parser.add_argument("-m", "--model", metavar="NAME", help="such as openai:gpt-image-2")
    cli.address_argument(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="where it goes (default: image.png)")
    parser.add_argument("--force", action="store_true", help="overwrite files")
    parser.add_argument("-n", type=cli._positive, default=1, metavar="N", help="so many: FILE-1, FILE-2 ...")
    parser.add_argument("--size", metavar="WxH", help="such as 1536x1024, or what the model calls it")
    parser.add_argument("--quality", metavar="WORD", help="low, medium, high")
    parser.add_argument("--edit", action="append", default=[], metavar="FILE", help="change this picture")
    parser.add_argument("--mask", metavar="FILE", help="PNG, transparent where the picture may change")
    parser.add_argument("--json", action="store_true", help="print the events, one JSON document a line")
    parser.set_defaults(run=_image)


def _image(arguments: argparse.Namespace, screen: Screen) -> int:
    output = Path(arguments.output or "image.png").expanduser()
    for path in numbered(output, arguments.n):
        _check_target(path, arguments.force)
    prompt, model = _prompt(arguments.prompt), _image_model(arguments.model)
    options = _image_options(arguments, output, model)
    stream = _image_stream(_engine("image_adapter", model, arguments), prompt, arguments, options)
    screen.status(f"{model} is at work")
    show = (lambda event: screen.line(allm.to_json(event))) if arguments.json else _nothing
    response: allm.ImageResponse = _followed(stream, screen, "images", show)
    for text in filter(None, (*response.warnings, response.text)):
        screen.note(text)
    if not response.images:
        screen.error(f"{model} gave no image")
        return 1
    for path, image in zip(numbered(output, len(response.images)), response.images, strict=True):
        _keep(image, path, arguments, screen)
    return 0


def _nothing(event: Any) -> None: ...


def _prompt(words: Iterable[str]) -> str:
    texts = [" ".join(word for word in words if word != "-"), cli._piped()]
    prompt = "\n\n".join(text for text in texts if text.strip())
    if not prompt:
        raise allm.ConfigurationError('nothing to draw: allm image "a kestrel", or pipe it in')
    cli._check_text(prompt)
    return prompt


def _image_model(named: str | None) -> str:
    model = named or _model_of_a_key(IMAGE_MODELS)
    if model is None:
        raise allm.ConfigurationError("no key for images: set OPENAI_API_KEY or GEMINI_API_KEY")
    cli._ref(model)
    return model


def _image_options(arguments: argparse.Namespace, output: Path, model: str) -> dict[str, Any]:
    options: dict[str, Any] = {"n": arguments.n, "size": arguments.size, "quality": arguments.quality}
    kind = _FORMATS.get(output.suffix.lower())
    if kind is not None and model.startswith("openai:"):  # others choose the format themselves
        options["options"] = {"output_format": kind}
    return options


def _image_stream(
    engine: allm.Engine, prompt: str, arguments: argparse.Namespace, options: dict[str, Any]
) -> Any:
    """The run that was asked for; what cannot be sent raises here."""
    try:
        if arguments.edit:
            mask = _picture(arguments.mask) if arguments.mask else None
            images = [_picture(name) for name in arguments.edit]
            return allm.stream_edit_image(engine, images, prompt, mask, **options)
        if arguments.mask:
            raise allm.ConfigurationError("--mask goes with the picture that it is for: --edit FILE")
        return allm.stream_generate_image(engine, prompt, **options)
    except allm.MissingKeyError as error:  # there is no local model to fall back on
        raise allm.ConfigurationError(error.info.message.partition(";")[0]) from None


def _picture(name: str) -> allm.Image:
    return cli._image(name).image


def numbered(path: Path, count: int) -> list[Path]:
    """The names of so many pictures: `a.png`, or `a-1.png`, `a-2.png` ..."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count + 1)]


def _keep(image: allm.Image, path: Path, arguments: argparse.Namespace, screen: Screen) -> None:
    """Save a picture, show it where the terminal can, and say where it is."""
    if image.data is None:
        screen.line(image.url or "")
        return
    suffixes = _SUFFIXES.get(image.mime_type or "", (path.suffix,))
    if path.suffix.lower() not in suffixes:
        if arguments.output is None:
            path = path.with_suffix(suffixes[0])
        else:
            screen.note(f"{path.name} holds {image.mime_type}, whatever its name says")
    if not arguments.force:
        path = _free(path)
    image.save(path)
    size = f" {image.width}x{image.height}" if image.width else ""
    line = f"{path}{size} {_amount(len(image.data))}"
    if arguments.json:
        screen.note(line)
        return
    columns = shutil.get_terminal_size().columns
    if is_terminal(sys.stdout) and (shown := inline_image(image, os.environ, columns)):
        screen.end_bar()
        sys.stdout.write(f"{shown}\n")
    screen.line(line)


def _free(path: Path) -> Path:
    """`path`, or where something has come there in the meantime, a name beside it."""
    number, found = 0, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def _amount(size: int) -> str:
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


# -- embed -------------------------------------------------------------------------------------------


def _embed_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'Print a line {"index": 0, "vector": [...]} for each text. Texts are arguments, or the lines of'
        " --file, or those of stdin; `index` counts them from 0, blank lines are counted and left out."
    )
    parser.epilog = f"{_chooses(EMBED_MODELS)} Without a key the local model does it."
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    parser.add_argument("--file", metavar="FILE", help="one text a line")
    parser.add_argument("-m", "--model", metavar="NAME", help="openai:MODEL, local, or local:FILE.gguf")
    cli.address_argument(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="where the lines go (default: stdout)")
    parser.add_argument("--force", action="store_true", help="overwrite the file")
    parser.add_argument("--dimensions", type=cli._positive, metavar="N", help="numbers in a vector")
    parser.add_argument("--task", metavar="WORD", help="such as search_document, search_query, clustering")
    parser.add_argument(
        "--concurrency", type=cli._positive, default=1, metavar="N", help="requests at a time (default: 1)"
    )
    parser.set_defaults(run=_embed)


def _embed(arguments: argparse.Namespace, screen: Screen) -> int:
    output = Path(arguments.output).expanduser() if arguments.output else None
    if output is not None:
        _check_target(output, arguments.force)
    texts = _texts(arguments)
    stream = allm.stream_embed(
        _engine("embed_adapter", _embed_model(arguments.model, screen), arguments),
        texts.values(),
        dimensions=arguments.dimensions,
        task_type=arguments.task,
        concurrency=arguments.concurrency,
    )
    try:
        response = _followed(stream, screen, "requests", _nothing)
    except allm.AllmError as error:
        came = error.partial
        # Of requests side by side it is not known which of them came.
        if isinstance(came, allm.EmbeddingResponse) and len(came) and arguments.concurrency == 1:
            _write(came, texts, output, screen)
            screen.note(f"the vectors of the first {len(came)} of {len(texts)} texts came")
        raise
    for text in response.warnings:
        screen.note(text)
    _write(response, texts, output, screen)
    return 0


def _texts(arguments: argparse.Namespace) -> dict[int, str]:
    """The texts by their index."""
    if arguments.texts and arguments.file:
        raise allm.ConfigurationError("texts are arguments or the lines of --file, not both")
    lines = arguments.texts
    if arguments.file:
        try:
            lines = cli._read(arguments.file).decode().split("\n")
        except UnicodeDecodeError:
            raise allm.ConfigurationError(f"{arguments.file} is not text") from None
    elif not lines:
        lines = cli._piped().split("\n")
    texts = {index: line.removesuffix("\r") for index, line in enumerate(lines) if line.strip()}
    if not texts:
        raise allm.ConfigurationError('nothing to embed: allm embed "your text", or pipe in lines')
    cli._check_text("".join(texts.values()))
    return texts


def _embed_model(named: str | None, screen: Screen) -> str:
    """The model that was named, or that of a key, or the local one, made ready."""
    chosen = named or _model_of_a_key(EMBED_MODELS)
    ref = cli._ref(chosen or "local")
    if ref.provider == "local":
        cli._ready_local(ref.id, screen)
    if chosen is None:
        name = cli._local_name()
        screen.note(f"no key set; the local model {name} makes the vectors (rough, on this machine)")
    return chosen or "local"


def _write(
    response: allm.EmbeddingResponse, texts: Iterable[int], output: Path | None, screen: Screen
) -> None:
    """A line for each vector that came."""
    lines = (_line(index, response[at]) for at, index in zip(range(len(response)), texts, strict=False))
    if output is None:
        for line in lines:
            screen.write(line)
        return
    with output.open("w") as file:
        file.writelines(lines)
    screen.note(f"{output} {len(response)} x {response.dimensions}")


def _line(index: int, vector: Iterable[float]) -> str:
    """JSON; nine digits are all that a number of four bytes has."""
    numbers = ",".join([f"{number:.9g}" for number in vector])
    return f'{{"index":{index},"vector":[{numbers}]}}\n'
