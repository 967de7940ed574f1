"""XAES-256-GCM against C2SP's vectors and accumulated hashes."""

from __future__ import annotations

import threading
from hashlib import shake_128

import pytest
from cryptography.exceptions import InvalidTag

from wsgi_rollsession.xaes import XAES256GCM

NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"


@pytest.mark.parametrize(
    ("key", "aad", "sealed"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (b"\x03" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_specification_vectors(key: bytes, aad: bytes, sealed: str) -> None:
    """The two examples of the specification, which have both values of the CMAC subkey's carry bit."""
    cipher = XAES256GCM(key)
    assert cipher.seal(NONCE, b"XAES-256-GCM", aad).hex() == sealed
    assert cipher.open(NONCE, bytes.fromhex(sealed), aad) == b"XAES-256-GCM"


def accumulated(iterations: int) -> str:
    """The specification's accumulated test: inputs from one SHAKE-128 stream, ciphertexts into another."""
    size = iterations * (32 + 24 + 2 + 2 * 255)
    source = shake_128(b"").digest(size)  # more than enough: lengths are random bytes
    hashed = shake_128()
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        return source[at - count : at]

    for _ in range(iterations):
        key, nonce = take(32), take(24)
        plaintext = take(take(1)[0])
        aad = take(take(1)[0])
        cipher = XAES256GCM(key)
        sealed = cipher.seal(nonce, plaintext, aad)
        assert cipher.open(nonce, sealed, aad) == plaintext
        hashed.update(sealed)
    return hashed.hexdigest(32)


def test_accumulated_10_000() -> None:
    """10,000 random inputs hash to the value that the specification gives."""
    assert accumulated(10_000) == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


@pytest.mark.slow
def test_accumulated_1_000_000() -> None:
    """A million random inputs hash to the value that the specification gives."""
    assert accumulated(1_000_000) == "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15"


@pytest.mark.parametrize("at", [0, 5, 11, 12, 27])
def test_a_changed_ciphertext_does_not_open(at: int) -> None:
    """Any changed byte of ciphertext or tag is refused."""
    cipher = XAES256GCM(b"\x01" * 32)
    sealed = bytearray(cipher.seal(NONCE, b"XAES-256-GCM", b""))
    sealed[at] ^= 1
    with pytest.raises(InvalidTag):
        cipher.open(NONCE, bytes(sealed), b"")


@pytest.mark.parametrize("size", [0, 12, 23, 25])
def test_nonce_size(size: int) -> None:
    """Only nonces of 24 bytes are taken."""
    with pytest.raises(ValueError, match="24 bytes"):
        XAES256GCM(bytes(32)).seal(bytes(size), b"", b"")


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_key_size(size: int) -> None:
    """Only keys of 32 bytes are taken."""
    with pytest.raises(ValueError, match="32 bytes"):
        XAES256GCM(bytes(size))


def test_threads_share_one_key() -> None:
    """One key used by eight threads at once gives what one thread would."""
    cipher = XAES256GCM(b"\x01" * 32)
    nonces = [bytes([i]) * 24 for i in range(64)]
    expected = [cipher.seal(nonce, b"text", b"") for nonce in nonces]
    failures: list[int] = []

    def work() -> None:
        for _ in range(50):
            for number, nonce in enumerate(nonces):
                if cipher.seal(nonce, b"text", b"") != expected[number]:
                    failures.append(number)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
