"""A permutation of numbers that follows from a seed: what a sweep's sample is drawn with. Pure."""

from __future__ import annotations

import hashlib
import math

_ROUNDS = 8
_WORD = 2**64 - 1


class Shuffle:
    """A permutation of 0..size-1 that follows from a seed, each number by itself.

    A Feistel network over a product of two nearly equal numbers that is a little too large;
    what comes out too large goes in again (Black and Rogaway 2002, "Ciphers with arbitrary
    finite domains"). So a sample of N needs no memory, and one of M > N begins with it.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._left = math.isqrt(max(size - 1, 0)) + 1
        self._right = -(-size // self._left)
        digest = hashlib.blake2b(f"{seed}".encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = [int.from_bytes(digest[8 * i : 8 * i + 8], "big") for i in range(_ROUNDS)]

    def forward(self, number: int) -> int:
        """Return where a number goes."""
        while True:
            left, right = divmod(number, self._right)
            for i, key in enumerate(self._keys):
                if i % 2:
                    right = (right + _mixed(left + key)) % self._right
                else:
                    left = (left + _mixed(right + key)) % self._left
            number = left * self._right + right
            if number < self._size:
                return number

    def backward(self, number: int) -> int:
        """Return what goes there."""
        while True:
            left, right = divmod(number, self._right)
            for i, key in reversed(list(enumerate(self._keys))):
                if i % 2:
                    right = (right - _mixed(left + key)) % self._right
                else:
                    left = (left - _mixed(right + key)) % self._left
            number = left * self._right + right
            if number < self._size:
                return number


def _mixed(word: int) -> int:
    """Return 64 well mixed bits (SplitMix64's finaliser)."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _WORD
    return word ^ (word >> 31)
