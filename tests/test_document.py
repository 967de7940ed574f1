"""The data of a session: parsed if somebody looks, and written only if something differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsgi_rollsession import SessionValueError
from wsgi_rollsession.document import EMPTY, Document, check, decode, identity

RAW = b'{"user":"alice","cart":[1,{"sku":"x"}],"n":1}'


@pytest.fixture
def document() -> Document:
    """Three keys, one of them nested."""
    return Document(RAW)


def test_it_is_not_parsed_until_somebody_looks() -> None:
    """Data that nobody looks at are given back as the very bytes, whatever they are."""
    raw = b"not even JSON"
    document = Document(raw)
    assert document.dump() is raw


@pytest.mark.parametrize(
    "look",
    [
        Document.read,
        lambda document: document.get("user"),
        lambda document: document.get("cart"),
        lambda document: document.get("cart")[1]["sku"],
        Document.copy,
        lambda document: document.copy().clear(),
        lambda document: document.copy()["cart"].append(2),
        lambda document: document.set("user", "alice"),
        lambda document: document.set("cart", [1, {"sku": "x"}]),
        lambda document: document.set("cart", (1, {"sku": "x"})),
        lambda document: (document.get("cart").append(2), document.get("cart").pop()),
        lambda document: (document.remove("n"), document.set("n", 1)),
        lambda document: (document.set("new", 1), document.remove("new")),
    ],
)
def test_what_changes_nothing(document: Document, look: Callable[[Document], object]) -> None:
    """Reading, assigning what is there, and undoing a change give back the very bytes."""
    look(document)
    assert document.dump() is RAW


@pytest.mark.parametrize("raw", [b'{"n": 1}', b'{"n":1.50}', b'{"n":"\\u00e9"}', b'{"n":1,"n":2}'])
def test_what_another_program_sealed_is_not_written_by_a_read(raw: bytes) -> None:
    """Data whose JSON is not spelt as here are the very bytes until something is assigned."""
    document = Document(raw)
    document.get("n")
    document.copy()
    assert document.dump() is raw


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda document: document.set("n", 2), {"n": 2}),
        (lambda document: document.set("n", 1.0), {"n": 1.0}),
        (lambda document: document.set("n", True), {"n": True}),
        (lambda document: document.set("more", None), {"more": None}),
        (lambda document: document.get("cart").append(2), {"cart": [1, {"sku": "x"}, 2]}),
        (lambda document: document.get("cart")[1].update(sku="y"), {"cart": [1, {"sku": "y"}]}),
        (lambda document: document.set("cart", [{"sku": "x"}, 1]), {"cart": [{"sku": "x"}, 1]}),
        (lambda document: document.set("größe", "日本 \u2028"), {"größe": "日本 \u2028"}),
    ],
)
def test_what_changes(document: Document, change: Callable[[Document], object], expected: dict[str, Any]) -> None:
    """A change is noticed, also in the inside of a value, and that of a type as much as that of a value."""
    change(document)
    raw = document.dump()
    assert raw != RAW
    assert repr(json.loads(raw)) == repr({**json.loads(RAW), **expected})


def test_removing(document: Document) -> None:
    """What was removed is gone, and the last key leaves an empty object."""
    for key in ("user", "cart"):
        document.remove(key)
    assert document.dump() == b'{"n":1}'
    document.remove("n")
    assert document.dump() is EMPTY
    with pytest.raises(KeyError):
        document.remove("n")
    with pytest.raises(KeyError):
        document.get("n")


def test_a_nested_change_is_checked(document: Document) -> None:
    """What was put into a value that was handed out is refused as an assignment is, by the name of its key."""
    document.get("cart").append({1, 2})
    with pytest.raises(SessionValueError, match=r"session\['cart'\]: JSON cannot carry a set"):
        document.dump()


def test_rebase(document: Document) -> None:
    """After the data were sealed, changes count from there."""
    document.set("n", 2)
    raw = document.dump()
    document.rebase(raw)
    assert document.dump() is raw
    assert document.assigned == set()
    document.set("n", 1)
    assert document.dump() == RAW
    assert document.assigned == {"n"}


def test_assigned(document: Document) -> None:
    """What was assigned is known by its key: also if it is what was there, and not what was only changed inside."""
    document.get("cart").append(2)
    document.set("n", 1)
    document.set("new", 1)
    document.set("gone", 1)
    document.remove("gone")
    assert document.assigned == {"n", "new"}


def test_keep_assigned(document: Document) -> None:
    """Of a session that becomes another user's, only what this request assigned is left."""
    document.get("cart").append("another user's")
    document.set("n", 1)
    document.set("user", "bob")
    document.keep_assigned()
    assert json.loads(document.dump()) == {"user": "bob", "n": 1}
    document.set("later", 1)
    assert json.loads(document.dump()) == {"user": "bob", "n": 1, "later": 1}


def test_keep_assigned_of_nothing() -> None:
    """If this request assigned nothing, nothing is left, whether or not anybody has looked."""
    document = Document(RAW)
    document.keep_assigned()
    assert document.dump() == EMPTY


def test_a_copy_shares_nothing(document: Document) -> None:
    """A copy is a plain dict, with the changes until now, and a later change of one is none of the other."""
    document.set("cart", (1, [2]))
    copied = document.copy()
    assert copied == {"user": "alice", "n": 1, "cart": [1, [2]]}
    copied["cart"][1].append(3)
    copied["user"] = "bob"
    assert document.copy()["cart"] == [1, [2]]
    document.set("user", "carol")
    assert copied["user"] == "bob"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(derandomize=True, database=None)
@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_round_trip(data: dict[str, Any]) -> None:
    """Whatever passes the check is read back as it was; what is equal to it is no change."""
    document = Document(EMPTY)
    for key, value in data.items():
        check(key, value)
        document.set(key, value)
    raw = document.dump()
    assert repr(decode(raw.decode("utf-8"))[0]) == repr(data)
    again = Document(raw)
    for key, value in again.copy().items():
        again.set(key, value)
    assert again.dump() is raw


@pytest.mark.parametrize("value", [None, False, "", [], {}, ()])
def test_nobody(value: object) -> None:
    """None, False, empty text and empty containers stand for nobody."""
    assert identity("user", value) is None


@pytest.mark.parametrize(
    ("value", "who"), [("alice", "alice"), (42, "42"), ("42", "42"), (0, "0"), ("0", "0"), (-1, "-1"), (" ", " ")]
)
def test_somebody(value: object, who: str) -> None:
    """Text and integers are an identity, zero too; a number and its text are the same user."""
    assert identity("user", value) == who


@pytest.mark.parametrize("value", [True, 1.0, 0.0, ["alice"], {"id": 1}, (1,), object(), b"alice", b""])
def test_no_identity(value: object) -> None:
    """Anything else cannot say who is logged in, and the error names the key."""
    with pytest.raises(SessionValueError, match=r"session\['user'\]: .* an identity that is"):
        identity("user", value)
