"""What the site finders share: a plan of sites, and claims checked by value before anything is offered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope.arrays import Activations, Pixels
from vitscope.models.arrange import Arranged, arranged
from vitscope.models.layout import Layout
from vitscope.models.vision_model import MAP, VECTOR, Preprocessing, Site, VisionModel
from vitscope.tap import read, tap
from vitscope.trace import Call, Op, Trace, Value

TOLERANCE = 1e-3
"""How closely a claim must hold, relative to the largest value: float32 errs by 1e-6, a wrong claim by 1."""


@dataclass(frozen=True)
class Claim:
    """Sites that are offered only if something holds among the activations of `parts` on the sample.

    Attributes:
        parts: the sites that `holds` is asked about, in order.
        holds: whether what is claimed is so.
        offers: the sites that then exist.
        otherwise: the note where they do not.
        after: another claim that must hold too.
    """

    parts: tuple[Site, ...]
    holds: Callable[..., bool]
    offers: tuple[Site, ...]
    otherwise: str = ""
    after: Claim | None = None


@dataclass(frozen=True)
class Then:
    """One derivation after another; a `Site.derive`."""

    first: Callable[[Any], Tensor]
    second: Callable[[Any], Tensor] | None

    def __call__(self, given: Any) -> Tensor:
        """The second's result on the first's."""
        made = self.first(given)
        return self.second(made) if self.second else made


@dataclass
class Plan:
    """One traced pass of a module, and the sites gathered from it so far.

    Attributes:
        module: the module under the microscope.
        sample: the images of the pass, as the module takes them.
        trace: the pass.
        notes: which sites are missing, and why.
    """

    module: nn.Module
    sample: Float[Tensor, "image rgb row column"]
    trace: Trace
    notes: list[str] = field(default_factory=list)
    _timed: list[tuple[int, Site]] = field(default_factory=list)
    _moments: dict[Site, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = Counter(call.path for call in self.trace.calls)
        self._written: dict[Value, list[Call]] = defaultdict(list)
        self._read: dict[Value, list[Call]] = defaultdict(list)
        for call in self.trace.calls:
            if call.output is not None:
                self._written[call.output].append(call)
            if call.input is not None:
                self._read[call.input].append(call)

    @property
    def has_weights(self) -> bool:
        """Whether claims can be checked: a module on the meta device has shapes alone."""
        return self.sample.device.type != "meta"

    def part(self, call: Call) -> nn.Module:
        """The module that was called."""
        return self.module.get_submodule(call.path)

    def readers(self, value: Value) -> list[Call]:
        """The calls that take this value as their first input, the innermost last."""
        return self._read[value]

    def raw_name(self, call: Call) -> str:
        """The name of the raw site that is the call's output."""
        return f"{call.path}~{call.index}" if self.counts[call.path] > 1 else call.path

    def written_as(self, value: Value) -> str | None:
        """The name of the raw site that holds this value, if a module hands it out."""
        calls = [call for call in self._written[value] if call.path]
        return self.raw_name(calls[0]) if calls else None

    def site(
        self,
        name: str,
        value: Value,
        *,
        within: Call | None = None,
        columns: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Site | None:
        """A semantic site that reads this value; None where its places are not known.

        It is read where a module hands it out or takes it in, else at the function that makes it; `within`
        prefers modules inside that call. `layout` overrides that of the value.
        """
        found = arranged(layout or value.layout, columns=columns)
        place = self._whereabouts(value, within)
        if found is None or place is None:
            return None
        return self.keep(place, laid(name, found))

    def inside(
        self,
        name: str,
        op: Op,
        found: Arranged | None,
        *,
        get: Callable[[Any], Tensor],
        recomputed: bool = False,
    ) -> Site | None:
        """A semantic site at what `get` makes of the arguments of a function."""
        if found is None:
            return None
        site = laid(name, found)
        facts = {**self._in_module(op.within), "side": "input", "function": op.name, "turn": op.turn}
        site = replace(site, derive=Then(get, site.derive), recomputed=recomputed)
        return self.keep((op.time - 1, facts), site)

    def keep(self, place: tuple[int, dict[str, Any]], site: Site) -> Site:
        """The site at that place of the pass; the moment it fires is remembered."""
        time, facts = place
        site = replace(site, **facts)
        self._moments[site] = time
        return site

    def _whereabouts(self, value: Value, within: Call | None) -> tuple[int, dict[str, Any]] | None:
        inner = within or self.trace.calls[0]
        writers = [
            call for call in self._written[value] if inner.start <= call.start and call.end <= inner.end
        ]
        readers = [call for call in self._read[value] if inner.start < call.start and call.end <= inner.end]
        if writers:
            return self._at(min(writers, key=lambda call: (call.path.count("."), call.end)), "output")
        if readers:
            return self._at(max(readers, key=lambda call: (call.path.count("."), -call.start)), "input")
        op = value.made_by
        if op is None or op.output is not value:
            return None
        facts = {**self._in_module(op.within), "side": "output", "function": op.name, "turn": op.turn}
        return op.time, facts

    def moment(self, site: Site) -> int:
        """When a site fires, on the clock of the pass."""
        return self._moments[site]

    def _at(self, call: Call, side: str) -> tuple[int, dict[str, Any]]:
        return (call.start if side == "input" else call.end), {**self._in_module(call), "side": side}

    def _in_module(self, call: Call) -> dict[str, Any]:
        return {"path": call.path, "call": call.index, "calls": self.counts[call.path]}

    def vector(self, name: str, value: Value) -> Site | None:
        """A semantic site that reads one vector an image."""
        place = self._whereabouts(value, None)
        return self.keep(place, Site(name, "", VECTOR, value.shape[-1])) if place else None

    def taken(self, name: str, call: Call) -> Site | None:
        """A semantic site that reads the one vector an image, or map of one cell, that a module takes in."""
        given = call.input
        if given is None:
            return None
        axes, grid = (VECTOR, None) if len(given.shape) == 2 else (MAP, (1, 1))
        return self.keep(self._at(call, "input"), Site(name, "", axes, given.shape[1], grid=grid))

    def entering(self, name: str, call: Call) -> Site | None:
        """A semantic site that reads what a module takes in."""
        found = arranged(call.input.layout) if call.input else None
        return self.keep(self._at(call, "input"), laid(name, found)) if found else None

    def add(self, *sites: Site | None) -> None:
        """Keep these sites, each at the moment it fires; None is passed over."""
        for site in sites:
            if site is not None:
                self._timed.append((self._moments[site], site))

    def ordered(self) -> tuple[Site, ...]:
        """The sites kept, in forward order."""
        return tuple(site for _, site in sorted(self._timed, key=lambda timed: timed[0]))

    def settle(self, claims: Sequence[Claim]) -> None:
        """Offer what is claimed to be so and is; note what is not. Without weights nothing can be checked."""
        results = self.check(claims) if self.has_weights else [True] * len(claims)
        held = {id(claim): holds for claim, holds in zip(claims, results, strict=True)}
        for claim in claims:
            if held[id(claim)] and (claim.after is None or held[id(claim.after)]):
                self.add(*claim.offers)
            elif claim.otherwise:
                self.notes.append(claim.otherwise)

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


def laid(name: str, found: Arranged) -> Site:
    """A site of these axes and places that has not been given its place in the pass."""
    return Site(
        name,
        "",
        found.axes,
        found.units,
        grid=found.grid,
        prefix_tokens=found.prefix_tokens,
        derive=found.derive,
        keys=found.keys,
    )


def close(one: Tensor, other: Tensor) -> bool:
    """Equal up to `TOLERANCE` of the largest value; nothing equals nothing."""
    return one.numel() == 0 or bool(
        (one - other).abs().max() <= TOLERANCE * other.abs().max().clamp_min(1e-12)
    )


def adds_up(one: Activations, other: Activations, total: Activations) -> bool:
    """Whether `total` is the sum of the other two."""
    return close(one + other, total)


def _as_model(module: nn.Module) -> VisionModel:
    """The module as a model that takes its pixels as they come."""
    plain = Preprocessing(size=(1, 1), resize=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return VisionModel(module, "the module", preprocessing=plain, sites=())
