"""The model behind an atlas: loaded when it is first needed, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vitscope.atlas.read import Atlas
from vitscope.errors import BadValue, VitscopeError
from vitscope.models import load
from vitscope.models.vision_model import VisionModel


@dataclass(frozen=True)
class Wanted:
    """Which model is loaded for an atlas.

    Attributes:
        model: its name; None for the name that the atlas has.
        weights, device: as `load` takes them.
    """

    model: str | None = None
    weights: str = "pretrained"
    device: str = "auto"


class Behind:
    """Models of atlases, of which the one that was asked for last is kept. For one thread at a time.

    Args:
        wanted: which models.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._kept: tuple[str, VisionModel] | None = None

    def of(self, atlas: Atlas, *, on_load: Callable[[str], object]) -> VisionModel:
        """The model that an atlas was built of; `on_load` is told its name before it is loaded.

        Raises:
            BadValue: it cannot be loaded, or has other weights than the atlas was built of.
        """
        from vitscope.look.units import check

        name = self._wanted.model or atlas.model
        if self._kept is None or self._kept[0] != name:
            self._kept = None  # two models need not fit into memory
            on_load(name)
            self._kept = name, self._loaded(name, atlas)
        model = self._kept[1]
        check(model, atlas)
        return model

    def _loaded(self, name: str, atlas: Atlas) -> VisionModel:
        try:
            return load(name, weights=self._wanted.weights, device=self._wanted.device)
        except VitscopeError as error:
            raise BadValue(
                f"the model of {atlas.name} cannot be loaded: {error}\n"
                f"Say which: vitscope serve {atlas.path} --live MODEL --weights FILE"
            ) from error
