"""The mutants of ``tests/test_mutants.py``, held against histories: how many it takes until one notices."""

from __future__ import annotations

from multiprocessing import get_context

from ..test_mutants import MUTANTS
from .generate import Generator
from .shrink import failure, listening


def caught(search: tuple[str, int, int]) -> tuple[str, int, str]:
    """Of one mutant: how many histories it took, 0 for more than there were; and what the last one said."""
    name, count, seed = search
    with MUTANTS[name].off(), listening() as logs:
        for number in range(count):
            try:
                message = failure(Generator(f"{seed}/{number}").history(), logs)
            except Exception as error:  # of the application, or of the model: it did not expect that either
                message = repr(error)
            if message is not None:
                return name, number + 1, message
    return name, 0, ""


def report(count: int, processes: int, seed: int) -> tuple[str, list[str]]:
    """What histories noticed, as a page; and the mutants that none of them did."""
    with get_context("spawn").Pool(processes) as pool:
        results = pool.map(caught, [(name, count, seed) for name in MUTANTS], chunksize=1)
    lines = [f"| a rule switched off | noticed by history, of {count:,} | |", "|---|--:|---|"]
    lines += [f"| {name} | {number or '-'} | {message[:60]} |" for name, number, message in results]
    return "\n".join(lines) + "\n", [name for name, number, _ in results if not number]
