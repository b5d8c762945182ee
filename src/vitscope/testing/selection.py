"""Which sites of a model the laws of its contract speak of, found by their names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from vitscope.errors import UnknownSite
from vitscope.models.vision_model import Site, VisionModel


def numbers_in(pattern: str, names: Iterable[str]) -> list[int]:
    """What the first group of a pattern finds in names, each number once, in order."""
    return sorted({int(found[1]) for name in names if (found := re.fullmatch(pattern, name))})


def blocks_of(model: VisionModel) -> list[str]:
    """The names of the blocks of a transformer, in order."""
    return [f"blocks.{index}" for index in numbers_in(r"blocks\.(\d+)", [site.name for site in model.sites])]


def branch_of(model: VisionModel, block: str) -> str:
    """Places are mixed by attention, or by something else."""
    return "mix" if any(site.name.startswith(f"{block}.mix") for site in model.sites) else "attn"


def patterns_of(model: VisionModel) -> list[Site]:
    """The sites of attention weights."""
    return [site for site in model.sites if site.keys is not None]


def raw_sites(model: VisionModel, path: str) -> list[Site]:
    """The raw site of a module that runs once, if it has one."""
    try:
        site = model.sites.named(path)
    except UnknownSite:
        return []
    return [] if site.semantic else [site]


def few_sites(model: VisionModel) -> list[Site]:
    """A hidden layer and the stream in the middle, and the end."""
    names = [site.name for site in model.sites]
    outs = [name for name in names if re.fullmatch(r"blocks\.\d+|stages\.\d+\.\d+", name)]
    hidden = [name for name in names if name.endswith(".ffn")]
    ends = [name for name in names if name in ("logits", "embedding")]
    chosen = [*hidden[len(hidden) // 2 :][:1], *outs[len(outs) // 2 :][:1], *ends]
    return [model.sites.named(name) for name in chosen]


def sites_after(model: VisionModel, site: Site) -> Iterator[Site]:
    """Sites on modules of later blocks than that of a site; queries may be shared by several blocks."""
    own = numbers_in(r"blocks\.(\d+).*", [site.name])
    for other in model.sites if own else ():
        number = numbers_in(r"blocks\.(\d+).*", [other.name])
        own_part = re.fullmatch(r"blocks\.\d+(\.(norm1|norm2|attn|mix|mlp))?", other.name)
        if own_part and number > own and other.side == "output" and not other.function:
            yield other
