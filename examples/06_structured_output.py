"""An answer as a value of your own type, checked against it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from _common import chat_engine

import allm


@dataclass
class Report:
    status: str


SCRIPT = [[{"text": ['{"status":', ' "OK"}']}]]


def main() -> None:
    with chat_engine(SCRIPT) as engine:
        result = allm.chat(engine, "All is well: report the status OK.", response_format=Report)
    report = result.parse(Report)
    print(report)
    assert json.loads(result.text) == {"status": report.status}
    assert "OK" in report.status
    # A model that cannot have tools and a schema at once is asked in two passes. Here there is one.
    assert result.metadata.get("structured_finalize", {}).get("pass_1_halted") in (None, "completed")


if __name__ == "__main__":
    main()
