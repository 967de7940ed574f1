"""The ``rollsession`` command. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.

Keys are read from an environment variable or a file, never from an argument, which other users of the machine can see;
the same goes for a store's URL if it holds a password. No command ever prints a key.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

from . import policy, seal, token
from .errors import ConfigurationError, RollSessionError, without_keys
from .keys import KeyRing, generate_key
from .presented import Opened, Presented, rank
from .revocation import Revocations, StoreOptions, open_store
from .revocation.fence import ENDED, EVERYTHING, session_key, tag_key

KEYS = "ROLLSESSION_KEYS"
STORE = "ROLLSESSION_REVOCATIONS"
_LIFETIME_MS = 3600 * 1000  # of the default idle timeout


class Refused(Exception):
    """The command was understood and cannot be carried out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; usage errors raise ``SystemExit(2)``."""
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, TextIOWrapper):  # a character that the terminal lacks is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return int(arguments.run(arguments))
    except ConfigurationError as error:
        print(f"rollsession: {error}", file=sys.stderr)
        return 2
    except (RollSessionError, Refused, OSError) as error:
        print(f"rollsession: {without_keys(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rollsession", description="Sessions that stay logged out.")
    parser.add_argument("--version", action="version", version=version("wsgi_rollsession"))
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("keygen", help="print a new key", description="Print a new key: 32 random bytes.")
    command.set_defaults(run=_keygen)

    command = commands.add_parser(
        "inspect",
        help="show what a session cookie holds, and why it is refused",
        description="Open session and lease cookies. Exit code 0: one of the sessions is alive; 1: none is.",
    )
    command.add_argument("cookie", metavar="COOKIE", help="a Cookie header (name=value; ...), or a value with --name; "
                         "- reads it from standard input")  # fmt: skip
    command.add_argument("--name", help="the full name of the cookie, if COOKIE is only its value")
    keys = command.add_mutually_exclusive_group()
    keys.add_argument("--keys-env", metavar="NAME", default=KEYS, help=f"variable that holds the keys (default {KEYS})")
    keys.add_argument("--keys-file", metavar="PATH", type=Path, help="file that holds the keys")
    _add_store(command, "also ask this revocation store whether the session was ended")
    command.add_argument("--data", action="store_true", help="show the session's data too")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_inspect)

    command = commands.add_parser(
        "revoke",
        help="end a session, all sessions with a tag, or all sessions",
        description="End sessions. Returns when the store has confirmed it; repeating is harmless.",
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--tag", help="end the sessions with this tag, such as user:42, that exist now")
    what.add_argument("--session", metavar="ID", help="end the session with this id (32 hexadecimal digits)")
    what.add_argument("--everything", action="store_true", help="end all sessions that exist now")
    _add_store(command, "the revocation store")
    command.set_defaults(run=_revoke)

    command = commands.add_parser(
        "status", help="show the state of a revocation store", description="Show the state of a revocation store."
    )
    _add_store(command, "the revocation store")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_status)

    command = commands.add_parser(
        "demo",
        help="play the logout race on this machine",
        description="Play the logout race over HTTP, then serve a page on which to click through it.",
    )
    command.add_argument("--once", action="store_true", help="play it and exit: 0 if this project held, 1 if not "
                         "(also what happens without a terminal)")  # fmt: skip
    command.add_argument("--port", type=int, help="the port to use (default: the first free one from 8000)")
    command.add_argument("--insecure-http", action="store_true",
                         help="for a browser without Secure cookies on http://localhost (Safari)")  # fmt: skip
    command.set_defaults(run=_demo)
    return parser


def _add_store(command: argparse.ArgumentParser, purpose: str) -> None:
    command.add_argument(
        "--store", metavar="URL", default=os.environ.get(STORE), help=f"{purpose} (default: the variable {STORE})"
    )


def _open(url: str | None) -> Revocations:
    if not url:
        raise ConfigurationError(f"--store: requires the URL of a revocation store, or {STORE} set, received none")
    if url.startswith("memory:"):
        raise ConfigurationError("--store: requires a store that processes share, received memory:, which none do")
    # A store that does not exist yet would be created, and seem to have confirmed something.
    path = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", url)
    if path and not Path(path[1]).exists():
        raise Refused(f"there is no SQLite store at {path[1]}")
    # A store keeps the longest lifetime that it was ever told, and the applications have told it theirs.
    return open_store(url, StoreOptions(lifetime_ms=_LIFETIME_MS))


def _keygen(arguments: argparse.Namespace) -> int:
    print(generate_key())
    return 0


# inspect

_BASE64URL = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII).fullmatch
_PAIR = re.compile(r".*-([1-4])b?", re.ASCII).fullmatch
_FLAGS = {token.FAIL_OPEN: "fail open", token.UNASKED: "unasked", token.TRANSIENT: "transient"}


def _inspect(arguments: argparse.Namespace) -> int:
    ring = _ring(arguments)
    text = sys.stdin.read() if arguments.cookie == "-" else arguments.cookie
    sessions, slots = [], []
    leases: dict[str, list[str]] = {}
    for name, value in _pairs(text.strip(), arguments.name):
        if name.endswith("-lease") and len(value) == seal.LEASE_LENGTH:
            leases.setdefault(name, []).append(value)
        elif name.endswith("-slot") and len(value) < seal.LEASE_LENGTH:
            slots.append((name, value))
        else:
            sessions.append((name, value))
    store = _open(arguments.store) if arguments.store else None
    now = time.time_ns() // 1_000_000
    try:
        found = [_session(ring, name, value, leases.get(f"{name}-lease", []), now, store) for name, value in sessions]
    finally:
        if store is not None:
            store.close()
    alive = [each for each in found if each.session is not None and each.facts["refused"] is None]
    if alive:
        max(alive, key=_rank).facts["chosen"] = True
    if arguments.data:
        for each in found:
            if each.session is not None:
                each.facts["data"] = json.loads(each.session.record.data)
    results = [each.facts for each in found]
    inert = [name for name in leases if name.removesuffix("-lease") not in dict(sessions)]
    results += [{"cookie": _shown(name), "refused": "a lease without its session cookie is inert"} for name in inert]
    results += [{"cookie": _shown(name), "pair_used_last": _pair(value)} for name, value in slots]
    if arguments.json:
        print(json.dumps(results, indent=2))  # ASCII, so fit for a terminal
    else:
        print("\n\n".join(_table(_for_people(result)) for result in results))
    return 0 if alive else 1


class _Found(NamedTuple):
    facts: dict[str, Any]
    #: None: it is not authentic.
    session: Presented | None


def _rank(found: _Found) -> tuple[bool, int, int, int]:
    assert found.session is not None
    return rank(found.session)


def _pair(value: str) -> int | None:
    """What a slot cookie says, if it says anything."""
    return int(value) if value in ("1", "2", "3", "4") else None


def _ring(arguments: argparse.Namespace) -> KeyRing:
    if arguments.keys_file is not None:
        return KeyRing(arguments.keys_file.read_text(encoding="utf-8"))
    if arguments.keys_env not in os.environ:
        raise ConfigurationError(
            f"--keys-env: requires the name of a variable that is set, received {arguments.keys_env}"
        )
    return KeyRing(os.environ[arguments.keys_env])


def _pairs(text: str, name: str | None) -> list[tuple[str, str]]:
    if name is not None:
        text = f"{name}={text}"
    text = re.sub(r"^Cookie:", "", text, flags=re.IGNORECASE)
    pairs = [
        (key.strip(), value.strip().strip('"'))
        for key, is_pair, value in (p.partition("=") for p in text.split(";"))
        if is_pair
    ]
    if not pairs:
        raise ConfigurationError("COOKIE: requires name=value, or --name beside a value, received neither")
    return pairs


def _shown(name: str) -> str:
    """A name that nobody has authenticated, fit for a terminal."""
    return name if _BASE64URL(name) else ascii(name)


def _session(
    ring: KeyRing, name: str, value: str, lease_values: Sequence[str], now: int, store: Revocations | None
) -> _Found:
    facts: dict[str, Any] = {"cookie": _shown(name), "refused": None}
    try:
        if not _BASE64URL(name) or not _BASE64URL(value):
            raise seal.Unsealable("characters that are not base64url")
        issued, plaintext = seal.open_session(ring, name, value)
        record = token.unpack(plaintext)
    except (seal.Unsealable, ValueError) as error:  # ValueError: an authentic plaintext that is malformed
        return _Found({**facts, "refused": str(error)}, None)
    last_activity, idle = issued, record.idle
    for lease_value in lease_values:
        try:
            if not _BASE64URL(lease_value):
                raise seal.Unsealable("characters that are not base64url")
            lease = seal.open_lease(ring, f"{name}-lease", record.id, lease_value)
        except seal.Unsealable as error:
            facts["lease_refused"] = str(error)
        else:
            extended = policy.extended(record, issued, lease)
            if extended[0] > last_activity:
                last_activity, idle = extended
    keys, limits = (EVERYTHING, session_key(record.id), *record.tags), policy.limits(record)
    session = Presented(name, Opened(last_activity, idle, record.ends, record, keys, limits))
    why = session.expired(now)
    if store is not None and why is None:
        why = policy.refused(store.lookup_now(keys), limits)
    facts["refused"] = why.value if why is not None else None
    pair = _PAIR(name)
    facts |= {
        "chosen": False,
        "kind": "login" if session.is_login else "anonymous",
        "pair": int(pair[1]) if pair else None,
        "id": record.id.hex(),
        "version": record.version,
        "epoch": token.epoch(record.version),
        "writes": record.version & token.MOST_WRITES,
        "created": _utc(record.created),
        "authenticated_at": _utc(record.authenticated) if session.is_login else None,
        "issued": _utc(issued),
        "last_activity": _utc(last_activity),
        "idle_ends": "never" if idle == token.UNLIMITED else _utc(last_activity + idle * 1000),
        "ends": "never" if record.ends == token.NEVER else _utc(record.ends),
        "flags": [text for flag, text in _FLAGS.items() if record.flags & flag],
        "tag_hashes": [tag.hex() for tag in record.tags],
        "data_bytes": len(record.data),
        "revocations": "not asked" if store is None else "asked",
    }
    return _Found(facts, session)


def _utc(milliseconds: int, timespec: str = "milliseconds") -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat(timespec=timespec)
    except (ValueError, OverflowError, OSError):  # what a year beyond 9999 is depends on the platform
        return f"{milliseconds} ms"


def _for_people(facts: dict[str, Any]) -> dict[str, Any]:
    if "refused" not in facts:
        return {"cookie": facts["cookie"], "pair used last": facts["pair_used_last"] or "none"}
    verdict = f"refused: {facts['refused']}" if facts["refused"] else "alive"
    if facts["refused"] is None and not facts["chosen"]:
        verdict += ", and another session comes before it"
    rest = {
        name.replace("_", " "): ", ".join(value) or "none" if name == "flags" else value
        for name, value in facts.items()
        if name not in ("cookie", "refused", "chosen") and value is not None
    }
    return {"cookie": facts["cookie"], "verdict": verdict, **rest}


def _table(facts: dict[str, Any]) -> str:
    """One line for each fact; a dictionary of dictionaries has one for each of its items."""
    width = max(len(name) for name in facts)
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
            texts = [f"{key}  {_text(item)}" for key, item in value.items()]
        else:
            texts = [_text(value)]
        for text in texts:
            lines.append(f"{_printable(name):<{width}}  {_printable(text)}")
            name = ""
    return "\n".join(lines)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _printable(text: str) -> str:
    """What somebody else wrote, without what a terminal would obey: controls, escapes, changes of direction."""
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


# revoke and status


def _revoke(arguments: argparse.Namespace) -> int:
    if arguments.session is not None and not re.fullmatch(r"[0-9a-fA-F]{32}", arguments.session):
        raise ConfigurationError("--session: requires 32 hexadecimal digits, received something else")
    if arguments.tag == "":  # an unset variable of a script, say
        raise ConfigurationError("--tag: requires a tag such as user:42, received none")
    store = _open(arguments.store)
    try:
        if arguments.session is not None:
            store.fence([session_key(bytes.fromhex(arguments.session))], ENDED)
            print(f"session {arguments.session.lower()} is ended")
        else:
            key, what = (EVERYTHING, "all sessions") if arguments.everything else (
                tag_key(arguments.tag), f"sessions with the tag {arguments.tag}")  # fmt: skip
            number = store.fence_now([key])
            print(_printable(f"{what} created until {_seconds(number)} are ended"))
    finally:
        store.close()
    return 0


def _status(arguments: argparse.Namespace) -> int:
    store = _open(arguments.store)
    try:
        status = store.status()
    finally:
        store.close()
    if arguments.json:
        print(json.dumps(status, indent=2, default=str))
    else:
        print(_table({name: _with_unit(name, value) for name, value in status.items()}))
    return 0


def _with_unit(name: str, value: Any) -> Any:
    """A value of ``status`` as people read it. The names are those of ``--json``, which has seconds since 1970."""
    if not isinstance(value, int):
        return value
    if name == "genesis":
        return _seconds(value)
    if name == "lifetime":
        return _duration(value)
    if name == "maxmemory" and value == 0:
        return "no limit"
    if name.endswith("_bytes") or name in ("used_memory", "maxmemory"):
        return f"{value} bytes"
    return f"{value} ms" if name.endswith("_ms") else value


def _seconds(unix: int) -> str:
    return _utc(unix * 1000, "seconds").replace("T", " ").replace("+00:00", " UTC")


def _duration(seconds: int) -> str:
    """Such as ``1 d 2 h 10 s``."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts) or "0 s"


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import run

    return run(once=arguments.once, port=arguments.port, insecure_http=arguments.insecure_http)
