"""Does the last layer only pool? What CLS, each patch, and the average of all say of the class.

Rows, one for each `reading` that makes sense for a model:

    natural            the model as it is
    isolating_cls      all blocks but the last run on CLS and patches separately
    patch_average      the head on every patch: the average of their accuracies
    patch_maximum      the head on every patch: the best accuracy at any one place, for each column by itself
    average_features   the head on the average of the normed patches: not the average of accuracies

Arrays: `accuracy_map` and `accuracy_map_top5` [row][column], the accuracy of the head at every place;
`isolation_top1`, `isolation_top5`, `dropping_top1`, `dropping_top5` [k], k = 0 to the number of blocks: with
the first k blocks run separately, and with the patches dropped after k blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from einops import rearrange

from vitscope.data.source import ImageSource
from vitscope.errors import Unsuited
from vitscope.interventions.depths import dropping_depths, isolation_depths
from vitscope.interventions.model import head_on_places, head_site, isolate_cls
from vitscope.interventions.trunk import answer, noise, trunk
from vitscope.meters.token_accuracy import TokenAccuracies, TokenAccuracy
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.studies.classifiers import classifiers
from vitscope.studies.last_layer_figures import draw
from vitscope.studies.last_layer_published import PUBLISHED
from vitscope.studies.result import Array, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.variants import Variant, scan_variants

TOP = (1, 5)
"""Of every accuracy."""
SWEEPS = {"isolation": isolation_depths, "dropping": dropping_depths}
"""Name of a sweep over depth -> the intervention that answers at every depth."""


def run(
    models: Models,
    source: ImageSource,
    *,
    every_depth: bool = True,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Every reading of every model; a reading that makes no sense for one is left out, with a note.

    Args:
        models: the models.
        source: labelled images.
        every_depth: whether CLS is isolated, and patches are dropped, at every depth as well. That costs
            about half as many passes as a model has blocks; without, there are three passes.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.
    """
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    asked, notes = classifiers(models)
    last: Scanned | None = None
    for name, model in asked.items():
        told = partial(on_progress, name) if on_progress else None
        if told:
            told(0, len(source))
        plan = _plan(model, every_depth=every_depth)
        found = scan_variants(
            model, source, plan.variants, [TokenAccuracy(TOP)], batch_size=batch_size, on_progress=told
        )
        last = next(iter(found.values()))
        seen = {variant: scanned["token_accuracy"] for variant, scanned in found.items()}
        table += [{"model": name, **row} for row in _rows(model, seen)]
        for array, values in _arrays(model, seen).items():
            arrays.setdefault(array, {})[name] = values
        notes += [f"{name}: {note}" for note in plan.notes]
    return Findings(
        table,
        arrays,
        images=len(last.images) if last else None,
        skipped=last.skipped if last else (),
        notes=notes,
    )


@dataclass(frozen=True)
class _Plan:
    """Which passes a model needs, and why it has no others."""

    variants: tuple[Variant, ...]
    notes: tuple[str, ...]


def _plan(model: VisionModel, *, every_depth: bool) -> _Plan:
    isolated, places = _why_not(model, isolation_depths), _why_not(model, head_on_places)
    notes = [f"no isolating_cls: {isolated}"] if isolated else []
    notes += [f"no patch readings: {places}"] if places else []
    variants = []
    if isolated or not every_depth:
        variants.append(Variant("plain"))
    elif every_depth:
        variants += [Variant(name, model=(sweep,)) for name, sweep in SWEEPS.items()]
    if not isolated and not every_depth:
        blocks = len(trunk(model)) - 1
        variants.append(Variant("isolated", model=(partial(isolate_cls, blocks=blocks),)))
    if not places:
        variants.append(Variant("places", model=(head_on_places,)))
    return _Plan(tuple(variants), tuple(notes))


def _why_not(
    model: VisionModel, intervention: Callable[[VisionModel], AbstractContextManager[Any]]
) -> str | None:
    """Why an intervention makes no sense for a model, found by trying it on noise; None where it does."""
    try:
        with intervention(model):
            answer(model, noise(model, images=2))
    except Unsuited as error:
        return str(error)
    return None


def _rows(model: VisionModel, seen: Mapping[str, TokenAccuracies]) -> Iterator[Row]:
    sweep, plain, isolated, places = (seen.get(name) for name in ("isolation", "plain", "isolated", "places"))
    natural = plain or sweep
    if natural:
        yield {"reading": "natural", **_row(natural, 0)}
    if isolated or sweep:
        blocks = len(trunk(model)) - 1
        found = _row(isolated, 0) if isolated else _row(sweep, blocks) if sweep else {}
        yield {"reading": "isolating_cls", "blocks": blocks, **found}
    if places:
        maps = {k: _map(model, places, k) for k in TOP}
        spread = {f"top{k}": float(accuracy.mean()) for k, accuracy in maps.items()}
        yield {"reading": "patch_average", **spread, "images": places.images}
        best = {k: np.unravel_index(accuracy.argmax(), accuracy.shape) for k, accuracy in maps.items()}
        peak = {f"top{k}": float(accuracy.max()) for k, accuracy in maps.items()}
        where = {f"place_top{k}": f"{row},{column}" for k, (row, column) in best.items()}
        yield {"reading": "patch_maximum", **peak, **where, "images": places.images}
        yield {"reading": "average_features", **_row(places, len(places) - 1)}


def _row(found: TokenAccuracies, which: int) -> Row:
    """Accuracies of one answer, with their intervals."""
    shares = {name: value for k in TOP for name, value in found.share(which, k=k).row(f"top{k}").items()}
    return {**shares, "images": found.images}


def _arrays(model: VisionModel, seen: Mapping[str, TokenAccuracies]) -> dict[str, Array]:
    arrays = {f"{name}_top{k}": seen[name].values(k) for name in SWEEPS if name in seen for k in TOP}
    if "places" in seen:
        maps = {k: _map(model, seen["places"], k) for k in TOP}
        arrays |= {"accuracy_map": maps[1], "accuracy_map_top5": maps[5]}
    return arrays


def _map(model: VisionModel, places: TokenAccuracies, k: int) -> Array:
    """Accuracy of the head at every place on the image, in per cent."""
    site = head_site(model)
    rows, _ = site.grid or (1, 1)
    values = places.values(k)[site.prefix_tokens : -1]
    return np.asarray(rearrange(values, "(row column) -> row column", row=rows))


LAST_LAYER = Study(
    "last_layer",
    question="Does the last layer do nothing but pool?",
    method=(
        "All blocks but the last run on CLS and on the patches separately, and the model's own head is put "
        "on every normed patch and on their average. Accuracy that survives says that the class is in the "
        "patches before CLS gathers it."
    ),
    citation="Ghiasi et al. 2022 (arXiv:2212.06727), section 5, Table 1 and Figure 5",
    run=run,
    draw=draw,
    needs=("labels", "logits"),
    caveats=(
        "Raghu et al. 2021 find that spatial information lasts to the final block of models trained with "
        "CLS; Ghiasi et al. dispute it for the last block. Both can hold: one measures similarity to the "
        "pixels of a place, the other whether the class can be read there.",
        "The published models see 384 pixels and all 50,000 validation images.",
    ),
    published=PUBLISHED,
)
"""Table 1 and Figure 5 of Ghiasi et al. 2022, and their sweeps over depth."""
