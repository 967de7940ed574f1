"""What the report and the plots reckon from the raw numbers: overheads and ratios, taken within a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from . import cost

Data = dict[str, Any]  # section -> its results; a section that was not measured is missing


@dataclass(frozen=True)
class Spread:
    """One value per round: shown as the median, and the smallest and largest."""

    values: tuple[float, ...]

    @property
    def middle(self) -> float:
        return median(self.values)

    def text(self, form: str = ".2f", factor: float = 1) -> str:
        low, middle, high = (format(each * factor, form) for each in (min(self.values), self.middle, max(self.values)))
        return middle if low == high else f"{middle} ({low} to {high})"


def overhead(data: Data, name: str, case: str, bare: str) -> Spread:
    """Seconds over the bare application, one value per round."""
    times = data["cost"]["times"][name]
    return Spread(tuple(with_ - without for with_, without in zip(times[case], times[bare])))


def difference(one: Spread, other: Spread) -> Spread:
    """Round by round: where one of them may be next to nothing, a ratio would say nothing."""
    return Spread(tuple(a - b for a, b in zip(one.values, other.values)))


def roll_overhead(data: Data, name: str, size: int = cost.SIZE) -> Spread:
    return overhead(data, name, f"roll/roll/{size}", f"bare/read/{size}")


def new_roll_overhead(data: Data, name: str) -> Spread:
    """The same for a session cookie that this process has not seen before."""
    return overhead(data, name, f"roll/roll-new/{cost.SIZE}", f"bare/read-new/{cost.SIZE}")


#: A half of the floor, or all of it -> how it is spoken of.
UNITS = {"open": "opening", "both": "opening and sealing"}


@dataclass(frozen=True)
class Work:
    """What a request does, and what at least it has to do: its cases in ``cost``, and a key of ``UNITS``."""

    case: str
    bare: str
    unit: str = "open"


WORK = {
    "untouched": Work(f"still/untouched/{cost.SIZE}", f"bare/untouched/{cost.SIZE}"),
    "read": Work(f"still/read/{cost.SIZE}", f"bare/read/{cost.SIZE}"),
    "read + roll": Work(f"roll/roll/{cost.SIZE}", f"bare/read/{cost.SIZE}"),
    "write": Work(f"still/write/{cost.SIZE}", f"bare/write/{cost.SIZE}", "both"),
    "read, new cookie": Work(f"still/read-new/{cost.SIZE}", f"bare/read-new/{cost.SIZE}"),
    "read + roll, new cookie": Work(f"roll/roll-new/{cost.SIZE}", f"bare/read-new/{cost.SIZE}"),
}


def floor(data: Data, unit: str) -> Spread:
    return Spread(tuple(data["cost"]["times"][cost.FLOOR][unit]))


def units(data: Data, name: str, work: Work) -> Spread:
    """What the work costs over the bare application, in units of what it has to do at least."""
    return ratio(overhead(data, name, work.case, work.bare), floor(data, work.unit))


def ratio(one: Spread, other: Spread) -> Spread:
    """Round by round: what was measured side by side is compared side by side."""
    return Spread(tuple(a / b for a, b in zip(one.values, other.values)))


def counted(data: Data, name: str, case: str, bare: str) -> float | None:
    """Instructions over the bare application."""
    found = data.get("instructions", {}).get("contenders", {}).get(name)
    return found[case] - found[bare] if found and case in found and bare in found else None


def instruction_units(data: Data, name: str, work: Work) -> float | None:
    """The same in instructions."""
    found = data.get("instructions", {}).get("contenders", {}).get(cost.FLOOR)
    number = counted(data, name, work.case, work.bare)
    return number / found[work.unit] if number and found else None


def e2e_ratio(rounds: Sequence[dict[str, Any]], what: str = "rate") -> Spread:
    return Spread(tuple(each["entry"][what] / each["bare"][what] for each in rounds))


def e2e_cpu(rounds: Sequence[dict[str, Any]]) -> Spread:
    """The share that the worker's processor time per request would allow: what the load of the machine moves least."""
    return Spread(tuple(each["bare"]["cpu"] / each["entry"]["cpu"] for each in rounds))


def e2e_overhead(rounds: Sequence[dict[str, Any]]) -> Spread:
    """The worker's processor time per request over that of the bare application, in seconds."""
    return Spread(tuple(each["entry"]["cpu"] - each["bare"]["cpu"] for each in rounds))


def is_ours(entry: str) -> bool:
    """Whether an end-to-end entry is this project: not a peer, nor the bare application."""
    return entry.startswith("rollsession") and ", bare" not in entry


def spoken(entry: str) -> str:
    name, mode, *untouched = entry.split(", ")
    if mode == "bare":
        return "the bare application again"
    if name == cost.FLOOR:
        return f"the primitives alone: open{'' if mode == 'still' else ' and seal'}"
    what = "no roll due" if mode == "still" else "every response rolls"
    return f"{name}, {'smallest application' if untouched else 'reads'}, {what}"
