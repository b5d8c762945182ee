"""How much of a representation travels through skip connections? Norm ratios and cosines (Raghu et al. 2021).

Rows, one for each block, sublayer and kind of place; arrays `norm_ratio`, `cosine` and `branch_cosine`
[block][attn, mlp][cls, patches], and `attn_token_ratio`, `mlp_token_ratio` [block][token].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vitscope.data.source import ImageSource
from vitscope.errors import Unsuited
from vitscope.meters.skips import KINDS, STATISTICS, Skipping, Skips
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.scan import scan
from vitscope.studies.depth import padded
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.shortcuts import FIRST, MLP, Shortcut, shortcuts
from vitscope.studies.study import Findings, Models, OnProgress, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vitscope.plots import Line

SUBLAYERS = {FIRST: "attn", MLP: "mlp"}
"""The second axis of arrays; another mixing of places than attention stands first as well."""

FAR = 5.0
"""Times the median of a block's patches: a ratio above is told apart (our choice)."""


def run(
    models: Models,
    source: ImageSource,
    *,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """All skip connections, in one pass of each model.

    Args:
        models: the models; one whose skip connections are not known is left out, with a note.
        source: the images.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        Unsuited: no model has a skip connection.
    """
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    notes: list[str] = []
    last: Scanned | None = None
    for name, model in models.items():
        known = shortcuts(model)
        if not known:
            notes.append(f"{name} is left out: none of its sites are a skip connection and its branch")
            continue
        meter = Skips(tuple((one.base, one.branch) for one in known))
        told = partial(on_progress, name) if on_progress else None
        last = scan(model, source, [meter], batch_size=batch_size, on_progress=told)
        found: Mapping[str, Skipping] = last["skips"]
        table += [{"model": name, **row} for row in _rows(known, found)]
        for array, values in _arrays(known, found).items():
            arrays.setdefault(array, {})[name] = values
        notes += [f"{name}: {note}" for note in _notes(known, found)]
    if last is None:
        raise Unsuited(f"none of {', '.join(models)} has a skip connection that its sites tell")
    return Findings(table, arrays, images=len(last.images), skipped=last.skipped, notes=notes)


def _rows(known: Sequence[Shortcut], found: Mapping[str, Skipping]) -> list[Row]:
    rows: list[Row] = []
    for one in known:
        skipping = found[one.branch]
        values = {statistic: skipping.kinds(statistic) for statistic in STATISTICS}
        for place, kind in enumerate(KINDS):
            if kind == "cls" and not skipping.prefix_tokens:
                continue
            measured = {statistic: of[place] for statistic, of in values.items()}
            median = {"median_ratio": _median(skipping) if kind == "patches" else measured["norm_ratio"]}
            rows.append({"block": one.block, "sublayer": one.kind, "tokens": kind, **measured, **median})
    return rows


def _outliers(found: Skipping) -> int:
    """Patches whose ratio is far above the others'."""
    return int((found.norm_ratio[found.prefix_tokens :] > FAR * _median(found)).sum())


def _median(found: Skipping) -> float:
    """Over the places on the image, where a few may have ratios that rule the mean."""
    patches = found.norm_ratio[found.prefix_tokens :]
    known = patches[~np.isnan(patches)]
    return float(np.median(known)) if known.size else float("nan")


def _arrays(known: Sequence[Shortcut], found: Mapping[str, Skipping]) -> dict[str, Array]:
    blocks = list(dict.fromkeys(one.block for one in known))
    arrays: dict[str, Array] = {
        statistic: np.full((len(blocks), len(SUBLAYERS), len(KINDS)), np.nan) for statistic in STATISTICS
    }
    tokens: dict[int, list[Array]] = {which: [np.zeros(0)] * len(blocks) for which in SUBLAYERS}
    for one in known:
        block, skipping = blocks.index(one.block), found[one.branch]
        for statistic in STATISTICS:
            arrays[statistic][block, one.which] = skipping.kinds(statistic)
        if skipping.prefix_tokens:
            tokens[one.which][block] = skipping.norm_ratio
    by_token = {f"{SUBLAYERS[which]}_token_ratio": padded(rows) for which, rows in tokens.items()}
    arrays |= {name: rows for name, rows in by_token.items() if rows.size}
    return {**arrays, "blocks": np.array(blocks)}


def _notes(known: Sequence[Shortcut], found: Mapping[str, Skipping]) -> list[str]:
    """The paper's claim in numbers: skips carry CLS in the first half, patches in the second."""
    attention = [found[one.branch] for one in known if one.which == FIRST and found[one.branch].prefix_tokens]
    if len(attention) < 2:
        return []
    halves = attention[: len(attention) // 2], attention[len(attention) // 2 :]
    told = [
        [float(np.median([one.kinds("norm_ratio")[kind] for one in half])) for half in halves]
        for kind in range(len(KINDS))
    ]
    (cls, later_cls), (patches, later_patches) = told
    far = [one for one in known if _outliers(found[one.branch])]
    most = max(_outliers(found[one.branch]) for one in known)
    notes = [
        f"{len(far)} skip connections have patches of more than {FAR:g} times the median ratio, {most} at "
        "most: these rule the means; see median_ratio"
    ]
    notes = notes if far else []
    return [
        *notes,
        f"around attention, the median norm ratio of CLS is {cls:.2f} in the first half of the blocks and "
        f"{later_cls:.2f} in the second, that of the patches {patches:.2f} and {later_patches:.2f}",
    ]


def draw(result: Result) -> dict[str, Figure]:
    """Norm ratios and cosines by block; and by block and token, where there is CLS."""
    from vitscope.plots import heat_maps, lines

    labels = {"norm_ratio": "|skip| / |branch|", "cosine": "cos(skip, skip + branch)"}
    figures = {
        statistic: lines(
            {name: _lines(result, name, statistic) for name in result.by_model(statistic)},
            x_label="block",
            y_label=label,
            y_range=(0, None) if statistic == "norm_ratio" else (None, None),
        )
        for statistic, label in labels.items()
    }
    maps = {
        f"{name}: {sublayer}": np.clip(values, None, _top(values))
        for sublayer in SUBLAYERS.values()
        if f"{sublayer}_token_ratio" in result.arrays
        for name, values in result.by_model(f"{sublayer}_token_ratio").items()
    }
    if maps:
        figures["token_ratio"] = heat_maps(
            maps,
            x_label="token (CLS first)",
            y_label="block",
            value_label="|skip| / |branch|",
            value_range=(0, None),
            origin="lower",
        )
    return figures


def _top(values: Array) -> float:
    """Where colours end: a few very large ratios would leave none for the others."""
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, 0.98)) if finite.size else 1.0


def _lines(result: Result, model: str, statistic: str) -> list[Line]:
    """A line for each sublayer and kind of place that the model has."""
    from vitscope.plots import Line

    values = result.by_model(statistic)[model]
    named = {row["sublayer"] for row in result.rows(model=model)}
    firsts = "/".join(sorted(named - {"mlp"}))
    found = []
    for which, sublayer in enumerate((firsts, "mlp")):
        for kind, tokens in enumerate(("CLS", "patches")):
            series = values[:, which, kind]
            if np.isfinite(series).any():
                label = "a block's branch" if sublayer == "branch" else f"{sublayer}, {tokens}"
                found.append(Line(label, np.arange(len(series)), np.where(np.isinf(series), np.nan, series)))
    return found


SKIPS = Study(
    name="skips",
    question="How much of a representation travels through skip connections?",
    method=(
        "Around every attention and every MLP, the norm of what stands on the skip connection is divided by "
        "the norm of what the branch adds to it, at every token, and averaged over images; and so is the "
        "cosine between what enters and what leaves."
    ),
    citation="Raghu et al. 2021, section 4, Figures 7, E.1 and E.2 (arXiv 2108.08810)",
    run=run,
    draw=draw,
    caveats=(
        "The paper draws its ratios and prints no number: with CLS up to about 10 in the first half of a "
        "ViT-B/16 trained on ImageNet and low in the second, patches the other way round, and those of a CNN "
        "far below.",
        "A mean of ratios is ruled by the images where a branch adds almost nothing; a branch that adds "
        "nothing at all has an infinite ratio.",
        "The text and the caption of the paper's figure of cosines differ: cosine is that of the skip with "
        "the sum, as its text says, branch_cosine that of the skip with the branch.",
        "A norm says how long a vector is, not what can be read off it. A long constant part that all images "
        "share makes a ratio large.",
        "In a block on feature maps the skip may be a convolution of its own; what it hands out is taken "
        "for the skip.",
    ),
)
