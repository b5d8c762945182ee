"""The filters of a patch embedding, and what a picture looks like through them (Nguyen et al. 2022).

A patch embedding multiplies every patch, point by point, with a picture of its own for each unit, the filter,
and adds it all up. The product before the sum is the unit's *local view* of the patch; the local views of all
patches, each in its place, are its view of the image. Attention hands on what it read, so the view of a unit
at a token of a later level is the view of the image with each patch dimmed to the share of it that flowed
there, by `flow.rolled`. That leaves out values, MLPs and norms: it follows attention and explains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d

from vitscope.arrays import Pixels
from vitscope.errors import BadValue, Unsuited
from vitscope.flow import rolled_heads, rolling_sites, rollout
from vitscope.models.vision_model import Preprocessing, VisionModel

BRIGHT = 0.98
"""The share of a view's values that are not shown at full brightness: a few patches, such as a token's own,
outshine all others (the paper's rule is unknown)."""
HEADS = ("mean", "own")
"""Which heads attention is followed through: the paper's symbols leave it open."""


@dataclass(frozen=True, eq=False)
class Filters:
    """The filters of one model.

    Images are seen as the model normalises them: where it maps them to [-1, 1], black is -1 and the view of a
    black patch is the negative of the filter; only mid-grey gives nothing.

    Attributes:
        kernel: of every unit the picture that patches are multiplied with.
        bias: what is added to the sum; None where nothing is.
        grid: rows and columns of the patches.
        preprocessing: of the model.
    """

    kernel: Float[Tensor, "filter rgb row column"] = field(repr=False)
    bias: Float[Tensor, " filter"] | None = field(repr=False)
    grid: tuple[int, int]
    preprocessing: Preprocessing = field(repr=False)

    def __len__(self) -> int:
        return len(self.kernel)

    def views(self, pixels: Pixels, filters: Sequence[int]) -> Float[Tensor, "image filter rgb row column"]:
        """The view of some filters at level 0: every local view in its place. Signed, linear in the image.

        Raises:
            BadValue: there is no such filter, or the images are of another size.
        """
        shown = self._shown(pixels)
        wrong = [one for one in filters if not 0 <= one < len(self)]
        if wrong:
            raise BadValue(f"no filter {wrong[0]}: there are {len(self)} (0..{len(self) - 1})")
        down, across = self.grid
        tiled = repeat(
            self.kernel[list(filters)].to(shown),
            "filter rgb row column -> filter rgb (down row) (across column)",
            down=down,
            across=across,
        )
        return shown[:, None] * tiled

    def sums(self, pixels: Pixels) -> Float[Tensor, "image place filter"]:
        """The sum of every local view: the embedding without its bias and before positions are added."""
        return self._per_patch(self._shown(pixels), self.kernel)

    def sizes(self, pixels: Pixels) -> Float[Tensor, "image place filter"]:
        """The Euclidean norm of every local view."""
        squares = self._per_patch(self._shown(pixels) ** 2, self.kernel**2)
        return squares.clamp(min=0).sqrt()

    def products(self, pixels: Pixels, other: Pixels) -> Float[Tensor, "image place"]:
        """The inner product of every local view of one image with that of another, added over all filters."""
        both = self._shown(pixels) * self._shown(other)
        return self._per_patch(both, (self.kernel**2).sum(0, keepdim=True))[..., 0]

    def weighted(
        self, views: Float[Tensor, "*view rgb row column"], shares: Float[Tensor, "*view place"]
    ) -> Float[Tensor, "*view rgb row column"]:
        """A view at a later level: that of level 0, each patch times its share in the token.

        Args:
            views: of level 0.
            shares: of every patch, as a row of `flow.rolled` has them after its prefix tokens.
        """
        side = self.kernel.shape[-2:]
        plan = rearrange(shares, "... (down across) -> ... down across", down=self.grid[0])
        return views * plan.repeat_interleave(side[0], -2).repeat_interleave(side[1], -1).unsqueeze(-3)

    def components(
        self, count: int
    ) -> tuple[Float[Tensor, "component rgb row column"], Float[Tensor, " component"]]:
        """The first principal components of the filters (Dosovitskiy et al. 2021, Figure 7 left), and the
        share of the variance of each. Signs mean nothing."""
        flat = rearrange(self.kernel.double(), "filter rgb row column -> filter (rgb row column)")
        _, lengths, directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
        shape = self.kernel.shape[1:]
        return directions[:count].reshape(-1, *shape), (lengths**2 / (lengths**2).sum())[:count]

    def _shown(self, pixels: Pixels) -> Pixels:
        if tuple(pixels.shape[-2:]) != self.preprocessing.size:
            shape = tuple(pixels.shape[-2:])
            raise BadValue(f"images are {self.preprocessing.size}, as the model wants them, not {shape}")
        return self.preprocessing.normalise(pixels)

    def _per_patch(self, shown: Pixels, kernel: Tensor) -> Float[Tensor, "image place filter"]:
        found = conv2d(shown, kernel.to(shown), stride=kernel.shape[-2:])
        return rearrange(found, "image filter row column -> image (row column) filter")


def patch_filters(model: VisionModel) -> Filters:
    """The filters of the patch embedding of a model.

    Raises:
        Unsuited: its first convolution does not cut the image into patches that do not overlap.

    >>> patch_filters(vs.load("vitscope:vit_mini")).views(pixels, [3])   # doctest: +SKIP
    """
    maps = (part for part in model.module.modules() if isinstance(part, nn.Conv2d) and part.in_channels == 3)
    first = next(maps, None)
    if first is None or first.groups != 1 or not _cuts(first, model.preprocessing.size):
        raise Unsuited(
            f"{model.name} does not cut images into patches that do not overlap, so it has no patch filters. "
            "Give a model such as vit_tiny_patch16_224"
        )
    rows, columns = (
        length // side for length, side in zip(model.preprocessing.size, first.kernel_size, strict=True)
    )
    bias = None if first.bias is None else first.bias.detach()
    return Filters(first.weight.detach(), bias, (rows, columns), model.preprocessing)


def global_view(
    model: VisionModel,
    pixels: Pixels,
    unit: int,
    *,
    level: int,
    place: str = "center",
    heads: str = "mean",
    residual: bool = True,
) -> Float[Tensor, "image rgb row column"]:
    """What of the images reaches a unit of a token, seen through the unit's filter: its view at a level
    (Nguyen et al. 2022, method diagram), by the closed form `weighted`.

    Args:
        model: one whose blocks all have attention among the same tokens.
        pixels: in [0, 1], at the model's input size.
        unit: of the residual stream; its filter has the same number.
        level: how many blocks the token has passed: 0 is the embedding.
        place: "cls", "center", or "row,column".
        heads: "mean" averages heads; "own" follows the one that holds the unit, units being dealt to heads
            in order.
        residual: whether the skip connection counts as half.

    Raises:
        Unsuited: the model has no patch filters, or its attention cannot be rolled out.
        BadValue, UnknownAddress: there is no such unit, level, place or word.
    """
    filters = patch_filters(model)
    last = len(rolling_sites(model))
    if not 0 <= level <= last:
        raise BadValue(f"no level {level}: {model.name} has {last} blocks, so levels are 0 to {last}")
    first = rolling_sites(model)[0]
    query, prefix = first.place_index(place), first.prefix_tokens
    flow = flow_of(model, pixels, heads=heads, residual=residual)[level]
    views = filters.views(pixels.to(model.device), [unit])[:, 0]
    return filters.weighted(views, flow[:, head_of(unit, len(filters), flow.shape[1]), query, prefix:])


def flow_of(
    model: VisionModel, pixels: Pixels, *, heads: str, residual: bool
) -> Float[Tensor, "level image head query key"]:
    """Attention rolled out: one head that is the mean of all, for "mean", or all of them, for "own"."""
    if heads not in HEADS:
        raise BadValue(f"heads is 'mean' or 'own', not {heads!r}")
    if heads == "own":
        return rolled_heads(model, pixels, residual=residual)
    return rollout(model, pixels, residual=residual)[:, :, None]


def head_of(unit: int, units: int, heads: int) -> int:
    """The head that holds a unit, where units are dealt to heads in order."""
    return unit * heads // units


def displayed(view: Float[Tensor, "*view rgb row column"]) -> Float[Tensor, "*view row column rgb"]:
    """A view as the paper's figures show it: what is negative is black. Each is divided by the size that
    `BRIGHT` of its values stay below, zeros not counted."""
    flat = view.flatten(-3).abs()
    counted = torch.where(flat > 0, flat, torch.nan)
    bound = counted.nanquantile(BRIGHT, -1).nan_to_num(1.0)[..., None, None, None]
    return rearrange((view / bound).clamp(0, 1), "... rgb row column -> ... row column rgb")


def _cuts(first: nn.Conv2d, size: tuple[int, int]) -> bool:
    """Whether a convolution takes every pixel exactly once."""
    whole = all(length % side == 0 for length, side in zip(size, first.kernel_size, strict=True))
    plain = first.padding in ((0, 0), "valid") and first.dilation == (1, 1)
    return whole and plain and first.kernel_size == first.stride
