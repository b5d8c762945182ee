"""The skip connections of a model: which site is skipped, and which is added to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from vitscope.errors import UnknownSite
from vitscope.interventions.trunk import noise
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import read

FIRST, MLP = 0, 1
"""A block's first branch, which mixes places (a CNN block has only this one), and its MLP."""
CLOSE = 1e-4
"""A sum that differs by less than this share of the largest value is that of these two, up to rounding."""
AFTER = (torch.nn.Identity(), torch.nn.ReLU(), torch.nn.GELU(), torch.nn.SiLU(), torch.nn.Hardswish())
"""What a block on feature maps may do after its sum."""


@dataclass(frozen=True)
class Shortcut:
    """One skip connection.

    Attributes:
        block: the name of what leaves the block: "blocks.3", "stages.1.0".
        which: `FIRST` or `MLP`.
        base, branch: names of the sites whose sum is the stream.
    """

    block: str
    which: int
    base: str
    branch: str

    @property
    def kind(self) -> str:
        """The last word of its branch: "attn", "mix", "mlp", or "branch" of a block on feature maps."""
        return self.branch.rpartition(".")[2]


def shortcuts(model: VisionModel) -> list[Shortcut]:
    """The skip connections that a model's sites tell, in order.

    In blocks of attention or mixing they follow from the names. The base of a block on feature maps has no
    name of its own where the block changes the number of maps or their size: it is found among what the
    block's modules hand out, by adding up, which costs one pass of an image of noise.
    """
    names = {site.name for site in model.sites}
    found: list[Shortcut] = []
    for block, before in _blocks(names):
        first = next((f"{block}.{kind}" for kind in ("attn", "mix") if f"{block}.{kind}" in names), "")
        pairs = [(FIRST, first, before), (MLP, f"{block}.mlp", f"{block}.mid")]
        for which, branch, usual in pairs:
            base = f"{branch}.base" if f"{branch}.base" in names else usual
            if branch in names and base in names:
                found.append(Shortcut(block, which, base, branch))
    stages = [site.name for site in model.sites if re.fullmatch(r"stages\.\d+\.\d+", site.name)]
    branched = [name for name in stages if f"{name}.branch" in names]
    return found + (_on_maps(model, stages, branched) if branched else [])


def _blocks(names: set[str]) -> Iterator[tuple[str, str]]:
    """Every block with what came before it."""
    index = 0
    while f"blocks.{index}" in names or f"blocks.{index}.mid" in names:
        yield f"blocks.{index}", f"blocks.{index - 1}" if index else "embed"
        index += 1


def _on_maps(model: VisionModel, stages: list[str], branched: list[str]) -> list[Shortcut]:
    """The skip connections of blocks on feature maps whose base is found."""
    candidates = {name: _candidates(model, stages, name) for name in branched}
    wanted = {site.name: site for sites in candidates.values() for site in sites}
    for name in branched:
        wanted |= {each: model.sites.named(each) for each in (name, f"{name}.branch")}
    seen = read(model, noise(model, images=1), list(wanted.values()))
    found = []
    for name in branched:
        for site in candidates[name]:
            total = seen[site.name] + seen[f"{name}.branch"]
            if any(_same(after(total), seen[name]) for after in AFTER):
                found.append(Shortcut(name, FIRST, site.name, f"{name}.branch"))
                break
    return found


def _candidates(model: VisionModel, stages: list[str], name: str) -> list[Site]:
    """What may be the base of a block: what came before, else what one of its modules hands out."""
    branch, place = model.sites.named(f"{name}.branch"), stages.index(name)
    before = model.sites.named(stages[place - 1]) if place else None
    if before is None and any(site.name == "embed" for site in model.sites):
        before = model.sites.named("embed")
    every = [*([before] if before else []), *_inside(model, model.sites.named(name).path)]
    return [site for site in every if _shape(site) == _shape(branch) and site.path != branch.path]


def _inside(model: VisionModel, path: str) -> Iterator[Site]:
    """What the modules inside a module hand out, where they run once."""
    for name, _ in model.module.get_submodule(path).named_modules():
        try:
            yield model.sites.named(f"{path}.{name}" if name else path)
        except UnknownSite:
            continue


def _shape(site: Site) -> tuple[int, int]:
    return site.places, site.units


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= CLOSE * other.abs().max())
