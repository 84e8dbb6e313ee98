"""Random numbers that depend only on (seed, epoch, dataset index, name of the draw).

An image gets the same numbers in every batch, process and resumed run, and there is no generator state to save. The
numbers are those of SplitMix64 seeded with the key (G. Steele et al., Fast Splittable Pseudorandom Number Generators,
OOPSLA 2014), computed for a whole batch at once. All steps but the last use integers, so the numbers are the same on
every machine. B images of a batch.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Draws:
    """Random numbers for B images; draws with different names are independent, so a new draw changes no other one."""

    def __init__(self, seed: int, epoch: int, indices: np.ndarray) -> None:
        """Set the key: `seed` and `epoch` from 0 to 2**64 - 1, `indices` (B,) int64 positions in the dataset."""
        run = _scramble(np.array([seed], np.uint64))
        self._keys = _scramble(_scramble(run ^ np.uint64(epoch)) ^ indices.astype(np.uint64))

    def __len__(self) -> int:
        return len(self._keys)

    def bits(self, name: str) -> np.ndarray:
        """Return 64 random bits per image: (B,) uint64."""
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return _scramble(self._keys ^ np.uint64(int.from_bytes(digest, "little")))

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Return a uniform number per image, `low` <= number < `high`: (B,) float64."""
        return low + (high - low) * ((self.bits(name) >> np.uint64(11)) * 2.0**-53)

    def chance(self, name: str, probability: float) -> np.ndarray:
        """Return True for each image with the given `probability`: (B,) bool."""
        return self.uniform(name) < probability

    def colours(self, name: str, images: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Return a random colour for each of N pixels: (N, 3) uint8.

        Args:
            name: of the draw.
            images: (N,) position in the batch, 0 to B - 1, of each pixel's image.
            pixels: (N,) number of the pixel within its image.
        """
        bits = _scramble(self.bits(name)[images] ^ pixels.astype(np.uint64))
        return bits.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :3]


def _scramble(state: np.ndarray) -> np.ndarray:
    """Return the next output of SplitMix64 for each `state`, a permutation of the 64-bit numbers; uint64 overflows."""
    bits = state + _GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
