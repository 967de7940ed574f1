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

    __slots__ = ("_blocks", "_contexts", "_key")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"an XAES-256-GCM key has {KEY_SIZE} bytes, not {len(key)}")
        self._key = key
        # Making an AES context costs thirty times what using one does, and one context must not be used by
        # two threads at once: idle contexts wait here. deque.pop and append are atomic.
        self._contexts: deque[CipherContext] = deque()
        # The CMAC subkey K1 (SP 800-38B, 6.1).
        last = int.from_bytes(self._encrypt_blocks(bytes(16)), "big")
        subkey = (last << 1) & ((1 << 128) - 1) ^ (0x87 if last >> 127 else 0)
        # M1 ^ K1 and M2 ^ K1, side by side, still lacking the first half of the nonce in their low 96 bits.
        first = subkey ^ int.from_bytes(b"\x00\x01X\x00" + bytes(12), "big")
        second = subkey ^ int.from_bytes(b"\x00\x02X\x00" + bytes(12), "big")
        self._blocks = first << 128 | second

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
        half = int.from_bytes(nonce[:12], "big")
        return AESGCM(self._encrypt_blocks((self._blocks ^ (half << 128 | half)).to_bytes(32, "big")))

    def seal(self, nonce: bytes, plaintext: bytes, additional_data: bytes) -> bytes:
        """The ciphertext, with its 16-byte tag at the end."""
        return self._derive(nonce).encrypt(nonce[12:], plaintext, additional_data)

    def open(self, nonce: bytes, ciphertext: bytes, additional_data: bytes) -> bytes:
        """The plaintext.

        Raises:
            cryptography.exceptions.InvalidTag: it was not sealed with this key, nonce and additional data.
        """
        return self._derive(nonce).decrypt(nonce[12:], ciphertext, additional_data)
