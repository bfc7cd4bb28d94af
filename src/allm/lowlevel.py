"""For those who write their own driver: effects, plans, the loops and the two sets of ports."""

from __future__ import annotations

from allm.data.events import Event
from allm.folds import RunFold
from allm.loops.chat import chat_run, generate_run, step_run
from allm.loops.effects import (
    Batch,
    CallHook,
    CloseBody,
    Draw,
    Effect,
    Elapsed,
    Loop,
    NewId,
    NextEvents,
    NextTool,
    OpenEvents,
    OpenHttp,
    ReadBody,
    Sleep,
    StartTool,
    ToolDone,
    ask,
)
from allm.loops.plan import Plan, make_plan

__all__ = [
    "Batch",
    "CallHook",
    "CloseBody",
    "Draw",
    "Effect",
    "Elapsed",
    "Event",
    "Loop",
    "NewId",
    "NextEvents",
    "NextTool",
    "OpenEvents",
    "OpenHttp",
    "Plan",
    "ReadBody",
    "RunFold",
    "Sleep",
    "StartTool",
    "ToolDone",
    "ask",
    "chat_run",
    "generate_run",
    "make_plan",
    "step_run",
]
