"""XAES-256-GCM: AES-256-GCM with 24-byte nonces, safe to draw at random.

Source: C2SP, "The XAES-256-GCM extended-nonce AEAD", https://c2sp.org/XAES-256-GCM.
Built on the AES-GCM and AES-ECB of ``cryptography``; checked against the specification's vectors and its
accumulated hashes in tests/test_xaes.py.
"""

from __future__ import annotations

from collections import deque

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_SIZE = 32
NONCE_SIZE = 24
TAG_SIZE = 16


class XAES256GCM:
    """One key. Safe to use from any thread.

    Args:
        key: 32 bytes, uniformly random.
    """

    __slots__ = ("_contexts", "_first", "_key", "_mask", "_second")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"an XAES-256-GCM key has {KEY_SIZE} bytes, not {len(key)}")
        self._key = key
        # Making an AES context costs far more than using one, and one context must not be used by
        # two threads at once: idle contexts wait here. deque.pop and append are atomic.
        self._contexts: deque[CipherContext] = deque()
        # The CMAC subkey K1 (SP 800-38B, 6.1).
        last = int.from_bytes(self._encrypt_blocks(bytes(16)), "big")
        subkey = ((last << 1) & ((1 << 128) - 1) ^ (0x87 if last >> 127 else 0)).to_bytes(16, "big")
        # M1 = 00 01 'X' 00 || N[:12] and M2 = 00 02 'X' 00 || N[:12]: what K1 makes of their first four bytes,
        # and what it will make of the rest.
        self._first = bytes(a ^ b for a, b in zip(b"\x00\x01X\x00", subkey))
        self._second = bytes(a ^ b for a, b in zip(b"\x00\x02X\x00", subkey))
        self._mask = int.from_bytes(subkey[4:], "big")

    def _encrypt_blocks(self, blocks: bytes) -> bytes:
        try:
            context = self._contexts.pop()
        except IndexError:
            # ECB is right here: the specification calls the bare block cipher on two single blocks.
            context = Cipher(algorithms.AES(self._key), modes.ECB()).encryptor()  # noqa: S305
        encrypted = context.update(blocks)
        self._contexts.append(context)
        return encrypted

    def _derive(self, nonce: bytes) -> AESGCM:
        if len(nonce) != NONCE_SIZE:
            raise ValueError(f"an XAES-256-GCM nonce has {NONCE_SIZE} bytes, not {len(nonce)}")
        rest = (int.from_bytes(nonce[:12], "big") ^ self._mask).to_bytes(12, "big")
        return AESGCM(self._encrypt_blocks(self._first + rest + self._second + rest))

    def seal(self, nonce: bytes, plaintext: bytes, additional_data: bytes) -> bytes:
        """The ciphertext, with its 16-byte tag at the end."""
        return self._derive(nonce).encrypt(nonce[12:], plaintext, additional_data)

    def open(self, nonce: bytes, ciphertext: bytes, additional_data: bytes) -> bytes:
        """The plaintext.

        Raises:
            cryptography.exceptions.InvalidTag: it was not sealed with this key, nonce and additional data.
        """
        return self._derive(nonce).decrypt(nonce[12:], ciphertext, additional_data)
