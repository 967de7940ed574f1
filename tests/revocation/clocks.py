"""A host's clocks, which stand still until a test moves them."""

from __future__ import annotations

NOW = 1_800_000_000_000


class Clocks:
    """Time passes for both; the wall clock can also be set."""

    def __init__(self) -> None:
        self.wall_ms, self.monotonic_ms = NOW, 3_600_000

    def passes(self, ms: int) -> None:
        self.wall_ms += ms
        self.monotonic_ms += ms
