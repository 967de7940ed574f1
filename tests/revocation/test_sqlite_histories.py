"""Generated sequences of what others do to the files of a SQLite store: nothing confirmed is forgotten in silence.

A sequence has some workers (stores of this process, for speed; the fault tests have processes), which raise, look, end
and die, also in the middle of a commit; and somebody who removes, restores, truncates and overwrites any of the files.
After every step each worker, and at times a new one, is asked about every session whose end was confirmed.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from wsgi_rollsession import ConfigurationError, StoreUnavailable
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING
from wsgi_rollsession.revocation.sqlite import SQLiteRevocations, store
from wsgi_rollsession.revocation.sqlite.generation import LEASE

from .workers import HOUR_MS, report

FILES = ("", "-journal", "-stamp")


class Dies(BaseException):
    """What the hooks of a worker that is killed raise."""


class Log(logging.Handler):
    """How often a loss, and a new database, were told."""

    def __init__(self) -> None:
        super().__init__()
        self.losses = self.news = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.losses += "has lost fences" in record.getMessage()
        self.news += "is a new revocation database" in record.getMessage()


class World:
    """One database, its workers, and what is known to be confirmed."""

    def __init__(self, directory: Path, seed: int, clock: Callable[[], int]) -> None:
        self.clock = clock
        self.random = random.Random(seed)
        self.directory = directory
        self.path = directory / "data" / "r.db"
        self.path.parent.mkdir()
        self.workers: list[Any] = []
        self.confirmed: dict[
            bytes, int
        ] = {}  # key -> the largest number of EVERYTHING that does not refuse its session
        self.copies: list[Path] = []
        self.told: list[str] = []

    # What workers do

    def start(self) -> None:
        with suppress(ConfigurationError):  # it may be garbage just now
            self.workers.append(SQLiteRevocations(str(self.path), StoreOptions(HOUR_MS), _clock=self.clock))

    def end(self) -> None:
        if self.workers:
            self.workers.pop(self.random.randrange(len(self.workers))).close()

    def look(self) -> None:
        for worker in self.random.sample(self.workers, min(1, len(self.workers))):
            with suppress(StoreUnavailable):
                worker.lookup_now([EVERYTHING])

    def logout(self) -> None:
        if self.workers:
            self.logout_by(self.random.choice(self.workers))

    def logout_by(self, worker: Any) -> None:
        key = self.random.randbytes(16)
        revive(worker)
        with suppress(StoreUnavailable):
            (passed,) = worker.lookup_now([EVERYTHING])
            limit = max(passed, (self.clock() - 1) // 1000)
            worker.fence([key], ENDED)
            self.confirmed[key] = limit

    def die(self) -> None:
        """A worker is killed before, in the middle of, or after the commit of a logout."""
        if not self.workers:
            return
        worker = self.workers.pop(self.random.randrange(len(self.workers)))
        with suppress(StoreUnavailable, AttributeError):
            worker.lookup_now([EVERYTHING])
            generation, name = worker._files.generation, self.random.choice(["intend", "settle"])
            hook, is_early = getattr(generation, name), self.random.random() < 0.5

            def dies(*args: Any) -> None:
                if not is_early:
                    hook(*args)
                raise Dies

            def undoes_nothing(*args: Any) -> None:
                pass

            setattr(generation, name, dies)
            worker._undo = undoes_nothing
            with suppress(Dies):
                worker.fence([self.random.randbytes(16)], ENDED)
        worker.close()

    # What others do

    def some(self) -> list[Path]:
        chosen = [suffix for suffix in FILES if self.random.random() < 0.6] or [self.random.choice(FILES)]
        found = [Path(f"{self.path}{suffix}") for suffix in chosen]
        return [file for file in found if file.exists()]

    def copy(self) -> None:
        to = self.directory / f"copy{len(self.copies)}"
        shutil.copytree(self.path.parent, to)  # with the times of the files
        self.copies.append(to)

    def remove(self) -> None:
        for file in self.some():
            file.unlink()
        sleep(2.1)  # if nothing is left and nothing runs, two new databases within two seconds are one for a session

    def restore(self) -> None:
        if not self.copies:
            return
        source = self.random.choice(self.copies)
        for file in self.some() or [self.path]:
            if not (older := source / file.name).exists():
                continue
            if self.random.random() < 0.5:
                shutil.copy2(older, self.directory / "new")
                os.replace(self.directory / "new", file)
            else:  # in place; with the times of the copy, or not
                self.random.choice([shutil.copyfile, shutil.copy2])(older, file)

    def truncate(self) -> None:
        for file in self.some():
            os.truncate(file, self.random.choice([0, self.random.randrange(file.stat().st_size + 1)]))

    def overwrite(self) -> None:
        for file in self.some():
            with file.open("r+b") as opened:
                opened.seek(self.random.choice([0, self.random.randrange(file.stat().st_size + 1)]))
                opened.write(self.random.randbytes(self.random.choice([8, 4096, 16384])))

    def restore_all_while_nothing_runs(self) -> None:
        while self.workers:
            self.end()
        if self.copies:
            source = self.random.choice(self.copies)
            for file in source.iterdir():
                self.random.choice([shutil.copyfile, shutil.copy2])(file, self.path.parent / file.name)

    # What must hold

    def require_nothing_forgotten(self) -> None:
        for worker in [*self.workers]:
            revive(worker)
            with suppress(StoreUnavailable):  # nothing is accepted
                everything, *numbers = worker.lookup_now([EVERYTHING, *self.confirmed])
                accepted = [
                    key.hex()
                    for (key, limit), number in zip(self.confirmed.items(), numbers)
                    if number != ENDED and everything <= limit
                ]
                assert not accepted, f"{len(accepted)} of {len(self.confirmed)} accepted after {self.told}"

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def revive(worker: Any) -> None:
    """Time passes: a breaker tries again, and what a process knows is a lease old."""
    worker._reading._retry_at = worker._writing._retry_at = 0.0
    worker._current_until = 0.0


OURS = (World.start, World.end, World.look, World.logout, World.logout, World.logout, World.copy, World.die)
THEIRS = (World.remove, World.restore, World.restore, World.truncate, World.overwrite)


@contextmanager
def counting() -> Iterator[Log]:
    handler, logger = Log(), logging.getLogger("wsgi_rollsession")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)


def run(directory: Path, seed: int, theirs: tuple[Callable[[World], None], ...], steps: int = 14) -> tuple[World, Log]:
    world = World(directory, seed, clock)
    with counting() as log:
        try:
            for _ in range(2):
                world.start()
                world.logout()
            for _ in range(steps):
                step = world.random.choice(theirs if theirs and world.random.random() < 0.3 else OURS)
                world.told.append(step.__name__)
                step(world)
                if world.random.random() < 0.3:
                    world.start()
                    world.told.append("start")
                world.require_nothing_forgotten()
            world.start()
            world.require_nothing_forgotten()
        finally:
            world.close()
    return world, log


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A directory in memory if there is one; and when a store waits for long, time passes quickly."""
    monkeypatch.setattr(store, "monotonic", lambda: time.monotonic() + passed_s)
    monkeypatch.setattr(store, "sleep", sleep)
    base = Path("/dev/shm")
    directory = base / f"rollsession-{os.getpid()}" if os.access(base, os.W_OK) else tmp_path / "fast"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


passed_s = 0.0


def clock() -> int:
    return int((time.time() + passed_s) * 1000)


def sleep(seconds: float) -> None:
    global passed_s
    if seconds < 2 * LEASE:
        time.sleep(seconds)
    else:
        passed_s += seconds


def run_many(directory: Path, seeds: range, theirs: tuple[Callable[[World], None], ...]) -> Iterator[tuple[World, Log]]:
    for seed in seeds:
        (directory / str(seed)).mkdir()
        try:
            yield run(directory / str(seed), seed, theirs)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        shutil.rmtree(directory / str(seed))


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 4000), marks=[pytest.mark.slow])], ids=len)
@pytest.mark.timeout(3600)
def test_nothing_is_forgotten_in_silence(fast: Path, seeds: range) -> None:
    """Whatever is done to the files: who was logged out is refused at once, by every worker, and each loss is told."""
    losses = confirmed = 0
    for world, log in run_many(fast, seeds, (*THEIRS, World.restore_all_while_nothing_runs)):
        losses += log.losses
        confirmed += len(world.confirmed)
        assert log.losses <= sum(step not in {ours.__name__ for ours in OURS} for step in world.told), world.told
    assert losses > len(seeds) / 4
    report(
        "generated sequences: any of the files removed, restored from an older copy (by renaming or in place, with its"
        " times or not), truncated, overwritten, with and without running workers, which are killed in the middle",
        "nothing confirmed is forgotten in silence; each loss is told, once",
        f"{len(seeds)} sequences, {confirmed} logouts confirmed, 0 of them accepted afterwards; {losses} losses told",
    )


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 1000), marks=[pytest.mark.slow])], ids=len)
@pytest.mark.timeout(3600)
def test_nobody_is_logged_out_for_nothing(fast: Path, seeds: range) -> None:
    """Workers that start, end and are killed, also in the middle of a commit, lose nothing, and nothing is told."""
    for world, log in run_many(fast, seeds, ()):
        assert (log.losses, log.news) == (0, 1), world.told
    report(
        "generated sequences: workers start, end, and are killed before, in the middle of, and after their commits",
        "nothing is lost, nobody is logged out for nothing",
        f"{len(seeds)} sequences, 0 losses told",
    )


def test_what_holds_is_asked_at_once(fast: Path) -> None:
    """A logout that has returned is seen by a worker that has looked a lease ago, and not much later."""
    world = World(fast, 0, clock)
    for _ in range(2):
        world.start()
        world.look()
    one, other = world.workers
    for n in range(20):
        key = bytes([n]) * 16
        other.lookup_now([key])
        one.fence([key], ENDED)
        assert other.lookup_now([key]) == [ENDED]
    assert LEASE < 0.02
    world.close()
