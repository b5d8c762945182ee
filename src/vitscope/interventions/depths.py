"""Sweeps over depth in one pass: an intervention at every depth, and what depths have in common run once.

Inside these a model hands out several rows an image, one after another, one for each depth from 0 to the
number of its blocks; `TokenAccuracy` counts such rows. Sites of the blocks but the last read the plain model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vitscope.interventions.model import apart
from vitscope.interventions.trunk import Run, Tokens, Trunk, trunk
from vitscope.models.vision_model import VisionModel

Rows = Float[Tensor, "row stretch unit"]
"""What leaves a block: more images, and fewer tokens, after the last one."""


@contextmanager
def isolation_depths(model: VisionModel) -> Iterator[None]:
    """Row k of an image is the answer with `isolate_cls(model, blocks=k)`.

    A pass costs what half as many passes of the plain model cost as it has blocks: the tokens that run
    separately are common to all depths.

    Raises:
        Unsuited: as `isolate_cls`.
    """
    found = trunk(model)
    streams: list[Tensor] = []
    ways = {index: partial(_isolated, found, streams, index) for index in range(len(found))}
    with found.running(ways):
        yield


@contextmanager
def dropping_depths(model: VisionModel) -> Iterator[None]:
    """Row k of an image is the answer with `drop_patches_after(model, blocks=k)`.

    A pass costs little more than one of the plain model: only prefix tokens run beside it.

    Raises:
        Unsuited: as `drop_patches_after`.
    """
    found = trunk(model)
    alone: list[Tensor] = []
    ways = {index: partial(_dropped, found, alone, index) for index in range(len(found))}
    with found.running(ways):
        yield


def _isolated(found: Trunk, streams: list[Tensor], index: int, run: Run, tokens: Tokens) -> Rows:
    """One block of all streams that are joint by now, the plain one first; the last one is not, yet."""
    if index == 0:
        streams[:] = [tokens]
    separate = streams[-1]  # from here on there is a stream in which it is joint
    streams[:] = [*map(run, streams), apart(found, run, separate)]
    return _rows(found, streams) if index == len(found) - 1 else streams[0]


def _dropped(found: Trunk, alone: list[Tensor], index: int, run: Run, tokens: Tokens) -> Rows:
    """One block of all prefixes that are alone by now, in one batch, and of the plain stream."""
    prefix, _ = found.parts(tokens)
    before = [] if index == 0 else alone
    alone[:] = torch.split(run(torch.cat([*before, prefix])), len(tokens))
    plain = run(tokens)
    if index < len(found) - 1:
        return plain
    _, patches = found.parts(plain)
    return _rows(found, [*(torch.cat([one, patches], dim=1) for one in alone), plain])


def _rows(found: Trunk, streams: list[Tensor]) -> Rows:
    """All depths of an image one after another, with one patch: the answer is not read off patches."""
    kept = torch.stack([stream[:, : found.prefix + 1] for stream in streams])
    streams.clear()
    rows: Tensor = rearrange(kept, "depth image token unit -> (image depth) token unit")
    return rows
