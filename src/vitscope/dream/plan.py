"""How dreams will be computed, and how long that will take; measured before the first step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from vitscope.arrays import Pixels
from vitscope.dream.ascent import IMAGES_PER_PASS
from vitscope.dream.objectives import BoundObjective
from vitscope.dream.recipe import Recipe
from vitscope.dream.scoring import scoring
from vitscope.lean import Forms, Lean
from vitscope.models.vision_model import VisionModel
from vitscope.tune import tune

UNITS_PER_BATCH = {"cpu": 32, "cuda": 256}
"""By device type: a batch holds its canvases and their optimiser in memory."""

TUNED_ON = 8
"""Images of the pass whose forms are timed: always as many, so that all recipes and batches get the same."""

HELD = {"cpu": 2**29}
"""Bytes that a float32 pass may keep for its way back, by device type: with these, eight units of a ViT-Ti
are dreamt of in less than 1 GiB. Elsewhere as many as a pass may show."""

MARGIN = 0.8
"""The fastest pass must need at least this share of another's time an image for both to count as equal: two
calls do not tell them apart better, and the larger pass saves what a step does beside it."""


@dataclass(frozen=True)
class Plan:
    """How dreams are computed.

    Attributes:
        forms: of the passes; bfloat16 is used for a unit once its gradient agrees with float32.
        images: in one pass, at most.
        units: in one batch.
        seconds: of one unit's dream, estimated from one pass; without augmentation and judgement.
        note: why forms that are faster are not used; empty where they are.
    """

    forms: Forms
    images: int
    units: int
    seconds: float
    note: str = ""

    @property
    def units_per_hour(self) -> float:
        """Dreams an hour."""
        return 3600 / self.seconds

    def describe(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {**asdict(self), "units_per_hour": round(self.units_per_hour, 1)}

    def sentence(self, units: int) -> str:
        """The plan for so many dreams, for people."""
        forms = f"{self.forms.products} products, attention {self.forms.attention}"
        finish = time.strftime("%H:%M", time.localtime(time.time() + units * self.seconds))
        return (
            f"{units} dreams, {self.units} a batch, {self.images} images a pass, {forms}: "
            f"{self.units_per_hour:.0f} an hour, done about {finish}{self.note and '; ' + self.note}"
        )


def plan_dreams(
    model: VisionModel,
    objectives: Sequence[BoundObjective],
    *,
    recipe: Recipe,
    tuned: Tuned | None = None,
) -> Plan:
    """Measure how many images a pass should show.

    The numbers of a dream depend on the forms, and on nothing else of the plan but for rounding.

    Args:
        model: the model to dream with.
        objectives: what will be dreamt of; the deepest of them is timed.
        recipe: every setting; it says how many copies a step shows.
        tuned: the forms of a pass; measured where none are given.
    """
    deepest = _deepest(model, objectives)
    tuned = tuned or tuned_for(model, [deepest])
    wanted = recipe.copies * len(objectives)
    images, seconds = _fastest(model, deepest, tuned.forms, recipe.copies, wanted)
    units = UNITS_PER_BATCH.get(model.device.type, UNITS_PER_BATCH["cpu"])
    return Plan(tuned.forms, images, units, seconds * recipe.copies * recipe.steps, tuned.note)


@dataclass(frozen=True)
class Tuned:
    """The forms of a pass, and why faster ones are not used, where they are not."""

    forms: Forms
    note: str = ""


def tuned_for(model: VisionModel, objectives: Sequence[BoundObjective]) -> Tuned:
    """The fastest forms in which a pass up to the deepest of some objectives runs.

    They are measured once a process for every model, device and set of sites, so that a dream made again is
    the same dream.
    """
    deepest = _deepest(model, objectives)
    known = _TUNED.setdefault(model.module, {})
    key = (str(model.device), str(model.dtype), tuple(site.name for site in deepest.sites))
    if key not in known:
        known[key] = _running(model, deepest, tune(model, deepest.sites, _noise(model, TUNED_ON)))
    return known[key]


_TUNED: WeakKeyDictionary[nn.Module, dict[Any, Tuned]] = WeakKeyDictionary()


def _running(model: VisionModel, objective: BoundObjective, forms: Forms) -> Tuned:
    """These forms, or float32 where a whole pass fails in bfloat16: every product was timed by itself, but a
    model may mix types where nobody widens them."""
    if forms.products == "float32":
        return Tuned(forms)
    try:
        _seconds(model, objective, forms, images=objective.canvases)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        return Tuned(forms.wide, f"{model.name} does not run in bfloat16: {reason}")
    return Tuned(forms)


def _deepest(model: VisionModel, objectives: Sequence[BoundObjective]) -> BoundObjective:
    order = {site.name: position for position, site in enumerate(model.sites)}
    return max(objectives, key=lambda each: max(order.get(site.name, len(order)) for site in each.sites))


def _fastest(
    model: VisionModel, objective: BoundObjective, forms: Forms, copies: int, wanted: int
) -> tuple[int, float]:
    """Images a pass, `copies` or that doubled some times, and seconds an image.

    The largest that is about as fast as the fastest: what a step does beside the pass is paid once a pass.
    """
    most = IMAGES_PER_PASS.get(model.device.type, IMAGES_PER_PASS["cpu"])
    largest = min(wanted, most, _fitting(model, objective, forms, most))
    known = _PACED.setdefault(model.module, {})
    key = (str(model.device), str(model.dtype), objective.sites, forms, copies, largest)
    if key not in known:
        each = {copies: _seconds(model, objective, forms, copies) / copies}
        while (images := 2 * max(each)) <= largest:
            each[images] = _seconds(model, objective, forms, images) / images
        chosen = max(images for images, seconds in each.items() if MARGIN * seconds <= min(each.values()))
        known[key] = chosen, each[chosen]
    return known[key]


_PACED: WeakKeyDictionary[nn.Module, dict[Any, tuple[int, float]]] = WeakKeyDictionary()
"""Measured once a process, as forms are: in float32 the last bits depend on how many images share a pass."""


def _fitting(model: VisionModel, objective: BoundObjective, forms: Forms, most: int) -> int:
    """How many images a pass may show for its memory; what a second image adds to it is counted."""
    if model.device.type not in HELD:
        return most
    one, two = (_kept(model, objective, forms.wide, images) for images in (1, 2))
    return HELD[model.device.type] // max(two - one, 1)


def _kept(model: VisionModel, objective: BoundObjective, forms: Forms, images: int) -> int:
    """Bytes that a pass keeps for its way back, weights among them."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    pixels = _noise(model, images).requires_grad_()
    with scoring(model, [objective]) as score, saved_tensors_hooks(keep, lambda tensor: tensor):
        passed = score(pixels, [0], Lean(forms))
    del passed  # until here, so that no memory is counted twice
    return sum(kept.values())


def _seconds(model: VisionModel, objective: BoundObjective, forms: Forms, images: int) -> float:
    """Of one pass, forward and backward; the better of two."""
    pixels = _noise(model, images).requires_grad_()
    lean, best = Lean(forms), float("inf")
    with scoring(model, [objective]) as score:
        for _ in range(2):
            begun = time.perf_counter()
            (slope,) = torch.autograd.grad(score(pixels, [0], lean).sum(), pixels)
            slope.sum().item()  # waits for the device
            best = min(best, time.perf_counter() - begun)
    return best


def _noise(model: VisionModel, images: int) -> Pixels:
    source = torch.Generator().manual_seed(0)
    return torch.rand(images, 3, *model.preprocessing.size, generator=source).to(model.device)
