"""From images to the scores of objectives, differentiably, while a model is tapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from einops import repeat
from torch import Tensor

from vitscope.arrays import Activations, Pixels, Scores, widened
from vitscope.dream.objectives import BoundObjective
from vitscope.dream.pictures import Picture
from vitscope.dream.readouts import Mean
from vitscope.lean import Lean
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import tap


@dataclass(frozen=True)
class Beside:
    """A picture that one objective compares with, as it is shown beside that objective's images.

    Attributes:
        objective: its index.
        picture: the picture.
        images: one for every image of the objective, augmented alike.
    """

    objective: int
    picture: Picture
    images: Pixels


@runtime_checkable
class Score(Protocol):
    """From images to the score of every image."""

    def __call__(
        self, images: Pixels, units: Sequence[int], lean: Lean, beside: Sequence[Beside] = ()
    ) -> Scores:
        """The scores.

        Args:
            images: the same number for every canvas of each of the objectives in a row.
            units: indices of the objectives.
            lean: how to compute.
            beside: what objectives compare with, where that is not their pictures as they are.
        """
        ...


class _Seen(BaseException):
    """Raised while pictures are shown when all that is compared has fired; never leaves this file."""


@contextmanager
def scoring(model: VisionModel, objectives: Sequence[BoundObjective]) -> Iterator[Score]:
    """A function from images to their scores, while the model is tapped; differentiable with respect to the
    images.

    The forward pass ends after the deepest site of any of the objectives, and activations are only looked at
    while their site fires.
    """
    sites = tuple(dict.fromkeys(site for objective in objectives for site in objective.sites))
    reader: Callable[[Site, Activations], None]

    with tap(model, sites, on_read=lambda site, activations: reader(site, activations)) as run:

        def look(beside: Sequence[Beside], lean: Lean) -> dict[int, BoundObjective]:
            """The objectives that compare with what is beside them."""
            nonlocal reader
            reader = showing = _Showing(objectives, beside)
            with suppress(_Seen), torch.no_grad(), lean:
                run(torch.cat([each.images for each in beside]))
            return showing.compared

        def score(images: Pixels, units: Sequence[int], lean: Lean, beside: Sequence[Beside] = ()) -> Tensor:
            nonlocal reader
            changed = look(beside, lean) if beside else {}
            reader = reading = _Reading([changed.get(unit, objectives[unit]) for unit in units])
            with lean:
                run(images)
            return reading.scores

        yield score


class _Reading:
    """Gathers the scores of one pass."""

    def __init__(self, shown: Sequence[BoundObjective]) -> None:
        self._shown = shown
        self._gathered: list[list[Scores]] = [[] for _ in shown]

    def __call__(self, site: Site, activations: Activations) -> None:
        each = len(activations) // sum(objective.canvases for objective in self._shown)
        units = [_plain_unit(objective, site) for objective in self._shown]
        if None not in units:
            self._gathered = [[means] for means in _means(site, activations, units, each)]
            return
        shares = torch.split(activations, [each * objective.canvases for objective in self._shown])
        for objective, share, parts in zip(self._shown, shares, self._gathered, strict=True):
            if site in objective.sites:
                parts.append(objective.read(site, share))

    @property
    def scores(self) -> Scores:
        return torch.cat([torch.stack(parts).sum(dim=0) for parts in self._gathered])


def _plain_unit(objective: BoundObjective, site: Site) -> int | None:
    """The unit, where an objective is the mean of one of this site over its grid, and nothing else."""
    (weight, reading), *others = objective.terms
    if weight != 1 or others or not isinstance(reading, Mean) or reading.places is not None:
        return None
    if reading.site != site or not site.grid:
        return None
    return reading.what if isinstance(reading.what, int) else None


def _means(site: Site, activations: Activations, units: Sequence[int | None], each: int) -> Sequence[Tensor]:
    """What plain units would read one by one, by one gradient of the size of the activations."""
    places = activations[:, site.prefix_tokens :]
    index = torch.tensor(units, device=places.device).repeat_interleave(each)
    index = repeat(index, "image -> image place 1", place=places.shape[1])
    return torch.split(widened(places.gather(-1, index).squeeze(-1)).mean(dim=1), each)


class _Showing:
    """Gathers the activations of pictures, and ends the pass as soon as they are there."""

    def __init__(self, objectives: Sequence[BoundObjective], beside: Sequence[Beside]) -> None:
        self._objectives, self._beside = objectives, beside
        wanted = [objectives[each.objective].pictures[each.picture] for each in beside]
        self._missing = {site for sites in wanted for site in sites}
        self._found: dict[Site, list[Activations]] = {}

    def __call__(self, site: Site, activations: Activations) -> None:
        if site in self._missing:
            self._missing.remove(site)
            self._found[site] = list(
                torch.split(activations.clone(), [len(each.images) for each in self._beside])
            )
        if not self._missing:
            raise _Seen

    @property
    def compared(self) -> dict[int, BoundObjective]:
        changed: dict[int, BoundObjective] = {}
        for index, each in enumerate(self._beside):
            objective = changed.get(each.objective, self._objectives[each.objective])
            seen = {(each.picture, site): parts[index] for site, parts in self._found.items()}
            changed[each.objective] = objective.beside(seen)
        return changed
