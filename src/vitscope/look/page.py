"""The page of a look: one HTML file without scripts, for screen and print.

The picture is inside once, as a background; what is laid over it are PNGs of one pixel a place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitscope.address import Address
from vitscope.atlas.leaf import webp
from vitscope.look.found import Found, by_site
from vitscope.look.sheets import GROUP_COLOURS, group_map, heat
from vitscope.look.units import Firing
from vitscope.notebook import data_uri
from vitscope.pages import rendered

QUALITY = 88
"""Of the picture, as WebP."""
BESIDE = 4
"""Exemplars that stand beside a unit."""


@dataclass(frozen=True)
class Layer:
    """Something to lay over the picture.

    Attributes:
        source: a PNG of one pixel a place.
        title: what it is, in words.
        caption: what stands below it.
    """

    source: str
    title: str
    caption: str = ""


@dataclass(frozen=True)
class UnitCard:
    """A unit that fires, with what an atlas knows of it."""

    address: Address
    layer: Layer
    facts: str
    dream: str | None
    exemplars: Sequence[str]


@dataclass(frozen=True)
class Row:
    """What belongs to one site, or to one head of all sites."""

    name: str
    layers: Sequence[Layer]


def page(look: Found) -> bytes:
    """The page, as HTML."""
    picture = look.picture
    return rendered(
        "look.html",
        styles=("report.css", "look.css"),
        look=look,
        photo=data_uri("image/webp", webp(picture, quality=QUALITY)),
        aspect=f"{picture.width} / {picture.height}",
        blocks=[_short(site) for site, _ in by_site(look.heads)],
        heads=_heads(look),
        rollout=[
            Layer(_map(one.view), f"{one.site}: {one.prefix:.0%} from prefix tokens", _short(one.site))
            for one in look.rollout
        ],
        units=[(site, [_card(look, one) for one in of]) for site, of in by_site(look.units)],
        groups=[
            Layer(data_uri("image/png", group_map(one.labels)), f"groups at {one.site}", _short(one.site))
            for one in look.groups
        ],
        with_atlas=any(one.known for one in look.units),
        with_dreams=any(one.known and one.known.dreams for one in look.units),
        colours=GROUP_COLOURS[: max((int(one.labels.max()) + 1 for one in look.groups), default=0)],
        facts=_facts(look),
    )


def _heads(look: Found) -> list[Row]:
    """A row for each head, a column for each block; empty where a block has fewer heads."""
    every = by_site(look.heads)
    most = max((len(of) for _, of in every), default=0)
    kept = any(round(one.prefix, 2) for one in look.heads)
    rows = []
    for head in range(most):
        layers = [
            Layer(
                _map(of[head].view),
                f"{site}, head {head}: {of[head].prefix:.0%} of its attention is not on the picture",
                f"{of[head].prefix:.0%}" if kept else "",
            )
            if head < len(of)
            else Layer("", f"{site} has no head {head}")
            for site, of in every
        ]
        rows.append(Row(f"head {head}", layers))
    return rows


def _card(look: Found, one: Firing) -> UnitCard:
    place = f"unit {one.address.unit} of {one.address.site}, most at {one.place}"
    rank = f"+{one.height:.1f} sd" if one.percentile is None else _rank(one.percentile)
    dreams = one.known.dreams if one.known else ()
    exemplars = [look.thumbnail(each.image) for each in one.known.exemplars[:BESIDE]] if one.known else []
    return UnitCard(
        address=one.address,
        layer=Layer(_map(one.view, span=(0.0, one.value)), place),
        facts=f"{one.value:.3g}, {rank}",
        dream=data_uri("image/webp", dreams[0].image) if dreams else None,
        exemplars=[data_uri("image/webp", content) for content in exemplars if content],
    )


def _rank(percentile: float) -> str:
    return "above all images" if percentile == 100 else f"above {percentile:.4g} % of images"


def _map(view: Any, *, span: tuple[float, float] | None = None) -> str:
    return data_uri("image/png", heat(view, span=span))


def _short(site: str) -> str:
    """The number of a block, or of a stage and its block."""
    return site.removesuffix(".attn.pattern").partition(".")[2] or site


def _facts(look: Found) -> list[tuple[str, str]]:
    made = look.provenance
    settings = {name: value for name, value in made.settings.items() if value is not None}
    return [
        ("model", made.model),
        ("weights", made.weights),
        ("picture", f"{look.image} ({made.source})" if made.source else look.image),
        ("preprocessing", json.dumps(made.preprocessing)),
        *((name, str(value)) for name, value in settings.items() if name != "image"),
        ("device", made.device),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
    ]
