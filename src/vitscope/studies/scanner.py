"""Scans of one model that a study makes one after another, each for a purpose that its progress names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from vitscope.data.source import ImageSource
from vitscope.meters.meter import Meter
from vitscope.models.vision_model import VisionModel
from vitscope.parts import Scanned
from vitscope.scan import scan
from vitscope.studies.study import OnProgress

Scanner = Callable[[str, ImageSource, Sequence[Meter]], Scanned]
"""What meters find in some images, for a purpose in a word or two."""


def scanner(
    name: str, model: VisionModel, *, batch_size: int, on_progress: OnProgress | None = None
) -> Scanner:
    """Scans of a model.

    Args:
        name: what the study calls it.
        model: the model.
        batch_size: images a forward pass.
        on_progress: told the name and the purpose, how many images are done, and of how many.
    """

    def scanned(purpose: str, images: ImageSource, meters: Sequence[Meter]) -> Scanned:
        told = partial(on_progress, f"{name}, {purpose}") if on_progress else None
        return scan(model, images, meters, batch_size=batch_size, on_progress=told)

    return scanned
