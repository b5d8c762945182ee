"""Which of a study's models are classifiers, for studies of answers."""

from __future__ import annotations

from vitscope.models.vision_model import VisionModel
from vitscope.studies.study import Models

NO_LOGITS = "it has no logits"
"""Why a model is left out, as notes say it."""


def has_logits(model: VisionModel) -> bool:
    """Whether a model gives logits."""
    return any(site.name == "logits" for site in model.sites)


def classifiers(models: Models) -> tuple[Models, list[str]]:
    """The models that give logits; and of each of the others a note that it is left out."""
    found = {name: model for name, model in models.items() if has_logits(model)}
    return found, [f"{name} is left out: {NO_LOGITS}" for name in models if name not in found]
