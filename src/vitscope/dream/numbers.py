"""The random numbers of dreams, drawn per unit, so that a dream does not depend on its batch mates, their
order or the worker."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch.quasirandom import SobolEngine

from vitscope.draws import generator, key

Drawn: TypeAlias = npt.NDArray[Any]

AXES = 16
"""How many numbers a copy may draw evenly in one step; a shift needs 2, a change of colours 6."""


@runtime_checkable
class Numbers(Protocol):
    """What augmentations draw from: the part of `numpy.random.Generator` that they use."""

    def random(self, size: Any = None, dtype: Any = ...) -> Drawn:
        """Uniform on [0, 1)."""
        ...

    def uniform(self, low: float | int = ..., high: float | int = ..., size: Any = None) -> Drawn:
        """Uniform on [low, high)."""
        ...

    def integers(self, low: int, high: int, size: Any = None, *, endpoint: bool = ...) -> Drawn:
        """Whole numbers, uniform on low..high, with the end where `endpoint`."""
        ...

    def standard_normal(self, size: Any = None, dtype: Any = ...) -> Drawn:
        """Gaussian, with mean 0 and deviation 1."""
        ...

    def choice(self, options: Any, size: Any = None) -> Drawn:
        """Some of a list, each equally likely."""
        ...


class EvenNumbers:
    """Numbers of one unit at one step that are spread evenly over all copies of all steps.

    A scrambled Sobol sequence: its points fill a cube far more evenly than independent ones, so the mean of a
    few hundred augmentations is nearer to their expectation. The first axis of what is drawn counts copies.
    Where it does not, or more is drawn than the sequence has axes, numbers are independent.

    Args:
        seed, text: the key, as of `generator`.
        step: the step, from 0.
        steps: how many there are.
        copies: points a step.
    """

    def __init__(self, seed: int, text: str, *, step: int, steps: int, copies: int) -> None:
        self._points = _points(seed, text, steps * copies)[step * copies : (step + 1) * copies]
        self._independent = generator(seed, text, step=1 + step)
        self._used = 0

    def random(self, size: Any = None, dtype: Any = np.float64) -> Drawn:
        """Uniform on [0, 1)."""
        shape = tuple(size) if isinstance(size, Sequence) else () if size is None else (size,)
        count = int(np.prod(shape[1:]))
        if not shape or shape[0] != len(self._points) or self._used + count > AXES:
            other: Drawn = np.asarray(self._independent.random(size, dtype))
            return other
        start, self._used = self._used, self._used + count
        drawn: Drawn = self._points[:, start : self._used].reshape(shape).astype(dtype)
        return drawn

    def uniform(self, low: float | int = 0.0, high: float | int = 1.0, size: Any = None) -> Drawn:
        """Uniform on [low, high)."""
        drawn: Drawn = low + (high - low) * self.random(size)
        return drawn

    def integers(self, low: int, high: int, size: Any = None, *, endpoint: bool = False) -> Drawn:
        """Whole numbers, uniform on low..high, with the end where `endpoint`."""
        return np.floor(self.uniform(low, high + endpoint, size)).astype(np.int64)

    def standard_normal(self, size: Any = None, dtype: Any = np.float64) -> Drawn:
        """Gaussian, with mean 0 and deviation 1."""
        inverse = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])
        drawn: Drawn = inverse(np.clip(self.random(size), 1e-9, 1 - 1e-9)).astype(dtype)
        return drawn

    def choice(self, options: Any, size: Any = None) -> Drawn:
        """Some of a list, each equally likely."""
        return np.asarray(options)[self.integers(0, len(options), size)]


@lru_cache(maxsize=512)
def _points(seed: int, text: str, count: int) -> Drawn:
    seed = key(seed, text) % (1 << 31)
    engine: Any = SobolEngine(AXES, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    points: Drawn = engine.draw(count).double().numpy()
    return points
