"""What is left of a model's answers when patches are dropped (Nguyen et al. 2022; Naseer et al. 2021)?

Rows with `part` "answers", one for each `among` and `share` of each model:

    none            nothing is dropped
    random          a share of all patches
    salient         a share of those on the object, or of those that are attended to
    non_salient     a share of all others

with `part` "views", one for each of these, level and token: global views against those of whole images; and
with `part` "maps", one for each site: deletion and insertion by the maps of units. Arrays: `salient` [image],
the share of patches that are salient, and `pictures` [among][share][n], one picture and its views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from vitscope.data.source import ImageSource
from vitscope.errors import BadValue, Unsuited
from vitscope.interventions.patches import DroppedPatches, drop_patches
from vitscope.interventions.salience import Attention, Salient, attention_site
from vitscope.meters.coverage import Coverage
from vitscope.meters.meter import Meter
from vitscope.meters.predictions import Predictions
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.studies.answers import left_of
from vitscope.studies.classifiers import classifiers
from vitscope.studies.depth import PATTERNS, first_pattern
from vitscope.studies.faithfulness import faithfulness
from vitscope.studies.occlusion_drawn import AMONG, PLAIN, draw
from vitscope.studies.result import Array, Row
from vitscope.studies.study import NEEDS, Findings, Models, OnProgress, Study, label_notes
from vitscope.studies.views_dropped import WholeImages
from vitscope.studies.views_measured import DroppedViews, rows_of
from vitscope.studies.views_pictured import pictured
from vitscope.variants import Variant, scan_variants

SALIENCE = ("given", "attention")
DRAWN = (0.1, 0.5)
"""Shares of a picture that are neither small nor large."""
PATCHES, FINEST = 14, 28
"""Patches along a side: at most, for a model without patches of its own (the authors' grid); and the most
that count as a model's own. Holes as small as the places of a CNN's stem leave nothing of an image."""


def run(
    models: Models,
    source: ImageSource,
    *,
    shares: Sequence[float | int] = (0.2, 0.5, 0.8, 1.0),
    salience: str = "given",
    levels: int = 4,
    picture: str = "",
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
        levels: at how many levels, evenly from the first to the last, global views are compared with those of
            whole images; 0 leaves views out. A model without patch filters has none.
        picture: the path of the image whose views are drawn; if not given, the first whose salient part is
            neither small nor large.
        units: how many units of every site are masked by their own maps; 0 leaves that out.
        sites: patterns of these; of each model the first is used that it has sites for.
        seed: of the drops, the units and random orders.
        batch_size: images a forward pass.
        on_progress: told the model and the pass, how many images are done, and of how many.

    Raises:
        BadValue: a number outside its range, another word for `salience`, nothing says what is salient, or
            there is no such picture.
        Unsuited: no model has logits.
    """
    _check(shares, salience, levels, units)
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    asked, notes = classifiers(models)
    plain: Scanned | None = None
    for name, model in asked.items():
        salient, told = _salient(models, name, source, salience)
        notes.append(f"{name}: what is salient is told by {told}")
        views = _views(model, levels, notes)
        drops = _drops(salient, shares, seed=seed)
        variants = [_variant(called, salient, drop, views) for called, drop in drops.items()]
        said = _told(on_progress, f"{name}: drops")
        seen = scan_variants(model, source, variants, _meters(views), batch_size=batch_size, on_progress=said)
        plain = seen[PLAIN]
        places = int(np.prod(model.preprocessing.size)) // salient.patch**2
        table += [{"model": name, **row} for row in _answers(seen, shares, places, seed=seed)]
        arrays.setdefault("salient", {})[name] = plain["coverage"].shares
        if views:
            table += [{"model": name, **row} for row in _compared(seen, shares, places, views)]
            drawn, kinds = picture or _first(plain), _by_kind(drops, shares)
            found = pictured(views, source, drawn, salient=salient, drops=kinds)
            arrays.setdefault("pictures", {})[name] = found
        if units:
            pattern, said = first_pattern(model, sites), _told(on_progress, f"{name}: maps")
            maps = faithfulness(
                model, source, pattern, units=units, seed=seed, batch_size=batch_size, on_progress=said
            )
            table += [{"model": name, "part": "maps", **one.row()} for one in maps]
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


def _check(shares: Sequence[float | int], salience: str, levels: int, units: int) -> None:
    if not shares or not all(0 < share <= 1 for share in shares) or units < 0:
        raise BadValue(
            f"shares lie above 0 and up to 1, and units is at least 0, not {list(shares)} and {units}"
        )
    if levels < 0 or levels == 1:
        raise BadValue(f"levels is 0, or at least 2: the first and the last, not {levels}")
    if salience not in SALIENCE:
        raise BadValue(f"salience is 'given' or by 'attention', not {salience!r}")


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


def _views(model: VisionModel, levels: int, notes: list[str]) -> WholeImages | None:
    """What views are compared with; None, with a note, of a model that has none."""
    if not levels:
        return None
    try:
        return WholeImages(model, levels=levels)
    except Unsuited as error:
        notes.append(f"no views: {error}")
        return None


def _meters(views: WholeImages | None) -> list[Meter]:
    found: list[Meter] = [Predictions(), Coverage()]
    return [*found, DroppedViews(views)] if views else found


def _drops(salient: Salient, shares: Sequence[float | int], *, seed: int) -> dict[str, DroppedPatches | None]:
    """All drops, by the names of their variants; first none."""
    found: dict[str, DroppedPatches | None] = {PLAIN: None}
    for among, share in _asked(shares):
        where = AMONG[among]
        found[_name(among, share)] = drop_patches(share=share, patch=salient.patch, among=where, seed=seed)
    return found


def _variant(name: str, salient: Salient, drop: DroppedPatches | None, views: WholeImages | None) -> Variant:
    if views:
        return Variant(name, images=(salient, views.under(drop)))
    return Variant(name, images=(salient, drop) if drop else (salient,))


def _by_kind(
    drops: Mapping[str, DroppedPatches | None], shares: Sequence[float | int]
) -> dict[str, list[DroppedPatches]]:
    return {
        kind: [drop for share in sorted({*shares}) if (drop := drops[_name(kind, share)])] for kind in AMONG
    }


def _asked(shares: Sequence[float | int]) -> list[tuple[str, float | int]]:
    return [(among, share) for among in AMONG for share in shares]


def _first(plain: Scanned) -> str:
    """The first image of the source whose salient part is neither small nor large; the first of all if none
    is."""
    covered = plain["coverage"]
    within = {
        one.tobytes().hex()
        for one, share in zip(covered.ids, covered.shares, strict=True)
        if DRAWN[0] <= share <= DRAWN[1]
    }
    return next((image.path for image in plain.images if image.id in within), plain.images[0].path)


def _answers(
    seen: Mapping[str, Scanned], shares: Sequence[float | int], places: int, *, seed: int
) -> list[Row]:
    plain, rows = seen[PLAIN], []
    for among, share in ((PLAIN, 0.0), *_asked(shares)):
        row: Row = {"part": "answers", **_dropping(plain, places, among, share)}
        row["images"] = len(plain.images)
        rows.append(row | left_of(plain, seen[_name(among, share)], seed=seed))
    return rows


def _compared(
    seen: Mapping[str, Scanned], shares: Sequence[float | int], places: int, views: WholeImages
) -> list[Row]:
    return [
        {"part": "views", **_dropping(seen[PLAIN], places, among, share), **row}
        for among, share in ((PLAIN, 0.0), *_asked(shares))
        for row in rows_of(seen[_name(among, share)]["views"], views.levels)
    ]


def _dropping(plain: Scanned, places: int, among: str, share: float | int) -> Row:
    dropped = _dropped(plain["coverage"].shares, places, among, share)
    return {"among": among, "share": float(share), "dropped": dropped}


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


OCCLUSION = Study(
    name="occlusion",
    question="What is left of answers and views when patches of the object, or others, are dropped?",
    method=(
        "Shares of the patches on the object, of those beside it, and of all are filled with black, and "
        "answers and global views are compared with those of whole images. Some units are masked by their "
        "own maps, patch by patch: a map that tells where a response comes from takes it away sooner than a "
        "random order does."
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
        "Views follow attention and leave out values, MLPs and norms. A black patch has a view, too: the "
        "negative of the filter. Patches draw on what lies near: auc_turned says how much that is.",
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
