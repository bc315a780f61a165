"""Random numbers that nobody can predict or draw again: for private sampling and noise.

A claim of differential privacy holds against somebody who knows everything but the coins.
So the coins come from AES-256 in counter mode under a key from the operating system, and
the key is never chosen, seeded, stored, logged, copied or reused: there is no argument
for it, a generator cannot be pickled or copied, and a forked child makes a key of its
own. Nothing else of a run is drawn here: what must be repeatable has seeds of its own
(trainer.loop.randomness).

Invariants:
    1. Two generators never share a key, whatever rank, step or process they serve.
    2. A generator never gives the same keystream twice: its counter only goes up, and
       after 64 GiB, long before the keystream of a block cipher could be told from
       random bits (a bound of about n^2 / 2^129 for n blocks), a fresh key takes over.
    3. Integers, coins and subsets are exactly as stated; only real numbers are rounded.

Python cannot wipe memory: whoever can read this process can read the key.
"""

from __future__ import annotations

import math
import os
import threading
from typing import Final, NoReturn

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from trainer.privacy.errors import PrivacyError

Shape = int | tuple[int, ...]

# What privacy.json names as the source of the coins.
SOURCE: Final = "AES-256-CTR keyed from the operating system's generator"

_KEY_BYTES: Final = 32
_WORD_BYTES: Final = 8
# Zeros that are encrypted at one time: what the processor's cache holds.
_ZEROS: Final = memoryview(bytes(1 << 18))
# Keystream under one key, in bytes.
_KEY_LIFE_BYTES: Final = 1 << 36
# Values of one round of Box-Muller; its arrays fit the cache.
_ROUND: Final = 1 << 15
# Coins of one round: a data set of 100 million records need not cost a gigabyte.
_COINS: Final = 1 << 20
_WORDS: Final = 2.0**64


class SecretGenerator:
    """A cryptographic generator of random words, coins, subsets and noise.

    Threads may share one: each draw is made under a lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rekey()

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return `count` independent, uniform 64-bit words."""
        out = np.empty(count, dtype=np.uint64)
        target = out.view(np.uint8).data
        with self._lock:
            if os.getpid() != self._process:
                self._rekey()
            for begin in range(0, len(target), len(_ZEROS)):
                part = target[begin : begin + len(_ZEROS)]
                if self._used_bytes + len(part) > _KEY_LIFE_BYTES:
                    self._rekey()
                self._used_bytes += len(part)
                self._stream.update_into(_ZEROS[: len(part)], part)
        return out

    def coins(self, count: int, probability: float) -> npt.NDArray[np.bool_]:
        """Return `count` independent coins that are True with `probability`.

        The chance is exact but for being rounded down to a multiple of 2^-64: a coin is
        never True more often than it is accounted for.
        """
        if not 0.0 <= probability <= 1.0:
            raise PrivacyError(f"a probability of {probability!r} is not between 0 and 1")
        out = np.ones(count, dtype=np.bool_)
        if probability < 1.0:
            # Exact: a float64 below 1 times 2^64 is a float64, and floor rounds down.
            limit = np.uint64(math.floor(probability * _WORDS))
            for begin in range(0, count, _COINS):
                part = out[begin : begin + _COINS]
                np.less(self.words(part.size), limit, out=part)
        return out

    def below(self, count: int, bound: int) -> npt.NDArray[np.int64]:
        """Return `count` independent integers, each uniform in range(bound), exactly.

        Raises:
            PrivacyError: the bound is not from 1 to 2^63.
        """
        if not 1 <= bound <= 1 << 63:
            raise PrivacyError(f"there is no uniform integer below {bound}")
        # Words from the last, incomplete multiple of the bound are drawn again.
        limit = (1 << 64) - (1 << 64) % bound
        words = self.words(count)
        while (again := np.flatnonzero(words > np.uint64(limit - 1))).size:
            words[again] = self.words(again.size)
        return (words % np.uint64(bound)).astype(np.int64)

    def subset(self, count: int, size: int) -> npt.NDArray[np.int64]:
        """Return `size` of range(count), ascending: each subset is equally likely.

        The positions of the smallest of `count` random words; drawn again should two words
        be equal, so that ties favour nobody.
        """
        if not 0 <= size <= count:
            raise PrivacyError(f"{size} of {count} cannot be chosen")
        while True:
            words = self.words(count)
            if np.unique(words).size == count:
                chosen = np.argsort(words)[:size].astype(np.int64)
                chosen.sort()
                return chosen

    def normal(self, count: int) -> npt.NDArray[np.float64]:
        """Return `count` independent standard normal values, float64.

        Box and Muller (1958) in float64 from 64-bit uniforms, 53 or more of whose bits
        count. The radius takes its uniform as (word + 1/2) / 2^64, which is never 0, so
        there is no logarithm of 0; values reach 9.49, beyond which a normal value lies
        once in 4e20. See `gaussian` for what floating point does not guarantee.
        """
        out = np.empty(count, dtype=np.float64)
        for begin in range(0, count, _ROUND):
            part = out[begin : begin + _ROUND]
            half = (part.size + 1) // 2
            words = self.words(2 * half)
            radius = words[:half].astype(np.float64)
            radius += 0.5
            radius *= 1.0 / _WORDS
            np.log(radius, out=radius)
            radius *= -2.0
            np.sqrt(radius, out=radius)
            angle = words[half:].astype(np.float64)
            angle *= 2.0 * math.pi / _WORDS
            np.multiply(radius, np.cos(angle), out=part[:half])
            rest = part.size - half
            np.multiply(radius[:rest], np.sin(angle[:rest]), out=part[half:])
        return out

    def gaussian(self, shape: Shape, deviation: float = 1.0) -> npt.NDArray[np.float32]:
        """Return independent normal values, float32, mean 0.

        Computed in float64 (see `normal`) and rounded once to float32.

        What floating point does and does not guarantee: the values are not the real
        numbers that the theorem is about. Mironov ("On significance of the least
        significant bits for differential privacy", 2012) shows that which floating-point
        numbers a sampler can reach, and so which sums, may tell neighbouring inputs apart;
        adding float32 noise to a float32 sum has that weakness in principle.
        `trainer.privacy.noise` therefore adds in float64 and rounds the sum once, so that
        every float32 result stands for about 2^29 values before rounding: it makes the
        attack impractical, and proves nothing. The mode is recorded in the privacy report;
        where a proof for finite numbers is wanted, choose discrete noise.

        About 30 ns a value on one core of 2020s x86: a million take 30 ms.

        Raises:
            PrivacyError: the deviation is negative or no number.
        """
        _check_deviation(deviation)
        sizes = (shape,) if isinstance(shape, int) else shape
        values = self.normal(math.prod(sizes))
        values *= deviation
        return values.astype(np.float32).reshape(sizes)

    def _rekey(self) -> None:
        """Take a fresh key. The counter starts at 0: a key is used by one stream alone."""
        self._process = os.getpid()
        self._used_bytes = 0
        key = os.urandom(_KEY_BYTES)
        self._stream: CipherContext = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret generator cannot be pickled or copied: its coins are used once")

    def __repr__(self) -> str:
        return "SecretGenerator()"


def _check_deviation(deviation: float) -> None:
    if not (math.isfinite(deviation) and deviation >= 0):
        raise PrivacyError(f"a standard deviation of {deviation!r} is no number from 0 on")
