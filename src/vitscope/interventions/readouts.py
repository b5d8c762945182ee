"""What a model would answer if it stopped at a block, and read its answer off one token or an average."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from vitscope.arrays import Activations
from vitscope.errors import Unsuited
from vitscope.interventions.model import head_site
from vitscope.interventions.trunk import answer, noise
from vitscope.meters.readouts import readings_of
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import Change, changed


def blocks_of(model: VisionModel) -> list[Site]:
    """The streams that leave the blocks and whose places lie on the image, in order."""
    rule = r"blocks\.\d+" if any(site.name == "blocks.0" for site in model.sites) else r"stages\.\d+\.\d+"
    return [site for site in model.sites if re.fullmatch(rule, site.name) and site.grid]


def streams_of(model: VisionModel) -> list[Site]:
    """Those of `blocks_of` that are of the size of the last one.

    Raises:
        Unsuited: the model has no blocks with places on the image.
    """
    found = blocks_of(model)
    if not found:
        raise Unsuited(f"{model.name} has no blocks with places on the image to read an answer off")
    sizes = [(site.places, site.units, site.prefix_tokens) for site in found]
    return [site for site, size in zip(found, sizes, strict=True) if size == sizes[-1]]


@contextmanager
def read_out_early(model: VisionModel) -> Iterator[None]:
    """Let the model answer once for every block and reading, as if the last block's tokens were all this one.

    The model hands out several rows an image, one after another: for every one of `streams_of`, its
    `readings_of` in order. What follows the blocks (final norm, head) is the model's own, trained for the
    last block and one reading only. Averages are of tokens as the head takes them, after a final norm that
    runs on tokens. `TokenAccuracy` counts such rows.

    Raises:
        Unsuited: the model has no such blocks, or the rest of it does not run on single tokens.
    """
    streams = streams_of(model)
    _check(model, streams)
    with changed(model, _changes(model, streams)):
        yield


def _changes(model: VisionModel, streams: list[Site]) -> dict[Site, Change]:
    """Streams are kept, handed on as images of their own by the last block, read where the head begins."""
    kept: dict[str, Tensor] = {}
    head, last = head_site(model), streams[-1]
    changes: dict[Site, Change] = {site: partial(_keep, kept, site.name) for site in streams[:-1]}
    if head.name == last.name:
        changes[last] = lambda tokens: _read(last, _together(kept, streams, tokens))
    else:
        changes[last] = partial(_together, kept, streams)
        changes[head] = partial(_read, head)
    return changes


def _check(model: VisionModel, streams: list[Site]) -> None:
    """Try it on noise."""
    rows = len(streams) * len(readings_of(streams[-1]))
    try:
        with changed(model, _changes(model, streams)):
            given = len(answer(model, noise(model, images=1)))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise Unsuited(
            f"what follows the blocks of {model.name} does not run on single tokens: {error}"
        ) from error
    if given != rows:
        raise Unsuited(f"{model.name} does not answer once for every token that it is given")


def _keep(kept: dict[str, Tensor], name: str, activations: Activations) -> Activations:
    kept[name] = activations.clone()
    return activations


def _together(
    kept: dict[str, Tensor], streams: list[Site], tokens: Activations
) -> Float[Tensor, "row place unit"]:
    """The streams of all blocks as images of their own, those of one image after another."""
    every = torch.stack([*(kept[site.name] for site in streams[:-1]), tokens], dim=1)
    kept.clear()
    return rearrange(every, "image block place unit -> (image block) place unit")


def _read(site: Site, tokens: Float[Tensor, "row place unit"]) -> Float[Tensor, "answer token unit"]:
    """Every reading as an image of its own, all of whose tokens are this one."""
    patches = tokens[:, site.prefix_tokens :]
    found = {"cls": tokens[:, 0], "patches": patches.mean(1), "all": tokens.mean(1), "first": patches[:, 0]}
    read = torch.stack([found[name] for name in readings_of(site)], dim=1)
    return repeat(read, "row reading unit -> (row reading) token unit", token=site.prefix_tokens + 1)
