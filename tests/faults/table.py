"""Make docs/faults.md from what the fault tests saw:

ROLLSESSION_FAULT_REPORT=faults.jsonl python -m pytest tests/faults tests/revocation -m ""
python -m tests.faults.table faults.jsonl docs/faults.md

The sections of stores that the file says nothing about stay as they are.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

INTRODUCTION = """\
# What was broken, and what happened

Made by `python -m tests.faults.table` from the results of the fault tests; do not edit. Run with {server};
where that does not start with libfaketime, with the server in brackets.

The tests of Redis break real servers under a load of logins, reads, writes and logouts that goes through the middleware
(`outage="closed"`, a roll on every response, four workers, two of which follow). A model outside the servers knows
which logouts were confirmed. From then on, no request that begins may be accepted with any copy of the session's
cookies; at the end, all copies are shown to every worker, and to a new one that knows only what the servers know.
Sessions that were "refused at the end" had to log in again: the price of a loss that was noticed.
"""


def main(source: Path, target: Path) -> None:
    lines = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    latest = {(line["store"], line["fault"]): line for line in lines}
    before, *kept = target.read_text(encoding="utf-8").split("\n## ") if target.exists() else [""]
    sections = {section.partition("\n")[0]: section for section in kept}
    usual, *others = [
        name for name, _ in Counter(line["server"] for line in lines if "server" in line).most_common()
    ] or [None]
    parts = [before if usual is None else INTRODUCTION.format(server=usual)]
    for store in sorted(sections | {line["store"]: "" for line in latest.values()}):
        if store not in {line["store"] for line in latest.values()}:
            parts.append(f"\n## {sections[store].rstrip()}\n")
            continue
        parts.append(f"\n## {store}\n\n| fault | promise | observed |\n|---|---|---|\n")
        rows = [line for line in latest.values() if line["store"] == store]
        for row in sorted(rows, key=lambda row: row["fault"]):
            cells = (str(row[name]).replace("|", "\\|") for name in ("fault", "promise", "observed"))
            with_server = f" ({row['server']})" if row.get("server") in others else ""
            parts.append(f"| {next(cells)}{with_server} | " + " | ".join(cells) + " |\n")
    target.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
