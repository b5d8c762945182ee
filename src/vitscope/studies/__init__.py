"""Studies: questions of papers, asked of any models. `study` answers one by name; `STUDIES` names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscope.registry import Registry
from vitscope.studies.result import Result
from vitscope.studies.study import OnProgress  # now: imported later, the file would take the verb's name

if TYPE_CHECKING:
    from vitscope.data.source import ImageSource
    from vitscope.models.vision_model import VisionModel

STUDIES = Registry(
    "study",
    {
        "attention_distance": "vitscope.studies.attention_distance:ATTENTION_DISTANCE",
        "clusters": "vitscope.studies.clusters:CLUSTERS",
        "concepts": "vitscope.studies.concepts:CONCEPTS",
        "drift": "vitscope.studies.drift:DRIFT",
        "foreground": "vitscope.studies.foreground:FOREGROUND",
        "frequency": "vitscope.studies.frequency:FREQUENCY",
        "heads": "vitscope.studies.heads:HEADS",
        "invariance": "vitscope.studies.invariance:INVARIANCE",
        "last_layer": "vitscope.studies.last_layer:LAST_LAYER",
        "localisation": "vitscope.studies.localisation:LOCALISATION",
        "matched_dreams": "vitscope.studies.matched_dreams:MATCHED_DREAMS",
        "occlusion": "vitscope.studies.occlusion:OCCLUSION",
        "overview": "vitscope.studies.overview:OVERVIEW",
        "probe": "vitscope.studies.probe:PROBE",
        "progression": "vitscope.studies.progression:PROGRESSION",
        "readout": "vitscope.studies.readout:READOUT",
        "receptive_field": "vitscope.studies.receptive_field:RECEPTIVE_FIELD",
        "shuffle": "vitscope.studies.shuffle:SHUFFLE",
        "similarity": "vitscope.studies.similarity:SIMILARITY",
        "sites_compared": "vitscope.studies.sites_compared:SITES_COMPARED",
        "spatial_cka": "vitscope.studies.spatial_cka:SPATIAL_CKA",
        "skip_removal": "vitscope.studies.skip_removal:SKIP_REMOVAL",
        "skips": "vitscope.studies.skips:SKIPS",
        "views": "vitscope.studies.views:VIEWS",
    },
)
"""Name -> its `Study`. Third parties add theirs by entry points in the group `vitscope.study`."""


def study(
    name: str,
    models: VisionModel | Sequence[VisionModel],
    images: ImageSource,
    *,
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
    **settings: Any,
) -> Result:
    """Answer one question of a paper for one or several models, over the same images.

    Args:
        name: one of `vitscope studies`.
        models: each is shown the images under its own preprocessing.
        images: the images, with the labels, boxes or masks that the study needs.
        out: a folder to save the result in.
        on_progress: told the stage, how much of it is done, and of how much.
        settings: the study's own, as `vitscope studies` lists them.

    Raises:
        UnknownName: no such study; the nearest is named.
        BadValue: an unknown setting, or something the study needs is missing; the message says what to give.
        Failure: `out` holds a result that was made otherwise.

    Example:
        >>> import vitscope as vs
        >>> model, images = vs.load("vitscope:vit_mini"), vs.images("folder:val")   # doctest: +SKIP
        >>> vs.study("frequency", model, images).plot()                             # doctest: +SKIP
    """
    found: Result = STUDIES.get(name)(models, images, out=out, on_progress=on_progress, **settings)
    return found


def open_result(folder: str | Path) -> Result:
    """A saved result, with the figures of its study.

    Raises:
        MissingPath: there is no result.
        UnknownName: it is of a study that is not installed.
        BadValue: the file is none of ours.
    """
    found = Result.open(folder)
    return replace(found, draw=STUDIES.get(found.study).draw)
