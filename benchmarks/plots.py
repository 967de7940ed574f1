"""The plots of the report, as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "rollsession"  # the same numbers give the same file

from matplotlib import pyplot as plt  # noqa: E402  the backend comes first

from . import cost  # noqa: E402
from .contenders import contenders  # noqa: E402
from .figures import UNITS, e2e_ratio, floor, is_ours, roll_overhead, spoken  # noqa: E402
from .race import SCENARIOS, holds  # noqa: E402

OURS, PEER, GOOD, BAD, MIXED = "#0b6e4f", "#9aa5b1", "#bfe3d0", "#f2b8b5", "#fbe3a3"


def draw(data: dict[str, Any], directory: Path) -> None:
    for name, plot in {"race": race, "cost": costs, "e2e": end_to_end, "scale": scales}.items():
        if name in data and "missing" not in data[name]:
            figure = plot(data)
            figure.savefig(directory / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)


def race(data: dict[str, Any]) -> Any:
    rows = [each for each in data["race"]["contenders"].values() if "table" in each]
    columns = list(SCENARIOS)
    figure, axes = plt.subplots(figsize=(0.85 * len(columns), 0.27 * len(rows) + 1.2))
    for y, each in enumerate(rows):
        for x, name in enumerate(columns):
            outcomes = each["table"][name]
            good = [holds(name, outcome) for outcome in outcomes]
            colour = GOOD if all(good) else BAD if not any(good) else MIXED
            if list(outcomes) == ["-"]:
                colour = "white"
            axes.add_patch(plt.Rectangle((x, y), 0.96, 0.92, color=colour))
            text = next(iter(outcomes)).partition(",")[0] + ("…" if len(outcomes) > 1 else "")
            axes.text(x + 0.48, y + 0.46, text.replace("resurrected", "back"), ha="center", va="center", fontsize=6)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    heads = [name.split(" ")[0] + (" write" if writes else "") for name, (_, writes) in SCENARIOS.items()]
    axes.set_xticks([x + 0.48 for x in range(len(columns))], heads, fontsize=7)
    axes.set_yticks([y + 0.46 for y in range(len(rows))], [each["title"] for each in rows], fontsize=7)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def bars(axes: Any, rows: list[tuple[str, float, float, float, bool]]) -> None:
    """Horizontal bars of (label, middle, low, high, is it this project), the first on top."""
    for y, (_, middle, low, high, ours) in enumerate(rows):
        axes.barh(
            y, middle, color=OURS if ours else PEER, xerr=[[middle - low], [high - middle]], capsize=2, height=0.7
        )
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=8)
    axes.invert_yaxis()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def costs(data: dict[str, Any]) -> Any:
    names = [name for name in data["cost"]["times"] if name != cost.FLOOR]
    rows = []
    for name in names:
        values = [value * 1e6 for value in roll_overhead(data, name).values]
        middle = roll_overhead(data, name).middle * 1e6
        rows.append((contenders()[name].title, middle, min(values), max(values), contenders()[name].ours))
    rows.sort(key=lambda row: row[1])
    figure, axes = plt.subplots(figsize=(9, 0.32 * len(rows) + 1))
    bars(axes, rows)
    axes.set_xscale("log")
    for unit in UNITS:
        axes.axvline(floor(data, unit).middle * 1e6, color="black", linewidth=0.8, linestyle=":")
    dotted = "; ".join(UNITS.values())
    axes.set_xlabel(f"µs over the bare application, read + roll, {cost.SIZE} bytes (log scale; dotted: {dotted})")
    return figure


def end_to_end(data: dict[str, Any]) -> Any:
    workers = data["e2e"]
    height = 0.3 * max(len(entries) for entries in workers.values()) + 1
    figure, found = plt.subplots(1, len(workers), figsize=(11, height), sharey=True, squeeze=False)
    for axes, (worker, entries) in zip(found[0], workers.items()):
        rows = []
        for entry, rounds in entries.items():
            spread = e2e_ratio(rounds)
            rows.append((spoken(entry), spread.middle, min(spread.values), max(spread.values), is_ours(entry)))
        bars(axes, rows)
        axes.axvline(0.95, color="black", linewidth=0.8, linestyle=":")
        axes.set_xlabel(f"{worker}: share of the bare throughput (dotted: 0.95)")
    found[0][0].invert_yaxis() if len(workers) % 2 == 0 else None  # a shared axis was turned twice
    return figure


def scales(data: dict[str, Any]) -> Any:
    from .report import STORES

    figure, axes = plt.subplots(figsize=(7, 4))
    for store, facts in data["scale"].items():
        counts = [int(count) for count in facts]
        axes.plot(counts, [each["lookup_s"] * 1e6 for each in facts.values()], marker="o", label=STORES[store])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("revoked sessions")
    axes.set_ylabel("look-up, µs")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure
