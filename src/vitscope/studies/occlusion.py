"""What is left of a model's answers when patches are dropped (Nguyen et al. 2022; Naseer et al. 2021)?

Rows with `part` "answers", one for each `among` and `share` of each model:

    none            nothing is dropped
    random          a share of all patches
    salient         a share of those on the object, or of those that are attended to
    non_salient     a share of all others

and with `part` "maps", one for each site: deletion and insertion by the maps of units. Array `salient`
[image]: the share of patches that are salient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vitscope.data.source import ImageSource
from vitscope.errors import BadValue, Unsuited
from vitscope.interventions.patches import drop_patches
from vitscope.interventions.salience import Attention, Salient, attention_site
from vitscope.meters.coverage import Coverage
from vitscope.meters.predictions import Predictions
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.studies.answers import left_of
from vitscope.studies.depth import DEPTH, PATTERNS, along, column, first_pattern
from vitscope.studies.faithfulness import faithfulness
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import NEEDS, Findings, Models, OnProgress, Study, label_notes
from vitscope.variants import Variant, scan_variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vitscope.plots import Line

AMONG = {"random": "all", "salient": "foreground", "non_salient": "background"}
"""What is dropped, in the paper's words and in those of `drop_patches`."""
PLAIN = "none"
SALIENCE = ("given", "attention")
SHOWN = (-0.5, 1.5)
"""Of areas in the figure: those of units that hardly respond lie far beyond."""
PATCHES, FINEST = 14, 28
"""Patches along a side: at most, for a model without patches of its own (the authors' grid); and the most
that count as a model's own. Holes as small as the places of a CNN's stem leave nothing of an image."""


def run(
    models: Models,
    source: ImageSource,
    *,
    shares: Sequence[float | int] = (0.2, 0.5, 0.8, 1.0),
    salience: str = "given",
    units: int = 4,
    sites: Sequence[str] = PATTERNS,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Answers under all drops, and deletion and insertion curves of some units.

    Args:
        models: classifiers.
        source: the images; with labels there is accuracy.
        shares: of the patches concerned that are dropped, above 0 and up to 1.
        salience: what is salient: "given" by masks or boxes, and by attention where an image has none; or by
            "attention" always. A model without attention is told by the first that has some.
        units: how many units of every site are masked by their own maps; 0 leaves that out.
        sites: patterns of these; of each model the first is used that it has sites for.
        seed: of the drops, the units and random orders.
        batch_size: images a forward pass.
        on_progress: told the model and the pass, how many images are done, and of how many.

    Raises:
        BadValue: a number outside its range, another word for `salience`, or nothing says what is salient.
        Unsuited: no model has logits.
    """
    if not shares or not all(0 < share <= 1 for share in shares) or units < 0:
        raise BadValue(
            f"shares lie above 0 and up to 1, and units is at least 0, not {list(shares)} and {units}"
        )
    if salience not in SALIENCE:
        raise BadValue(f"salience is 'given' or by 'attention', not {salience!r}")
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    notes: list[str] = []
    plain: Scanned | None = None
    for name, model in models.items():
        if not any(site.name == "logits" for site in model.sites):
            notes.append(f"{name} is left out: it has no logits")
            continue
        salient, told = _salient(models, name, source, salience)
        notes.append(f"{name}: what is salient is told by {told}")
        seen = scan_variants(
            model,
            source,
            list(_variants(salient, shares, seed=seed).values()),
            [Predictions(), Coverage()],
            batch_size=batch_size,
            on_progress=_told(on_progress, f"{name}: drops"),
        )
        plain = seen[PLAIN]
        places = int(np.prod(model.preprocessing.size)) // salient.patch**2
        table += [{"model": name, **row} for row in _answers(seen, shares, places, seed=seed)]
        arrays.setdefault("salient", {})[name] = plain["coverage"].shares
        if units:
            pattern, said = first_pattern(model, sites), _told(on_progress, f"{name}: maps")
            found = faithfulness(
                model, source, pattern, units=units, seed=seed, batch_size=batch_size, on_progress=said
            )
            table += [{"model": name, "part": "maps", **one.row()} for one in found]
    if plain is None:
        raise Unsuited(f"no model is a classifier. {'. '.join(notes)}")
    notes += label_notes(models, source) if source.classes else []
    return Findings(table, arrays, images=len(plain.images), skipped=plain.skipped, notes=notes)


def patch_of(model: VisionModel) -> int:
    """The side of the patches that are dropped, in pixels: that of the model's own.

    Where it has none, or more than 28 to a side, as stems of CNNs have, there are 14 to a side, or the most
    below that divide what the model is shown.
    """
    side = model.preprocessing.size[0]
    own = next((site.grid[0] for site in model.sites if site.name == "embed" and site.grid), 0)
    fitting = max(count for count in range(1, PATCHES + 1) if side % count == 0)
    return side // (own if 0 < own <= FINEST else fitting)


def _salient(models: Models, name: str, source: ImageSource, salience: str) -> tuple[Salient, str]:
    """What marks the salient patches of one model's images, and what that is in words."""
    given = salience == "given" and NEEDS["foreground"].holds(models, source)
    attention, told = None, ""
    for other in (name, *models):
        try:
            attention_site(models[other])
        except Unsuited:
            continue
        attention, told = Attention(models[other]), f"the attention of {other}"
        break
    if attention is None and not given:
        raise BadValue(
            f"nothing says what is salient in {source.name}: give --masks DIR or --boxes FILE, or a model "
            "with attention such as vit_tiny_patch16_224"
        )
    told = " and, where there are none, ".join(filter(None, ("masks or boxes" if given else "", told)))
    return Salient(patch_of(models[name]), attention, always=salience == "attention"), told


def _variants(salient: Salient, shares: Sequence[float | int], *, seed: int) -> dict[str, Variant]:
    found = {PLAIN: Variant(PLAIN, images=(salient,))}
    for among, where in AMONG.items():
        for share in shares:
            drop = drop_patches(share=share, patch=salient.patch, among=where, seed=seed)
            found[_name(among, share)] = Variant(_name(among, share), images=(salient, drop))
    return found


def _answers(
    seen: Mapping[str, Scanned], shares: Sequence[float | int], places: int, *, seed: int
) -> list[Row]:
    plain, rows = seen[PLAIN], []
    for among, share in ((PLAIN, 0.0), *((among, share) for among in AMONG for share in shares)):
        row: Row = {"part": "answers", "among": among, "share": float(share)}
        row["dropped"] = _dropped(plain["coverage"].shares, places, among, share)
        row["images"] = len(plain.images)
        rows.append(row | left_of(plain, seen[_name(among, share)], seed=seed))
    return rows


def _name(among: str, share: float | int) -> str:
    return PLAIN if among == PLAIN else f"{among} {share:g}"


def _dropped(salient: Array, places: int, among: str, share: float | int) -> float:
    """How many of all patches are dropped, in per cent, mean over images."""
    concerned = np.rint(
        {
            PLAIN: np.zeros(len(salient)),
            "random": np.full(len(salient), places),
            "salient": salient * places,
            "non_salient": (1 - salient) * places,
        }[among]
    )
    return 100 * float(np.floor(share * concerned + 1e-9).mean()) / places


def _told(on_progress: OnProgress | None, stage: str) -> partial[None] | None:
    return partial(on_progress, stage) if on_progress else None


def draw(result: Result) -> dict[str, Figure]:
    """Answers against how much is dropped, a panel for each model; and areas of deletion and insertion."""
    from vitscope.plots import Line, lines

    titles = {"agreement": "same answer", "relative_top1": "right answers kept"}
    panels: dict[str, list[Line]] = {}
    for name, title in titles.items():
        for model in result.models:
            series = [_curve(result, model, among, name) for among in AMONG]
            if any(np.isfinite(line.y).any() for line in series):
                panels[f"{model}\n{title}"] = series
    figures = {
        "answers": lines(
            panels, x_label="patches dropped, of all (%)", y_label="images (%)", y_range=(0, None)
        )
    }
    kinds: dict[str, list[Line]] = {}
    for kind, better in (("deletion", "lower is better"), ("insertion", "higher is better")):
        for model in result.models:
            rows = result.rows(model=model, part="maps")
            for name, label in ((kind, model), (f"{kind}_random", f"{model}, random order")):
                if rows:
                    line = Line(label, along(len(rows)), column(rows, name))
                    kinds.setdefault(f"{kind.capitalize()}: {better}", []).append(line)
    if kinds:
        label = "area under the curve, median"
        figures["maps"] = lines(kinds, x_label=DEPTH, y_label=label, y_range=SHOWN)
    return figures


def _curve(result: Result, model: str, among: str, name: str) -> Line:
    from vitscope.plots import Line

    rows = [*result.rows(model=model, among=PLAIN), *result.rows(model=model, among=among)]
    ends = [column(rows, f"{name}_{end}") for end in ("low", "high")]
    return Line(among.replace("_", "-"), column(rows, "dropped"), column(rows, name), *ends)


OCCLUSION = Study(
    name="occlusion",
    question="What is left of a model's answers when patches of the object, or others, are dropped?",
    method=(
        "Shares of the patches on the object, of those beside it, and of all are filled with black, and "
        "answers are compared with those to whole images. Some units are masked by their own maps, patch by "
        "patch: a map that tells where a response comes from takes it away sooner than a random order does."
    ),
    citation=(
        "Nguyen et al. 2022, authors' OcclusionCreate notebook (arXiv 2210.07646); Naseer et al. 2021 "
        "(arXiv 2105.10497)"
    ),
    run=run,
    draw=draw,
    needs=("logits",),
    caveats=(
        "Shares are of the patches concerned, as the authors have it. Objects are small: compare drops by "
        "how many patches of all are gone (`dropped`), as the figure does.",
        "Black patches are unlike any image a model was trained on: part of what a drop costs is that, and "
        "more so for a CNN, whose pixels beside a hole see it.",
        "Where attention tells what is salient, the model that is asked chooses its own ordeal; a few "
        "patches that all images attend to, such as artefacts, may stand in for the object.",
        "Naseer et al. pick salient patches by a self-supervised model (DINO), larger models, other images.",
        "Responses are counted from that to a black image, on one image for each unit; where the two are "
        "near, a curve may lie far outside of 0 and 1.",
    ),
    published=(
        {
            "model": "ViTs (their abstract names none)",
            "part": "answers",
            "among": "random",
            "share": 0.8,
            "dropped": 80.0,
            "top1": 60.0,
            "source": "Naseer et al. 2021, abstract: as high as 60 % top-1 with 80 % of the content dropped",
        },
    ),
)
