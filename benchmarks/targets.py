"""What is to be reached, held against what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from . import cost
from .contenders import contenders
from .figures import (
    UNITS,
    WORK,
    Data,
    counted,
    difference,
    e2e_cpu,
    e2e_ratio,
    instruction_units,
    new_roll_overhead,
    overhead,
    ratio,
    roll_overhead,
    spoken,
    units,
)
from .race import holds
from .scale import slope


@dataclass(frozen=True)
class Target:
    what: str
    wanted: str
    measured: str
    reached: bool | None  # None: not measured

    @property
    def verdict(self) -> str:
        return {True: "reached", False: "MISSED", None: "not measured"}[self.reached]


def targets(data: Data) -> list[Target]:
    found: list[Target] = []
    if "race" in data:
        found.append(race_target(data))
    if "cost" in data:
        found += cost_targets(data) + adapter_targets(data)
    if "e2e" in data and "missing" not in data["e2e"]:
        found += e2e_targets(data)
    if "capacity" in data:
        reads = data["capacity"]["rollsession-follow"]["operations"]["read"]["commands"]
        found.append(Target("Redis commands per read, Redis follow", "0", f"{reads:.3f}", reads < 0.005))
    if "scale" in data:
        found += scale_targets(data)
    return found


def race_target(data: Data) -> Target:
    ours = {name: found for name, found in data["race"]["contenders"].items() if name.startswith("rollsession")}
    broken = [
        f"{name}: {scenario}"
        for name, found in ours.items()
        for scenario, outcomes in found.get("table", {"": {}}).items()
        if not must_hold_everywhere(name, scenario, outcomes)
    ]
    measured = "; ".join(broken) or f"{len(ours)} configurations, {data['race']['runs']} of {data['race']['runs']} runs"
    reached = not broken if ours else None
    return Target("S1 to S11 hold, every store (two writers: with versioned)", "all", measured, reached)


def must_hold_everywhere(name: str, scenario: str, outcomes: dict[str, int]) -> bool:
    if not scenario:
        return False  # could not be driven
    if scenario == "S5 stale overwrite, write" and "versioned" not in name:
        return True  # two writers without versions: the last one wins, as documented
    return all(holds(scenario, outcome) for outcome in outcomes)


def cheapest_encrypting_peer(data: Data) -> str:
    names = [
        name for name, each in contenders().items() if each.encrypts and not each.ours and name in data["cost"]["times"]
    ]
    return min(names, key=lambda name: roll_overhead(data, name).middle)


#: At most so many units of what the work has to do at least (see ``figures.WORK``).
LIMITS = {"untouched": 0.3, "read": 1.5, "read, new cookie": 2, "read + roll": 2, "write": 2.5}


def unit_target(data: Data, name: str, what: str, limit: float) -> Target:
    work = WORK[what]
    measured, in_instructions = units(data, name, work), instruction_units(data, name, work)
    text = measured.text()
    if in_instructions:
        text += f"; in instructions {in_instructions:.2f}"
    described = f"{what}, SQLite, in units of {UNITS[work.unit]}"
    return Target(described, f"≤ {limit}", text, measured.middle <= limit)


def cost_targets(data: Data) -> list[Target]:
    ours, times = "rollsession-sqlite", data["cost"]["times"]
    if ours not in times:
        return []
    found = []
    peers = [(cheapest_encrypting_peer(data), 3, " (the cheapest that encrypts and rolls)"), ("beaker-cookie", 8, "")]
    for peer, part, description in peers:
        if peer not in times:
            continue
        for kind, mine, case, bare in (
            ("", roll_overhead(data, ours), "roll/roll", "bare/read"),
            (", a cookie that is new to the process", new_roll_overhead(data, ours), "roll/roll-new", "bare/read-new"),
        ):
            against = ratio(mine, roll_overhead(data, peer))
            text = against.text()
            number = counted(data, ours, f"{case}/{cost.SIZE}", f"{bare}/{cost.SIZE}")
            theirs = counted(data, peer, f"roll/roll/{cost.SIZE}", f"bare/read/{cost.SIZE}")
            if number and theirs:
                text += f"; in instructions {number / theirs:.2f}"
            what = f"read + roll, SQLite{kind}, over {peer}{description}"
            found.append(Target(what, f"≤ 1/{part} = {1 / part:.3f}", text, against.middle <= 1 / part))
    found.append(
        Target(
            "read + roll with a faster serializer, over the cheapest peer that encrypts and rolls",
            "≤ 1/5 = 0.200",
            "no faster serializer is offered",
            None,
        )
    )
    found += [unit_target(data, ours, what, limit) for what, limit in LIMITS.items()]
    facts = data["cost"]["facts"]
    sizes = facts[ours]["roll_bytes"]
    smallest, peer = min(
        (facts[name]["roll_bytes"][str(cost.SIZE)], name)
        for name, each in contenders().items()
        if name in facts and not each.stored and str(cost.SIZE) in facts[name]["roll_bytes"]
    )
    sent = sorted(set(sizes.values()))
    found.append(
        Target(
            f"bytes of a roll: constant, and at most half of the smallest cookie-only peer's ({peer}: {smallest})",
            f"≤ {smallest // 2}",
            ", ".join(map(str, sent)),
            len(sent) == 1 and sent[0] * 2 <= smallest,
        )
    )
    return found


#: This project through an adapter -> the framework's own cookie session.
OWN = {
    "rollsession-flask": "flask",
    "rollsession-django": "django-signed_cookies",
    "rollsession-pyramid": "pyramid-signed",
    "rollsession-beaker": "beaker-cookie",
}


def adapter_targets(data: Data) -> list[Target]:
    """Of each framework: over its bare application, the adapter costs no more than the cookie session it replaces."""
    times, found = data["cost"]["times"], []
    for ours, own in OWN.items():
        for what in ("untouched", "read", "read + roll", "write") if ours in times and own in times else ():
            work = WORK[what]
            mine, theirs = (overhead(data, name, work.case, work.bare) for name in (ours, own))
            more = difference(mine, theirs)
            text = f"{mine.text('.1f', 1e6)} to {theirs.text('.1f', 1e6)}, {more.text('+.1f', 1e6)} µs"
            numbers = [counted(data, name, work.case, work.bare) for name in (ours, own)]
            thousands = [f"{number / 1000:.0f}" for number in numbers if number is not None]
            if len(thousands) == 2:
                text += f"; in thousand instructions {' to '.join(thousands)}"
            found.append(Target(f"{what}, {ours}, against {own}", "not more over bare", text, more.middle <= 0))
    return found


def e2e_targets(data: Data) -> list[Target]:
    found = []
    for worker, entries in data["e2e"].items():
        for entry, limit in (
            ("rollsession-sqlite, still, untouched", 0.95),
            ("rollsession-follow, still, untouched", 0.95),
            ("rollsession-sqlite, roll, untouched", 0.85),
            ("rollsession-sqlite, still", 0.95),
            ("rollsession-follow, still", 0.95),
            ("rollsession-sqlite, roll", 0.85),
        ):
            if entry in entries:
                rates = e2e_ratio(entries[entry])
                what = f"gunicorn {worker}, {spoken(entry)}: share of the bare throughput"
                text = f"{rates.text()}; by processor time {e2e_cpu(entries[entry]).text()}"
                found.append(Target(what, f"≥ {limit}", text, rates.middle >= limit))
    return found


def scale_targets(data: Data) -> list[Target]:
    found = []
    for store, name in (("sqlite", "SQLite"), ("follow", "Redis follow"), ("redis", "Redis direct")):
        facts = data["scale"].get(store, {})
        if len(facts) > 1:
            counts = [int(count) for count in facts]
            lookups = [each["lookup_s"] for each in facts.values()]
            exponent = slope(counts, lookups)
            text = f"exponent {exponent:+.3f}; {lookups[0] * 1e6:.2f} → {lookups[-1] * 1e6:.2f} µs"
            what = f"look-up stays flat, {name}, {counts[0]:,} to {counts[-1]:,} fences"
            found.append(Target(what, "exponent ≤ 0.15", text, exponent <= 0.15))
    return found
