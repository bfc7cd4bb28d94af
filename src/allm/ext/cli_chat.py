"""The commands `allm chat` and `allm sessions`: conversations that are saved and resumed.

Exit status, colour, pipes and Ctrl-C are those of `allm.ext.cli`, which runs them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

import allm
from allm.ext import cli
from allm.ext.screen import Screen, is_terminal
from allm.ext.store import SQLiteStore
from allm.ports import SessionEntry

_COMMANDS: Final = """\
/model [NAME]  show the model, or go on with another one
/new           begin a new conversation
/history       show this conversation
/retry         send again what failed
/help          this list
/exit          leave (also Ctrl-D)
A tool that waits for you runs after y; with anything else it does not, and the model is told why.
"""


def register(commands: Any) -> None:
    """Add the commands to the parser of `allm`."""
    _chat_arguments(commands.add_parser("chat", help="a conversation that is saved and resumed"))
    _sessions_arguments(commands.add_parser("sessions", help="list, show, export, delete conversations"))


def _chat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Go on with the last conversation, or another one. Each turn is saved."
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--new", action="store_true", help="begin a new conversation")
    which.add_argument("--session", metavar="ID", help="go on with this one (see `allm sessions`)")
    cli._model_arguments(parser)
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
        self.interactive = is_terminal(sys.stdin)
        model = arguments.model or self.session.metadata.get("model")
        self._use(model, arguments, chosen=bool(arguments.model))
        self.provider = self.engine.ref.provider

    def _first_session(self) -> tuple[allm.Session, allm.Session | None]:
        """The session to go on with, and what is stored of it."""
        if self.arguments.new:
            return _new_session(), None
        entries = self.store.list()
        if self.arguments.session is None and not entries:
            return _new_session(), None
        session = _find(self.store, self.arguments.session or "last")
        return session, session

    def _use(self, model: str | None, arguments: argparse.Namespace, *, chosen: bool) -> None:
        """Go on with `model`; the session remembers one that was chosen for it."""
        engine = cli._engine(model, arguments, self.screen, tools=self.tools)
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
                if not self._take(line):
                    return 0
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self.screen.break_line()
                self._waiting()
            except (allm.AllmError, OSError) as error:
                if not self.interactive:
                    raise
                self._failed(error)
        return self._end_of_input()

    def _failed(self, error: allm.AllmError | OSError) -> None:
        self.screen.error(cli.describe(error) if isinstance(error, allm.AllmError) else str(error))
        if isinstance(error, allm.SessionError) and error.info.code == "revision_conflict":
            self._reload()

    def _end_of_input(self) -> int:
        """The exit status: a pipe that ends before a tool is answered leaves its turn unfinished."""
        if self.interactive or self.session.status != "awaiting_tools":
            return 0
        self.screen.error(f"the input ended before {self.session.pending_tool_calls[0].name} was answered")
        return 1

    def _greet(self) -> None:
        count = len(self.session.messages)
        state = f"going on with {self.session.id} ({count} messages)" if count else "a new conversation"
        self.screen.note(f"{state}, {self.engine.ref}; /help lists the commands")
        self._waiting()

    def _prompt(self) -> str:
        if self.session.status != "awaiting_tools":
            return "> "
        call = self.session.pending_tool_calls[0]
        return f"run {call.name}? [y/N/why not]> " if self._undecided(call) else f"result of {call.name}> "

    def _undecided(self, call: allm.ToolCall) -> bool:
        """Whether the pending call waits for a decision, not for its result."""
        approvals = self.session.metadata.get("approvals", {})
        return bool(approvals.get(call.id) == allm.approval_digest(call))

    def _take(self, line: str) -> bool:
        """A command, or something said; False ends the conversation."""
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
        elif word == "/retry" and not self.session.messages:
            raise allm.ConfigurationError("there is nothing to send again: the conversation is empty")
        elif word == "/retry":
            self._turn(allm.sessions.stream_resume)
        elif word == "/model" and rest:
            self._use(rest, self._arguments_for(rest), chosen=True)
            self.screen.note(f"from now on {self.engine.ref}")
        elif word == "/model":
            self.screen.line(str(self.engine.ref))
        else:
            raise allm.ConfigurationError(f"no command {word}; /help lists them")

    def _arguments_for(self, model: str) -> argparse.Namespace:
        """The arguments; --base-url is for the provider that the chat began with."""
        if cli._ref(model).provider == self.provider:
            return self.arguments
        return argparse.Namespace(**{**vars(self.arguments), "base_url": None})

    def _say(self, line: str) -> None:
        """A message, or what the first pending call waits for: its result, or whether it may run."""
        cli._check_text(line)
        waits = self.session.status == "awaiting_tools"
        call = self.session.pending_tool_calls[0] if waits else None
        if call is not None and self._undecided(call):
            decision = self._decision(call, line.strip())
            self._answered(allm.sessions.submit(self.engine, self.session, decisions=[decision]))
        elif not line.strip():
            return
        elif call is not None:
            self._answered(self.session.submit_tool_result(call.id, line))
        else:
            self._turn(allm.sessions.stream_reply, line)

    def _decision(self, call: allm.ToolCall, said: str) -> allm.Decision:
        if said.lower() not in ("y", "yes"):
            return allm.deny(call, "" if said.lower() in ("n", "no") else said)
        if call.name not in {tool.name for tool in self.engine.tools}:
            raise allm.ConfigurationError(f"{call.name} is not here: begin with `allm chat --tools FILE.py`")
        return allm.approve(call)

    def _answered(self, session: allm.Session) -> None:
        """A pending call was answered: the next one is, or the turn goes on."""
        self._keep(session)
        if session.pending_tool_calls:
            self._waiting()
        else:
            self._turn(allm.sessions.stream_resume)

    def _turn(self, verb: Callable[..., Any], message: str | None = None) -> None:
        """Show a turn and keep what became of the session, also where it failed.

        Before a tool runs and when it has answered, how far the turn has come is stored, so that after a
        crash it goes on there. A turn that the user stopped leaves nothing, unless it went on with an
        earlier one. Where somebody else has saved meanwhile nothing is asked.
        """
        if self.stored is not None:
            self.store.save(self.stored, self.stored.revision)  # changes nothing, or raises
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
            if message is None:
                self._keep(fold.session)
            elif stored is not None:
                self._store(before)
            elif self.stored is not None:
                self.store.delete(before.id or "")
                self.stored = None
            raise
        self._keep(turn.session)
        response = turn.result.final_response
        if response is not None:
            cli._finish(response, self.screen)
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

    def _reload(self) -> None:
        """Go on with what somebody else has saved; what they have deleted is saved anew."""
        try:
            self.session = self.stored = self.store.load(self.session.id or "")
        except allm.SessionError:
            self.stored = None
            self.screen.note("your next line saves the conversation anew")
            return
        self.screen.note("loaded as it is now, /history shows it: send your line again if it still fits")
        self._waiting()

    def _waiting(self, result: Any = None) -> None:
        """Say what the session waits for, if it does, or why it stopped early."""
        if self.session.status == "awaiting_user" and self.session.pending_question:
            self.screen.end_line()
            self.screen.line(self.session.pending_question)
            for choice in self.session.metadata.get("ask_user_options", {}).get("choices", ()):
                self.screen.line(f"- {choice}")
        elif self.session.status == "awaiting_tools":
            call = self.session.pending_tool_calls[0]
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            what = "it runs after y" if self._undecided(call) else "type its result"
            self.screen.note(f"the model asks for {call.name} {arguments}: {what}")
        elif self.session.progress is not None:
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
