"""Readings made by hand: activations of one site, with image ids, in batches of any size."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from vitscope.data.source import ImageBatch
from vitscope.meters.reading import Reading
from vitscope.models.vision_model import TOKENS, Site


def site_of(values: torch.Tensor, *, prefix: int = 0) -> Site:
    places = values.shape[1] - prefix
    rows = next(rows for rows in range(int(places**0.5), 0, -1) if places % rows == 0)
    return Site("a.ffn", "a", TOKENS, values.shape[2], grid=(rows, places // rows), prefix_tokens=prefix)


def ids_of(count: int) -> list[str]:
    return [hashlib.sha256(str(index).encode()).hexdigest()[:32] for index in range(count)]


@pytest.fixture
def feed() -> Callable[..., Any]:
    """feed(meter, values "image place unit", ids, prefix=0, batch=4) -> the state that has read it all."""

    def run(
        meter: Any, values: Any, ids: Sequence[str] | None = None, *, prefix: int = 0, batch: int = 4
    ) -> Any:
        tensor = torch.as_tensor(np.asarray(values)) if not isinstance(values, torch.Tensor) else values
        names = tuple(ids or ids_of(len(tensor)))
        site = site_of(tensor, prefix=prefix)
        state = meter.start([site])
        for start in range(0, len(tensor), batch):
            part, some = tensor[start : start + batch], names[start : start + batch]
            pixels, labels = torch.zeros(len(some), 3, 1, 1), torch.zeros(len(some), dtype=torch.int64)
            state.read(Reading(site, part, ImageBatch(some, some, pixels, labels)))
        return state

    return run


@pytest.fixture
def ids() -> Callable[[int], list[str]]:
    """ids(count): that many image ids, in no order."""
    return ids_of
