"""What the site finders share: a plan of sites, and claims checked by value before anything is offered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope.arrays import Activations, Pixels
from vitscope.models.vision_model import MAP, TOKENS, Preprocessing, Site, VisionModel
from vitscope.tap import Call, read, tap

TOLERANCE = 1e-3
"""How closely a claim must hold, relative to the largest value: float32 errs by 1e-6, a wrong claim by 1."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """Where the tokens of a stream lie on the image: prefix tokens first, then the grid in raster order."""

    tokens: int
    grid: tuple[int, int]

    @property
    def prefix(self) -> int:
        """How many tokens lie nowhere on the image."""
        return self.tokens - self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Claim:
    """Sites that are offered only if something holds among the activations of `parts` on the sample."""

    parts: tuple[Site, ...]
    holds: Callable[..., bool]
    offers: tuple[Site, ...]
    otherwise: str = ""


@dataclass
class Plan:
    """One traced pass of a module, and the sites gathered from it so far.

    Attributes:
        module: the module under the microscope.
        sample: the images of the pass, as the module takes them.
        calls: every call of every module in the pass, in the order they began.
        notes: which sites are missing, and why.
    """

    module: nn.Module
    sample: Float[Tensor, "image rgb row column"]
    calls: tuple[Call, ...]
    notes: list[str] = field(default_factory=list)
    _timed: list[tuple[int, Site]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = Counter(call.path for call in self.calls)
        self._by_name = {(call.path, call.index): call for call in self.calls}

    def part(self, call: Call) -> nn.Module:
        """The module that was called."""
        return self.module.get_submodule(call.path)

    def weight_rank(self, call: Call) -> int:
        """Axes of the called module's `weight`: 4 in a convolution, 2 in a linear map, 0 without one."""
        weight = getattr(self.part(call), "weight", None)
        return weight.ndim if isinstance(weight, Tensor) else 0

    def raw_name(self, call: Call) -> str:
        """The name of the raw site that is the call's output."""
        return f"{call.path}~{call.index}" if self.counts[call.path] > 1 else call.path

    def children(self, parent: Call) -> list[Call]:
        """The calls that `parent` made itself, in order."""
        found: list[Call] = []
        for call in self.calls:
            if parent.start < call.start < parent.end and not (found and call.start < found[-1].end):
                found.append(call)
        return found

    def is_map(self, shape: Shape | None) -> bool:
        """Whether this is a feature map "image unit row column" of the sample."""
        return (
            shape is not None and len(shape) == 4 and shape[0] == len(self.sample) and self.lies_on(shape[2:])
        )

    def lies_on(self, cells: Sequence[int]) -> bool:
        """Whether rows and columns are in proportion to the image's, up to one cell of rounding."""
        (rows, columns), (height, width) = cells, self.sample.shape[-2:]
        return abs(rows * width - columns * height) <= max(height, width)

    def site(
        self,
        name: str,
        call: Call,
        *,
        side: Literal["input", "output"] = "output",
        axes: str = TOKENS,
        units: int | None = None,
        geometry: Geometry | None = None,
        derive: Callable[[Tensor], Tensor] | None = None,
    ) -> Site:
        """A semantic site at one end of a call. `units` is read off the shape where it is not given."""
        shape = (call.input if side == "input" else call.output) or (0,)
        grid = (shape[2], shape[3]) if axes == MAP else geometry.grid if geometry else None
        return Site(
            name,
            call.path,
            axes,
            units or (shape[1] if axes == MAP else shape[-1]),
            grid=grid,
            prefix_tokens=geometry.prefix if geometry else 0,
            side=side,
            call=call.index,
            calls=self.counts[call.path],
            derive=derive,
        )

    def add(self, *sites: Site) -> None:
        """Keep these sites, each at the moment it fires."""
        for site in sites:
            call = self._by_name[site.path, site.call]
            self._timed.append((call.start if site.side == "input" else call.end, site))

    def ordered(self) -> tuple[Site, ...]:
        """The sites kept, in forward order."""
        return tuple(site for _, site in sorted(self._timed, key=lambda timed: timed[0]))

    def check(self, claims: Sequence[Claim]) -> list[bool]:
        """Which claims hold, in one pass; a tensor is kept only until the last claim about it is settled."""
        results: dict[int, bool] = {}
        kept: dict[str, Activations] = {}

        def settle(site: Site, activations: Activations) -> None:
            kept[site.name] = activations.clone()
            for index, claim in enumerate(claims):
                if index not in results and all(part.name in kept for part in claim.parts):
                    results[index] = claim.holds(*(kept[part.name] for part in claim.parts))
            open_ = [claim for index, claim in enumerate(claims) if index not in results]
            for name in set(kept) - {part.name for claim in open_ for part in claim.parts}:
                del kept[name]

        parts = [part for claim in claims for part in claim.parts]
        if parts:
            with torch.no_grad(), tap(_as_model(self.module), parts, on_read=settle) as run:
                run(self.sample)
        return [results[index] for index in range(len(claims))]

    def read(self, images: Pixels, site: Site) -> Activations:
        """One site on other images than the sample."""
        with torch.no_grad():
            return read(_as_model(self.module), images, [site])[site.name]


def close(one: Tensor, other: Tensor) -> bool:
    """Equal up to `TOLERANCE` of the largest value."""
    return bool((one - other).abs().max() <= TOLERANCE * other.abs().max().clamp_min(1e-12))


def adds_up(one: Activations, other: Activations, total: Activations) -> bool:
    """Whether `total` is the sum of the other two."""
    return close(one + other, total)


def _as_model(module: nn.Module) -> VisionModel:
    """The module as a model that takes its pixels as they come."""
    plain = Preprocessing(size=(1, 1), resize=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return VisionModel(module, "the module", preprocessing=plain, sites=())
