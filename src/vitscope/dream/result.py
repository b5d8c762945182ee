"""What dreaming returns: a picture, and how far it can be trusted."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vitscope.errors import BadValue, NotWritable, suggestion
from vitscope.notebook import Picture, card, line, pictures, sentence
from vitscope.provenance import TEXT_CHUNK, Provenance

ALPHAS = ("opaque", "transparency")
"""How a dream can be saved."""

OPAQUE_FROM = 0.8
"""The quantile of a transparency from which a pixel is opaque (Horama `plots.plot_maco`)."""


@dataclass(frozen=True, eq=False)
class Dream:
    """A picture synthesised to excite one objective, and how far it can be trusted.

    Attributes:
        address: the unit's address, or the objective's formula.
        pixels: the image, in [0, 1]; never anything but finite.
        score: the objective of the image itself, shown to the model without augmentation. None where it
            diverged.
        trace: mean objective over the augmented copies, step by step, for as long as it was finite; in the
            warm-up of a recipe the objective before the activation function.
        trust: `status` is "ok", "dead" (the objective never moved) or "diverged" (it left the finite
            numbers, twice); `robust` is the mean objective over 32 fresh augmentations, drawn as half-way
            through the recipe; `start` is the objective of the canvas before the first step; `retried`
            tells that a first try diverged.
        seed: the seed that made it: the one asked for, or the next where that one diverged.
        recipe: the recipe's name.
        provenance: everything needed to make it again.
        transparency: how much the objective depended on every pixel while it was climbed: absolute slopes,
            summed over colours and steps (Fel et al. 2023; Xplique `maco.py`), the largest being 1. Nobody
            looked where it is 0. None where it was not recorded or did not stay finite.
    """

    address: str
    pixels: Float[Tensor, "rgb row column"]
    score: float | None
    trace: Float[Tensor, " step"]
    trust: dict[str, Any]
    seed: int
    recipe: str
    provenance: Provenance = field(repr=False)
    transparency: Float[Tensor, "row column"] | None = field(default=None, repr=False)

    def save(self, path: str | Path, *, alpha: str = "opaque") -> Path:
        """Write a PNG that carries the provenance in a text chunk; its folder is made where it is missing.

        Args:
            path: the file.
            alpha: "transparency" makes pixels transparent that the objective did not depend on: the greatest
                fifth is opaque (Horama `plots.plot_maco`, `percentile_alpha=80`), the rest in proportion.

        Raises:
            NotWritable: the file cannot be written.
            BadValue: there is no transparency, or no such alpha.
        """
        path = Path(path)
        content = self._png(alpha)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise NotWritable(f"cannot write {path}: {error.strerror}") from error
        return path

    def describe(self) -> dict[str, Any]:
        """The JSON of `vitscope dream`, without the file's path."""
        names = ("address", "recipe", "seed", "score", "trust")
        return {name: getattr(self, name) for name in names}

    def _repr_png_(self) -> bytes:
        return self._png("opaque")

    def _repr_html_(self) -> str:
        shown = Picture(self._png("opaque"), f"A picture synthesised to excite {self.address}", width=224)
        trust = {name.replace("_", " "): value for name, value in self.trust.items()}
        made = {"recipe": self.recipe, "seed": self.seed, "model": self.provenance.model}
        climb = line(self.trace.tolist(), alt="score by step")
        return card(
            self.address, pictures([shown]), sentence({"score": self.score, **trust}), climb, sentence(made)
        )

    def _png(self, alpha: str) -> bytes:
        channels = self.pixels.cpu()
        if alpha == "transparency":
            channels = torch.cat([channels, rearrange(self._opacity(), "row column -> 1 row column")])
        elif alpha != "opaque":
            raise BadValue(f"no alpha {alpha!r}.{suggestion(alpha, ALPHAS)} There are: {', '.join(ALPHAS)}.")
        levels = rearrange(
            (channels * 255).round().to(torch.uint8), "channel row column -> row column channel"
        )
        text = PngInfo()
        text.add_text(TEXT_CHUNK, self.provenance.to_json())
        file = io.BytesIO()
        Image.fromarray(levels.numpy()).save(file, format="PNG", pnginfo=text)
        return file.getvalue()

    def _opacity(self) -> Float[Tensor, "row column"]:
        if self.transparency is None:
            raise BadValue(f"the dream of {self.address} has no transparency: its slopes did not stay finite")
        full = torch.quantile(self.transparency.flatten(), OPAQUE_FROM)
        return (self.transparency / full.clamp(min=torch.finfo(full.dtype).tiny)).clamp(max=1)
