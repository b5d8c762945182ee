"""Random numbers that depend on a seed and a name alone, and never on batch mates, order or worker."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, text: str, *, step: int = 0) -> np.random.Generator:
    """The random numbers of one thing at one step: Philox, keyed by seed and text, counting from the step."""
    return np.random.Generator(np.random.Philox(key=key(seed, text), counter=[0, 0, 0, step]))


def key(seed: int, text: str) -> int:
    """128 bits of a hash of both."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{text}".encode()).digest()[:16], "little")
