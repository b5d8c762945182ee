"""The two models that travel with the package, by the names `vitscope:vit_mini` and `vitscope:cnn_mini`."""

from __future__ import annotations

from vitscope.models import bundled, checkpoints
from vitscope.models.vision_model import Bare, Preprocessing


def names() -> list[str]:
    """What there is."""
    return list(bundled.NAMES)


def open_bundled(name: str, *, weights: str = "pretrained", seed: int = 0) -> Bare:
    """A bundled model; "pretrained" weights are in the package and need no network.

    Raises:
        UnknownModel: there is no bundled model of that name.
        WeightsError: the weights cannot be read or do not fit.
    """
    module = checkpoints.seeded(lambda: bundled.build(name), seed=seed)
    if weights == "pretrained":
        module.load_state_dict(bundled.load_state(name), strict=True)
    elif weights != "random":
        checkpoints.fill(module, weights)
    facts = bundled.INPUT
    preprocessing = Preprocessing(
        size=(facts.size, facts.size),
        resize=facts.resize,
        interpolation=facts.interpolation,
        mean=facts.mean,
        std=facts.std,
    )
    return Bare(
        module.eval(), f"vitscope:{name}", preprocessing, tuple(label.name for label in bundled.CLASSES)
    )
