"""What the memory store does beyond the contract."""

from __future__ import annotations

import pytest

from wsgi_rollsession import ConfigurationError
from wsgi_rollsession.revocation import StoreOptions, open_store
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING, session_key
from wsgi_rollsession.revocation.memory import MemoryRevocations

HOUR_MS = 3_600_000
A = session_key(b"a session's id..")


def test_it_says_that_it_is_not_shared() -> None:
    """The middleware refuses to serve several processes with it."""
    assert open_store("memory://", StoreOptions(HOUR_MS)).shared is False


@pytest.mark.parametrize("url", ["memory://", "memory:"])
def test_urls(url: str) -> None:
    """Its URL is the scheme alone."""
    assert isinstance(open_store(url, StoreOptions(HOUR_MS)), MemoryRevocations)


@pytest.mark.parametrize("url", ["memory://name", "memory:///", "memory://?x=1"])
def test_wrong_urls(url: str) -> None:
    """A URL that goes on is refused, and the message shows it."""
    with pytest.raises(ConfigurationError, match="requires just memory://") as caught:
        open_store(url, StoreOptions(HOUR_MS))
    assert repr(url) in str(caught.value)


def test_two_stores_are_two_sets() -> None:
    """Each store has a set of its own."""
    one, other = MemoryRevocations(StoreOptions(HOUR_MS)), MemoryRevocations(StoreOptions(HOUR_MS))
    one.fence([A], ENDED)
    assert other.confirm([A]) == [0]


def test_it_is_bounded_by_itself() -> None:
    """However many lifetimes pass, no more than the fences of one, and of the margins, are held."""
    now = 1_000 * HOUR_MS
    store = MemoryRevocations(StoreOptions(HOUR_MS), _clock=lambda: now)
    for step in range(1000):
        now += HOUR_MS // 20
        store.fence([session_key(step.to_bytes(16, "big"))], ENDED)
        assert store.lookup([session_key(step.to_bytes(16, "big")), EVERYTHING])[0] == ENDED
        assert store.status()["fences"] <= 20 + 5
