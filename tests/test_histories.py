"""Some hundred random histories; ``make histories`` has 200,000 of them. ``tests/histories`` is the machine."""

from __future__ import annotations

from collections import Counter

import pytest

from .histories.mutants import MUTANTS, hunt
from .histories.run import carry_out, explained

#: Seeds that are fixed: a suite that is red on some days only helps nobody.
SHARES = [(seed, 0, 50) for seed in range(1, 9)]
#: Mutants that are looked at in every run: each is noticed soon. ``python -m tests.histories --mutants`` has all.
QUICK = (
    "a pass run again takes another pair",
    "reads delete what is dead",
    "a logout ends only what is alive",
    "data are carried to another user",
    "regenerate() ends the session at its call",
    "a pass run again forgets what the one before has committed",
    "a roll does not ask the fences",
    "regenerate() makes a new id, and fences the old one's copies",
    "degrade rolls unchecked",
)


@pytest.mark.parametrize("share", SHARES, ids=lambda share: str(share[0]))
def test_histories_hold(share: tuple[int, int, int]) -> None:
    """Whatever browsers, thieves, clocks, operators and networks do in some dozens of steps, the invariants hold."""
    _, failures = carry_out(share)
    assert not failures, explained(failures[0][0])


def test_histories_meet_what_matters() -> None:
    """The histories are not about nothing: they log in and out, race, fail, are run again, and are stolen from."""
    counts: Counter[str] = Counter()
    for share in SHARES[:4]:
        counts += carry_out(share)[0]
    for situation in (
        "a login",
        "a new epoch",
        "a staged logout",
        "an anonymous session",
        "another pass of one environ",
        "a response that is too large",
        "a response in an outage",
        "identity taken out where nobody is",
        "cookies that a thief tried",
    ):
        assert counts[f"met: {situation}"] > 5, situation


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_follow_the_code(mutant: object) -> None:
    """What a mutant breaks is there."""
    with mutant.alive():  # type: ignore[attr-defined]
        pass


@pytest.mark.parametrize("name", QUICK)
def test_histories_notice(name: str) -> None:
    """A rule that is broken is noticed by some history."""
    index = next(index for index, mutant in enumerate(MUTANTS) if mutant.name == name)
    assert hunt(1, 400, index).histories is not None
