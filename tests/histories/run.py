"""Carrying out many histories, and telling what was met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing import get_context

from .generate import Generator
from .shrink import failure, listening, shrunk, told

#: Histories that a worker carries out before it reports.
_SHARE = 500


def carry_out(share: tuple[int, int, int]) -> tuple[Counter[str], list[tuple[str, str]]]:
    """Some histories: what was met, and the seeds of those that fail, with how."""
    seed, start, stop = share
    counts: Counter[str] = Counter()
    failures = []
    with listening() as logs:
        for number in range(start, stop):
            name = f"{seed}/{number}"
            found = failure(Generator(name).history(), logs, counts)
            if found is not None:
                failures.append((name, found))
    counts["histories"] = stop - start
    return counts, failures


def explained(name: str, tries: int = 3000) -> str:
    """The history of a seed, made as small as it still fails."""
    history = Generator(name).history()
    with listening() as logs:
        message = failure(history, logs)
        if message is None:
            return f"seed {name}: holds"
        small, last = shrunk(history, message, logs, tries)
    return f"seed {name}: {message}\nin short: {last}\n{told(small)}"


def run(
    count: int, processes: int, seed: int, say: Callable[[int, int], None] | None = None
) -> tuple[Counter[str], list[tuple[str, str]]]:
    """Many histories."""
    shares = [(seed, start, min(start + _SHARE, count)) for start in range(0, count, _SHARE)]
    counts: Counter[str] = Counter()
    failures: list[tuple[str, str]] = []
    with get_context("spawn").Pool(processes) as pool:
        for more, failed in pool.imap_unordered(carry_out, shares):
            counts += more
            failures += failed
            if say is not None:
                say(counts["histories"], len(failures))
    return counts, sorted(failures)


def tabulated(counts: Counter[str], failures: Sequence[tuple[str, str]], seed: int, command: str) -> str:
    """What was met, as a page."""
    met = {name[5:]: number for name, number in counts.items() if name.startswith("met: ")}
    steps = {name[5:]: number for name, number in counts.items() if name.startswith("step ")}
    operations = {name[3:]: number for name, number in counts.items() if name.startswith("op ")}
    acts = {name[4:]: number for name, number in counts.items() if name.startswith("act ")}
    lines = [
        "# Random histories",
        "",
        "<!-- Made by: " + command + " -->",
        "",
        "Each history is what browsers, thieves, processes, clocks, operators and a network do with one site: some",
        "dozens of steps, made up by `tests/histories/generate.py`. Each is carried out with the filter as it is,",
        "over one revocation set, and held against a model that knows no cookies (`tests/histories/model.py`): at",
        "every load, at every response, at its arrival, and by a thief who has kept every cookie that was ever sealed.",
        "",
        f"{counts['histories']:,} histories (seed {seed}), {counts['requests']:,} requests,",
        f"{counts['checks']:,} checks:",
        f"**{len(failures)} broke an invariant**.",
        "",
    ]
    for title, column, table in (
        ("What was met", "situation", met),
        ("Steps", "step", steps),
        ("What applications did", "operation", operations),
        ("What responses, and `save()`, did", "act", acts),
    ):
        lines += [f"## {title}", "", f"| {column} | times |", "|---|--:|"]
        lines += [f"| {name} | {number:,} |" for name, number in sorted(table.items(), key=lambda each: -each[1])]
        lines.append("")
    return "\n".join(lines)
