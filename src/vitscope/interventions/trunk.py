"""The blocks of a model that carry prefix tokens and patches side by side, and how to run them another way.

Which model has such blocks is told by its sites: every `blocks.i` is a module that takes the stream in and
hands it out, with prefix tokens from the first block on. What the answer is read off is told by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from vitscope.arrays import Pixels
from vitscope.errors import BadValue, Unsuited, VitscopeError
from vitscope.models.substitute import first_tensor, with_first
from vitscope.models.vision_model import TOKENS, Site, VisionModel
from vitscope.tap import changed, rerouted, tap

Tokens = Float[Tensor, "image token unit"]
Prefix = Float[Tensor, "image prefix unit"]
Patches = Float[Tensor, "image patch unit"]
Run = Callable[[Tokens], Tokens]
"""Runs a block as the model has it on some tokens; all else that the model gives it stays as it is."""
Way = Callable[[Run, Tokens], Tokens]
"""Another way to run a block: given how it runs, and the tokens that enter, the tokens that leave."""

SAME = 1e-4
"""Answers, or tokens, that differ by less than this share of their size are the same, up to rounding."""


_READS_PREFIX: WeakKeyDictionary[VisionModel, bool] = WeakKeyDictionary()
"""Whether the answer of a model is read off its prefix tokens alone."""


@dataclass(frozen=True)
class Trunk:
    """The blocks of a model on one stream of prefix tokens and patches.

    Attributes:
        model: the model.
        blocks: the sites of the streams that leave them, in order.
    """

    model: VisionModel
    blocks: tuple[Site, ...]

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def prefix(self) -> int:
        """How many prefix tokens there are: CLS, distillation, registers."""
        return self.blocks[0].prefix_tokens

    def checked(self, blocks: int) -> int:
        """A number of blocks, if the model has as many.

        Raises:
            BadValue: it is negative, or larger than the model.
        """
        if not 0 <= blocks <= len(self):
            raise BadValue(f"blocks must be 0 to {len(self)}, the blocks of {self.model.name}, not {blocks}")
        return blocks

    def parts(self, tokens: Tokens) -> tuple[Prefix, Patches]:
        """The prefix and the patches among tokens; one of them is empty where other interventions took it."""
        count, places = tokens.shape[1], self.blocks[0].places
        first = {places: self.prefix, self.prefix: self.prefix, places - self.prefix: 0}.get(count)
        if first is None:
            raise Unsuited(
                f"a block of {self.model.name} takes {count} tokens, but {places} leave it: "
                "it is not certain which of them are patches"
            )
        return tokens[:, :first], tokens[:, first:]

    @contextmanager
    def running(self, ways: Mapping[int, Way]) -> Iterator[None]:
        """Run these blocks, by their number, in these ways."""
        with ExitStack() as stack:
            for index, way in ways.items():
                module = self.model.module.get_submodule(self.blocks[index].path)
                stack.enter_context(rerouted(module, partial(_run, self, index, way)))
            yield


def trunk(model: VisionModel) -> Trunk:
    """The blocks of a model whose answer is read off prefix tokens.

    Costs one forward pass of two images of noise, once for each model.

    Raises:
        Unsuited: there is no prefix token, or not from the first block on; its blocks are no modules on one
            stream; or the answer is not read off prefix tokens alone.
    """
    blocks = tuple(model.sites.named(f"blocks.{index}") for index in range(_count(model)))
    if not blocks:
        raise Unsuited(f"{model.name} has no transformer blocks: there are no tokens to keep apart")
    lacking = [site.name for site in blocks if not site.prefix_tokens or site.grid is None]
    if len(lacking) == len(blocks):
        raise Unsuited(f"{model.name} has no CLS token beside the patches in its blocks")
    if lacking:
        raise Unsuited(f"{model.name} has no CLS token in {lacking[0]}: it joins the patches later")
    for site in blocks:
        if (site.places, site.units, site.prefix_tokens) != _size(blocks[0]):
            raise Unsuited(f"the blocks of {model.name} are not on one stream: {site.name} has another size")
        if site.axes != TOKENS or site.derive or site.function or site.side != "output" or site.calls != 1:
            raise Unsuited(f"{site.name} of {model.name} is no module that hands on all tokens in order")
    found = Trunk(model, blocks)
    if model not in _READS_PREFIX:
        _READS_PREFIX[model] = _reads_prefix_alone(found)
    if not _READS_PREFIX[model]:
        raise Unsuited(
            f"the answer of {model.name} is not read off its prefix tokens alone but off its patches: "
            "what CLS knows by itself does not show in it"
        )
    return found


def noise(model: VisionModel, *, images: int) -> Float[Tensor, "{images} rgb row column"]:
    """Images of noise in [0, 1], always the same."""
    rows, columns = model.preprocessing.size
    return torch.rand(images, 3, rows, columns, generator=torch.Generator().manual_seed(0))


def answer(model: VisionModel, pixels: Pixels) -> Float[Tensor, "answer unit"]:
    """What the model hands out, in eval mode and without gradients."""
    with torch.no_grad(), tap(model, [], on_read=lambda *_: None, early_exit=False) as run:
        output = run(pixels)
    return first_tensor(output)


def alike(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding, by the largest value."""
    return bool((one - other).abs().max() <= SAME * other.abs().max())


def _count(model: VisionModel) -> int:
    names = {site.name for site in model.sites}
    count = 0
    while f"blocks.{count}" in names:
        count += 1
    return count


def _size(site: Site) -> tuple[int, int, int]:
    return site.places, site.units, site.prefix_tokens


def _reads_prefix_alone(found: Trunk) -> bool:
    """Whether the answer stays the same where the patches that leave the last block are others."""

    def swapped(tokens: Tokens) -> Tokens:
        prefix, patches = found.parts(tokens)
        other = patches[1].flip(-1)  # other values of the same size
        return torch.stack([tokens[0], torch.cat([prefix[1], other])])

    pixels = repeat(noise(found.model, images=1), "1 rgb row column -> image rgb row column", image=2)
    with changed(found.model, {found.blocks[-1]: swapped}):
        plain, other_patches = answer(found.model, pixels)
    return alike(other_patches, plain)


def _run(found: Trunk, index: int, way: Way, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Stands in for the forward of a block."""
    name = next(iter(kwargs), "") if not args else ""
    given = args[0] if args else kwargs.get(name)
    if not isinstance(given, Tensor) or given.ndim != 3:
        raise Unsuited(f"block {index} of {found.model.name} does not take tokens first")
    handed_out: list[Any] = []

    def run(tokens: Tokens) -> Tokens:
        try:
            named = kwargs if args else {**kwargs, name: tokens}
            output = original(*(tokens for _ in args[:1]), *args[1:], **named)
        except (VitscopeError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if tokens.shape[1] == given.shape[1] or "memory" in str(error):
                raise
            raise Unsuited(
                f"block {index} of {found.model.name} does not run on {tokens.shape[1]} of its "
                f"{given.shape[1]} tokens, as blocks do that hold relative positions or rotations: {error}"
            ) from error
        handed_out.append(output)
        return first_tensor(output)

    made = way(run, given)
    return with_first(handed_out[-1], made) if handed_out else made
