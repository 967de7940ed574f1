"""From the raw numbers to docs/benchmarks.md. Measures nothing; every figure in the text is computed here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import capacity, cost
from .contenders import contenders
from .figures import (
    UNITS,
    WORK,
    Data,
    Spread,
    counted,
    e2e_cpu,
    e2e_overhead,
    e2e_ratio,
    floor,
    is_ours,
    overhead,
    ratio,
    roll_overhead,
    spoken,
    units,
)
from .race import LONGEST_FIELD, SCENARIOS, SIZE, TABS, holds
from .scale import slope
from .targets import Target, targets


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def outcome_text(outcomes: dict[str, int], scenario: str) -> str:
    """``safe 20/20``, in bold what does not hold."""
    runs = sum(outcomes.values())
    parts = []
    for outcome, times in outcomes.items():
        if outcome == "-":
            return "-"
        text = outcome if holds(scenario, outcome) else f"**{outcome}**"
        parts.append(text if times == runs else f"{text} {times}/{runs}")
    return "; ".join(parts)


def race_section(data: Data) -> str:
    found = data["race"]
    short = [name.split(" ")[0] + ("w" if writes else "") for name, (_, writes) in SCENARIOS.items()]
    rows: list[list[str]] = []
    missing: dict[str, list[str]] = {}
    for each in found["contenders"].values():
        if "missing" in each:
            missing.setdefault(each["missing"], []).append(each["title"])
        else:
            rows.append([each["title"], *(outcome_text(each["table"][name], name) for name in SCENARIOS)])
    text = f"""## The race table

What becomes of a logout, a login and a write while another request is in flight. Each cell is {found["runs"]} runs, and
all of them came out as shown unless a count stands beside it. Bold: does not hold. A column with `w` is the variant in
which the request in flight also writes.

- **S1, S2** resurrection: a request blocks in its handler; logout completes; its response arrives. Logged in again?
  `record back`: the browser is not, but the record on the server is, so that a copied cookie works again.
- **S3** replay: the cookies copied before the logout are sent after it.
- **S4** lost login: a request blocks; logout; login as bob; its response arrives. Who is the user?
- **S5** stale overwrite: a request blocks; another stores `cart`; its response arrives. Is the cart kept? With `w`,
  both write: without `versioned` the last to arrive wins, which is no defect of a session that has no versions.
- **S6** store interleaving: a logout lands between the session layer's check and its write (here: its answer).
- **S7** late: a request is answered before the logout, but its response arrives after bob's login.
- **S8** queued: a request sent before the logout is processed after it, and its response arrives after bob's login.
- **S9** elevation: a request that changes its session's privileges, by the means that the contender documents for that
  (a new session id, where it has one), is in flight; logout, with the cookies from before, completes; its response
  arrives. Logged in again? In S9a the request is held before it changes its session, in S9b after that; in S9c it is
  answered before the logout. `record back`: the browser is not, but a copy of the cookies, the response's included,
  works.
- **S10** logins in parallel: a browser restores {TABS} tabs, and each logs in, to {SIZE:,} bytes of session as JSON.
  All are sent with the same cookies, and all are answered. Is the next request answered as logged in? `too large`: its
  `Cookie` field exceeds {LONGEST_FIELD:,} bytes, so that servers refuse it.
- **S11** S3 once more, with the logout that the contender's own documentation shows, from a session that holds a cart
  too. (S1 to S10 are played with the most thorough one that it offers.)

![The race table](benchmarks/race.svg)

"""
    text += table(["", *short], rows)
    if missing:
        text += "\nNot driven:\n\n" + "".join(f"- {why}: {'; '.join(titles)}\n" for why, titles in missing.items())
    return text


def named(name: str) -> str:
    each = contenders()[name]
    return f"**{each.title}**" if each.ours else each.title


def microseconds(spread: Spread) -> str:
    return spread.text(".1f", 1e6)


def cost_section(data: Data) -> str:
    times, facts = data["cost"]["times"], data["cost"]["facts"]
    names = [name for name in times if name != cost.FLOOR]
    size = cost.SIZE
    opening, sealing, both = (floor(data, half) for half in ("open", "seal", "both"))
    rounds = len(both.values)
    usual = {what: work for what, work in WORK.items() if "new" not in what}
    cases = {what: (work.case, work.bare) for what, work in usual.items()}
    cases["login"] = (f"still/login/{size}", f"bare/login/{size}")
    new = {what: work for what, work in WORK.items() if "new" in what}
    rows = []
    for name in names:
        row = [named(name)] + [microseconds(overhead(data, name, *case)) for case in cases.values()]
        with_logout = overhead(data, name, f"still/login+logout/{size}", f"bare/login+logout/{size}")
        alone = overhead(data, name, f"still/login/{size}", f"bare/login/{size}")
        row.append(microseconds(Spread(tuple(a - b for a, b in zip(with_logout.values, alone.values)))))
        rows.append(row)
    ours = "rollsession-sqlite" if "rollsession-sqlite" in times else next(n for n in names if contenders()[n].ours)
    text = f"""## Cost per request

Microseconds over the bare application (the same application on the same framework, without a session layer), {size}
bytes of session as JSON, WSGI called directly in one thread, timed by pyperf. {rounds} rounds; in each, every contender
has a process of its own in which the bare application and the wrapped ones are measured side by side. Of each round the
fastest value counts; shown is the median of the rounds, and in brackets the smallest and largest. *Untouched*: the
application does not look at the session.
An adapter of this project and the cookie session that its framework brings are over the same bare application, in
processes of their own; the targets hold the two against each other.
*Read*: no roll is due. *Read + roll*: the response extends the session. *Logout*: a login and its logout, less a login.

**The floor** is what no sealed JSON cookie can do without, called bare: stdlib JSON, AES-GCM, base64 of a
{cost.FLOOR_SIZE}-byte session. Here: opening {microseconds(opening)}, sealing {microseconds(sealing)}, both
{microseconds(both)} µs.

![Overhead of a request that rolls](benchmarks/cost.svg)

"""
    text += table(["µs over bare", *cases, "logout"], rows)
    text += f"""
This project remembers the session cookies that a process opened last, so the table shows a visitor who comes back to
the process. One whose cookie is new to it ({cost.CROWD:,} visitors in turn, which is more than it remembers):

"""
    rows = []
    for name in names:
        if f"roll/roll-new/{size}" in times[name]:
            rows.append(
                [named(name)] + [microseconds(overhead(data, name, work.case, work.bare)) for work in new.values()]
            )
    text += table(["µs over bare", *new], rows)
    text += f"""
In units of what the request has to do at least: who does not write needs to open, who writes needs to open and to seal.

{units_table(data, names)}
Read + roll as a ratio to this project with SQLite, and the bytes of `Set-Cookie`:

"""
    rows = []
    for name in names:
        against = ratio(roll_overhead(data, name), roll_overhead(data, ours)).text(".1f")
        sent = [facts[name][kind].get(str(size), "does not fit") for kind in ("roll_bytes", "write_bytes")]
        rows.append([named(name), against, *sent])
    text += table(["", f"read + roll, of {ours}", "roll bytes", "write bytes"], rows)
    sizes = sorted({int(case.rpartition("/")[2]) for case in times[ours] if case.startswith("roll/")})
    if len(sizes) > 1:
        text += "\nBy the size of the session, read + roll in µs over bare, and roll bytes:\n\n"
        rows = []
        for name in names:
            cells = []
            for each in sizes:
                if f"roll/roll/{each}" in times[name]:
                    sent = facts[name]["roll_bytes"].get(str(each), "?")
                    cells.append(f"{microseconds(roll_overhead(data, name, each))}; {sent} B")
                else:
                    cells.append("does not fit")
            rows.append([named(name), *cells])
        text += table(["", *(f"{each:,} B" for each in sizes)], rows)
    if data["cost"].get("steps"):
        text += """
**Where it goes**: what this project does for a request, each step by itself, run warm in a loop; and what gunicorn does
with the headers of a response.

"""
        rows = []
        for name, seconds in data["cost"]["steps"].items():
            step = Spread(tuple(seconds))
            rows.append([name, microseconds(step), ratio(step, opening).text(), ratio(step, both).text()])
        text += table(["", "µs", *(f"of {unit}" for unit in UNITS.values())], rows)
    return text


def units_table(data: Data, names: Sequence[str]) -> str:
    cases = data["cost"]["times"]
    rows = []
    for name in names:
        cells = [units(data, name, work).text() if work.case in cases[name] else "" for work in WORK.values()]
        rows.append([named(name), *cells])
    return table(["", *(f"{what}, of {UNITS[work.unit]}" for what, work in WORK.items())], rows)


def instructions_section(data: Data) -> str:
    found = data["instructions"]
    text = "## Instructions per request\n\n"
    if "missing" in found:
        return text + f"Not counted: {found['missing']}.\n"
    text += """The figure that does not move with the load of the machine: instructions that callgrind counted, over the
bare application, in thousands. Redis and the kernel do their part outside of it, so a contender on Redis looks cheaper
here than it is. The follower is left out: its thread works by the clock and not by the request.

"""
    rows = []
    for name in found["contenders"]:
        if name == cost.FLOOR:
            continue
        values = [counted(data, name, work.case, work.bare) for work in WORK.values()]
        rows.append([named(name), *("" if value is None else f"{value / 1000:.0f}" for value in values)])
    base = found["contenders"][cost.FLOOR]
    text += table(["thousand instructions", *WORK], rows)
    halves = {"open": "opening", "seal": "sealing", "both": "both"}
    parts = ", ".join(f"{spoken_of} {base[half] / 1000:.0f}" for half, spoken_of in halves.items())
    return f"{text}\nThe floor: {parts}.\n"


def e2e_section(data: Data) -> str:
    text = "## End to end\n\n"
    if "missing" in data["e2e"]:
        return text + f"Not measured: {data['e2e']['missing']}.\n"
    text += """gunicorn with one worker process, on loopback under wrk with 8 connections. Every request is a GET with
the cookies of a live session. *Smallest application*: it answers two bytes and does not look at the session. *Reads*:
it asks the session who the user is. Each entry is measured between two runs of the bare application on the same
framework, which is sent the same bytes. *The bare application again*, in a process of its own, shows the noise. *The
primitives alone*: the bare application, which before it answers also opens (or opens and seals) 180 bytes with base64,
AES-GCM and JSON, and sends the headers `Vary` (and `Set-Cookie`); no filter, no check: the least that any encrypted
cookie session costs. The load generator, and Redis where there is one, share the machine: the server has one core to
itself, all others run on the rest. The bare application does next to nothing, so these ratios are the worst that a
site can see. *By processor time*: what the worker used per request, bare over wrapped, and less bare; on a busy
machine it moves less than the throughput. wrk sends the same cookies again and again. So does a browser, until the
next roll; where every response rolls, its next request carries a new lease, and pays *or open it anew: the lease*
(under *Cost per request*) on top.

**Why targets are missed here.** A row can be held against *the primitives alone*: where these miss a target, a session
that opens its cookie on every request cannot reach it on this server. And what takes a microsecond in a loop (the steps
under *Cost per request*) takes several here: between two requests the worker runs gunicorn and the kernel, and comes
back to cold caches, the primitives included.

![Throughput as a share of the bare application's](benchmarks/e2e.svg)

"""
    for worker, entries in data["e2e"].items():
        rows = []
        for entry, rounds in entries.items():
            cells = [f"**{spoken(entry)}**" if is_ours(entry) else spoken(entry)]
            cells.append(e2e_ratio(rounds).text())
            cells.append(e2e_cpu(rounds).text())
            cells.append(f"{e2e_overhead(rounds).middle * 1e6:.0f}")
            cells.append(Spread(tuple(each["entry"]["rate"] for each in rounds)).text(",.0f"))
            for percentile in ("p50", "p99"):
                cells.append(Spread(tuple(each["entry"][percentile] for each in rounds)).text(".2f"))
                cells.append(e2e_ratio(rounds, percentile).text())
            rows.append(cells)
        head = [
            "",
            "share of bare",
            "by processor time",
            "µs over bare",
            "requests/s",
            "p50 ms",
            "of bare",
            "p99 ms",
            "of bare",
        ]
        text += f"**{worker}**\n\n" + table(head, rows) + "\n"
    return text


def bytes_text(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def seconds_text(number: float) -> str:
    if number < 0.001:
        return f"{number * 1e6:.1f} µs"
    return f"{number * 1e3:.1f} ms" if number < 1 else f"{number:.1f} s"


STORES = {
    "memory": "memory",
    "sqlite": "SQLite",
    "redis": "Redis, direct",
    "follow": "Redis, follow=1",
}


def scale_section(data: Data) -> str:
    found = data["scale"]
    text = """## Scale

Every store filled with revoked sessions. *Look-up*: what a load asks (everything, the session, one tag), half of the
sessions revoked. *Now*: the authoritative check before a roll or a write. *Revoke*: one logout, confirmed by the
store. *Memory*: what this process grew by, the local set included. *Open*: a fresh process, until it answers from what
is there (for the follower: until its local set is complete).

![Look-up time by the size of the revocation set](benchmarks/scale.svg)

"""
    rows = []
    for store, facts in found.items():
        counts = [int(count) for count in facts]
        for count, each in facts.items():
            rows.append(
                [
                    STORES[store],
                    f"{int(count):,}",
                    seconds_text(each["lookup_s"]),
                    seconds_text(each["confirm_s"]),
                    seconds_text(each["fence_s"]),
                    bytes_text(each["memory"]),
                    seconds_text(each["open_s"]) if "fill_s" not in each or store == "sqlite" else "-",
                    f"{int(count) / each['fill_s']:,.0f}/s" if "fill_s" in each else "-",
                ]
            )
        if len(counts) > 1:
            timed = ("lookup_s", "confirm_s", "fence_s")
            slopes = [slope(counts, [each[what] for each in facts.values()]) for what in timed]
            rows.append([f"*{STORES[store]}*", "*slope*", *(f"*{value:+.3f}*" for value in slopes), "", "", ""])
    text += table(["", "revoked", "look-up", "now", "revoke", "memory", "open", "filled at"], rows)
    text += "\nSlope: the exponent of growth, by least squares over all sizes. 0 is flat, 1 would be proportional.\n"
    rows = []
    for count, each in found.get("redis", {}).items():
        per = each["redis_memory"] / int(count)
        rows.append([f"{int(count):,}", bytes_text(each["redis_memory"]), f"{per:.0f}"])
    if rows:
        text += "\nMemory of the Redis server:\n\n" + table(["revoked", "used_memory grew by", "bytes a fence"], rows)
    rows = []
    for count, each in found.get("sqlite", {}).items():
        rows.append(
            [
                f"{int(count):,}",
                bytes_text(each["database"]),
                f"{each['database'] / int(count):.0f}",
                f"{each['purged_per_call']:.0f}",
                seconds_text(each["purge_call_s"]),
                seconds_text(each["purge_longest_s"]),
            ]
        )
    if rows:
        text += "\nSQLite on the disk, and the purge once all has expired; each revocation removes some of it:\n\n"
        head = ["revoked", "files", "bytes a fence", "removed by a revocation", "which takes", "longest"]
        text += table(head, rows)
    return text


def propagation_section(data: Data) -> str:
    found = data["propagation"]
    text = """## Propagation

With `follow=1`: from the call of a logout in one process until the fence is in the local set of another on the same
host. With SQLite there is nothing to wait for: the next check sees it.

"""
    columns = ("median", "p99", "max")
    rows = [[name, *(seconds_text(each[what]) for what in columns)] for name, each in found.items()]
    return text + table(["", "median", "99 %", "longest"], rows)


def capacity_section(data: Data) -> str:
    results = data["capacity"]
    models = capacity.models(results)
    v = capacity.Visitors()
    text = f"""## A capacity model

On paper, from what each kind of request was measured to cost the Redis server. Assumed: a visitor makes a request every
{v.pause:.0f} s and stays for {v.visit / 60:.0f} minutes; {v.writes:.0%} of the requests write the session;
a roll is due every {v.renew_after:.0f} s; {v.leave_by_logout:.0%} leave by logging out;
records and fences live {v.idle / 60:.0f} minutes; a worker process serves {v.worker:,.0f} requests a second.
Processor time was measured with one client and no pipelining, where Redis wakes up for each command: a busy server does
better, by the same factor in every row.

Measured, commands per request (those inside scripts included):

"""
    rows = []
    for name, facts in results.items():
        commands = [f"{facts['operations'][operation]['commands']:.2f}" for operation in capacity.OPERATIONS]
        what = "session" if name in capacity.PEERS else "fence"
        rows.append([named(name), *commands, f"{facts[f'{what}_memory']:.0f} B a {what}"])
    text += table(["", *capacity.OPERATIONS, "memory"], rows)
    text += "\nThe model:\n\n"
    rows = []
    for rate in capacity.RATES:
        for name in results:
            each = models[name][rate]
            rows.append(
                [
                    f"{rate:,} requests/s",
                    named(name),
                    f"{each['commands']:,.0f}",
                    f"{each['cores']:.2f}",
                    bytes_text(each["bytes"]),
                    bytes_text(each["memory"]),
                    f"{each['first']}: {each['strain']:.1%}",
                ]
            )
    head = ["", "", "commands/s", "Redis cores", "bytes/s", "memory", "what breaks first, and how full it is"]
    text += table(head, rows)
    text += "\nChecked: 5,400 requests in that mix were played, and what Redis counted is held against the model.\n\n"
    rows = []
    for name, facts in results.items():
        check = facts["check"]
        cells = [
            f"{check[what]['measured'] / check[what]['predicted']:.3f}" if check[what]["predicted"] else "-"
            for what in ("commands", "bytes", "cpu")
        ]
        rows.append([named(name), *cells])
    return text + table(["measured / predicted", "commands", "bytes", "processor time"], rows)


def machine_section(machines: dict[str, Any]) -> str:
    newest = next(iter(machines.values()))
    lines = [f"- {key}: {newest[key]}" for key in ("processor", "cores", "memory_gb", "system", "python", "openssl")]
    lines += [f"- {key}: {newest[key] or 'not installed'}" for key in ("redis", "node", "wrk", "valgrind")]
    lines.append("- packages: " + ", ".join(f"{name} {version}" for name, version in newest["packages"].items()))
    for name, each in machines.items():
        kind = ", quick" if each["quick"] else ""
        lines.append(f"- {name}: {each['date']}{kind}, commit {each['commit']}, load average before {each['load'][0]}")
    return "\n".join(lines) + "\n"


def build(data: Data, machines: dict[str, Any]) -> tuple[str, list[Target]]:
    """The report and its targets."""
    goals = targets(data)
    text = """# Benchmarks

Generated by `make bench`; do not edit. `make bench-quick` does the same with fewer runs, into `build/bench/`. The raw
numbers and the plots (SVG) are in `benchmarks/` beside this file; the harness is the `benchmarks` package of
the repository, the peers are the published packages at the versions named, in their usual rolling configuration. Every
comparison is a ratio of what was measured side by side in one run. Absolute times are this machine's and no other's.

"""
    text += machine_section(machines) + "\n## Targets\n\n"
    rows = [(each.what, each.wanted, each.measured, each.verdict) for each in goals]
    text += table(["", "to reach", "measured", ""], rows)
    sections = {
        "race": race_section,
        "cost": cost_section,
        "instructions": instructions_section,
        "e2e": e2e_section,
        "scale": scale_section,
        "propagation": propagation_section,
        "capacity": capacity_section,
    }
    for name, section in sections.items():
        if name in data:
            text += "\n" + section(data)
    return text, goals


def load(raw: Path) -> tuple[Data, dict[str, Any]]:
    data, machines = {}, {}
    for name in ("race", "cost", "instructions", "e2e", "scale", "propagation", "capacity"):
        path = raw / f"{name}.json"
        if path.is_file():
            found = json.loads(path.read_text())
            data[name] = found["results"]
            machines[name] = found["machine"] | {"quick": found["quick"]}
    return data, machines


def write(out: Path, raw: Path) -> list[str]:
    """Write the report and the plots. Returns the targets as lines of text."""
    data, machines = load(raw)
    if not data:
        return ["Nothing has been measured yet."]
    from . import plots  # matplotlib is not needed before

    text, goals = build(data, machines)
    plots.draw(data, raw)
    (out / "benchmarks.md").write_text(text)
    return [f"{each.verdict:12} {each.what}: {each.measured} (to reach: {each.wanted})" for each in goals]
