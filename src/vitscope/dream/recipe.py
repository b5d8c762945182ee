"""The type of a recipe: everything about how a dream is made, as one frozen value. The papers' are in
`recipes.py`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from vitscope.dream.augment import Augmentation, Crops
from vitscope.dream.canvases import Canvas
from vitscope.dream.penalties import Penalty
from vitscope.errors import BadValue, suggestion


@dataclass(frozen=True)
class Recipe:
    """One paper's full setting.

    Attributes:
        name: the word users write.
        title, year, citation: the publication, with its arXiv number or DOI.
        canvas: the image parameterisation.
        warm_up: share of the steps that climb the units as they are before their activation function, where
            the model has that: on the flat side of a ReLU or GELU there is no gradient to follow.
        second_start: where natural images are known, as in an atlas, and beat a dream, whether another is
            made from the best of them; the more robust one is kept.
        canvas_scale: rows and columns of the canvas, as a multiple of the model's input.
        steps: updates of the canvas.
        copies: augmented copies of the canvas that the model sees in every step; their scores are averaged.
        optimiser: "adam" or "nadam", without weight decay.
        learning_rate, betas, epsilon: its settings.
        schedule: "constant"; "cosine" from `learning_rate` at step 0 to 0 at step `steps`; or "held" for the
            first half and then cosine.
        numbers: "independent" random numbers, or "even" ones, spread over all copies of all steps.
        crops: how the copies are cut out of the canvas; None shows all of it.
        augmentations: applied to the copies in this order.
        penalties: measured on the augmented copies, averaged over them and subtracted.
    """

    name: str
    title: str
    year: int
    citation: str
    canvas: Canvas
    steps: int
    copies: int
    learning_rate: float
    betas: tuple[float, float]
    epsilon: float = 1e-8
    optimiser: Literal["adam", "nadam"] = "adam"
    schedule: Literal["cosine", "constant", "held"] = "constant"
    warm_up: float = 0.0
    second_start: bool = False
    numbers: Literal["independent", "even"] = "independent"
    canvas_scale: float = 1.0
    crops: Crops | None = None
    augmentations: tuple[Augmentation, ...] = ()
    penalties: tuple[Penalty, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "copies", "learning_rate", "canvas_scale"):
            if not getattr(self, name) > 0:
                raise BadValue(f"{name} of recipe {self.name} must be above 0, not {getattr(self, name)}")

    def replace(self, **changes: Any) -> Recipe:
        """The same recipe with other settings.

        Raises:
            BadValue: a recipe has no such setting; the nearest is named.
        """
        known = [setting.name for setting in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise BadValue(
                    f"a recipe has no setting {name!r}.{suggestion(name, known)} It has: {', '.join(known)}."
                )
        return dataclasses.replace(self, **changes)

    def describe(self) -> dict[str, Any]:
        """Every setting as plain JSON values, for provenance."""
        return {setting.name: _plain(getattr(self, setting.name)) for setting in dataclasses.fields(self)}

    @property
    def warm_steps(self) -> int:
        """How many steps the warm-up takes."""
        return round(self.warm_up * self.steps)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        share = step / self.steps
        if self.schedule == "held":
            share = max(0.0, 2 * share - 1)
        return self.learning_rate * (1 + math.cos(math.pi * share)) / 2


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        settings = {part.name: _plain(getattr(value, part.name)) for part in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **settings}
    return value
