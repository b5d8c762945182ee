"""How alike do the sites of a model, and of two models, represent images (Raghu et al. 2021)?

Rows, by `reading`:

    quarters      the mean over the first quarter of a model's sites with its last quarter
    neighbouring  the mean over sites that follow one another in a model
    best_match    of a site of a model, the site of another model that is most like it by CKA
    matched       the mean over a model's sites of their best match in another

`depth` and `other_depth` count sites: the first of twelve is at 1/12, the last at 1.

Arrays: `sites` [site], their names; `cka`, `spherical_cka` and `mutual_knn` [site][site] within each model,
with `cka_error` and so on; and for every pair `cka_with_OTHER` [site][site of the other] and its like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from vitscope.atlas.commit import file_name
from vitscope.data.drawn import Drawn
from vitscope.data.source import SHARD_SIZE, ImageSource
from vitscope.errors import BadValue
from vitscope.meters.gathering import GRAM
from vitscope.meters.grams import Grams, Similarity
from vitscope.meters.hsic import CKA, WHOLE
from vitscope.parts import BATCH_SIZE
from vitscope.plots import heat_maps
from vitscope.scan import scan
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SITES = ("blocks.*", "stages.*.*")
"""The outputs of blocks, in the words of transformers and Mixers, and of CNNs. The paper has about six sites
a block; `sites=**` takes all."""
ORDERS = ("drawn", "source")
MEASURES = {
    "cka": "CKA",
    "spherical_cka": "spherical CKA",
    "mutual_knn": "share of nearest neighbours in common",
}
"""Array -> what its colours mean."""
Pair = tuple[str, str]
Measured = Mapping[str, Similarity]
"""The similarities of one pair, by measure."""


def run(
    models: Models,
    source: ImageSource,
    *,
    sites: Sequence[str] = SITES,
    gram: int = GRAM,
    features: str = WHOLE,
    neighbours: int = 10,
    order: str = "drawn",
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Similarity of every two sites, within each model and of every two models.

    Args:
        models: the models.
        source: the images; labels are not needed.
        sites: patterns; of each model, the sites that match any of them.
        gram: images in a Gram matrix; with as many as there are images, estimates are exact.
        features: "places" for all places and units, as in the paper; "mean" for their mean over places; or
            one place, written as in an address.
        neighbours: how many nearest images the measure that is not CKA compares.
        order: "drawn" draws images without replacement, as in the paper; "source" takes them as they come.
        seed: of the order that is drawn.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        BadValue: fewer than four images, an unknown order, or two models were shown different images.
        UnknownSite: a model has no such site.
    """
    if order not in ORDERS:
        raise BadValue(f"no order {order!r}: images are taken as 'drawn' or as in the 'source'")
    meter = CKA(tuple(sites), gram=gram, features=features)
    images = Drawn(source, seed=seed) if order == "drawn" else source
    found: dict[str, Grams] = {}
    for name, model in models.items():
        told = partial(on_progress, name) if on_progress else None
        shard_size = max(1, SHARD_SIZE // gram) * gram
        scanned = scan(model, images, [meter], batch_size=batch_size, shard_size=shard_size, on_progress=told)
        found[name] = scanned["cka"]
    pairs = {pair: _measured(found, pair, k=neighbours) for pair in _pairs(tuple(models))}
    table = [row for pair, measured in pairs.items() for row in _rows(found, pair, measured)]
    notes = _notes(found, k=neighbours)
    return Findings(
        table, _arrays(found, pairs), images=len(scanned.images), skipped=scanned.skipped, notes=notes
    )


def _pairs(names: Sequence[str]) -> list[Pair]:
    """Every model with itself, then every two."""
    return [*((name, name) for name in names), *combinations(names, 2)]


def _measured(found: Mapping[str, Grams], pair: Pair, *, k: int) -> Measured:
    here = found[pair[0]]
    there = None if pair[0] == pair[1] else found[pair[1]]
    return {
        "cka": here.cka(there),
        "spherical_cka": here.cka(there, spherical=True),
        "mutual_knn": here.neighbours(there, k=k),
    }


def _rows(found: Mapping[str, Grams], pair: Pair, measured: Measured) -> Iterator[Row]:
    names = [found[name].sites for name in pair]
    nowhere = dict.fromkeys(("site", "other_site", "depth", "other_depth"))
    if pair[0] == pair[1]:
        start = {"model": pair[0], "other": pair[1]}
        for reading, cells in (("quarters", _quarters), ("neighbouring", _neighbouring)):
            where = cells(len(names[0]))
            if where.any():
                yield {**start, "reading": reading, **nowhere, **_mean(measured, where)}
        return
    for here, there in permutations((0, 1)):
        turned = {name: _turned(each) if here else each for name, each in measured.items()}
        best = _best(turned["cka"].value)
        start = {"model": pair[here], "other": pair[there]}
        if best.any():
            yield {**start, "reading": "matched", **nowhere, **_mean(turned, best)}
        for row, column in np.argwhere(best).tolist():
            yield {
                **start,
                "reading": "best_match",
                "site": names[here][row],
                "other_site": names[there][column],
                "depth": (row + 1) / len(names[here]),
                "other_depth": (column + 1) / len(names[there]),
                **_mean(turned, _cell(best.shape, row, column)),
            }


def _mean(measured: Measured, where: Array) -> dict[str, float]:
    """The mean of every measure over some cells, with its standard error."""
    columns = {}
    for name, similarity in measured.items():
        columns[name], columns[f"{name}_error"] = similarity.estimate(lambda values: values[where].mean())
    return columns


def _quarters(count: int) -> Array:
    """The cells of the first quarter of sites with the last; none of fewer than four."""
    cells, some = np.zeros((count, count), bool), count // 4
    if some:
        cells[:some, -some:] = True
    return cells


def _neighbouring(count: int) -> Array:
    return np.eye(count, k=1, dtype=bool)


def _best(values: Float64[Array, "row column"]) -> Array:
    """The largest of every row; none of a row of NaN."""
    cells = np.zeros(values.shape, bool)
    for row in np.flatnonzero(~np.isnan(values).all(axis=1)):
        cells[row, np.nanargmax(values[row])] = True
    return cells


def _cell(shape: tuple[int, ...], row: int, column: int) -> Array:
    cells = np.zeros(shape, bool)
    cells[row, column] = True
    return cells


def _turned(similarity: Similarity) -> Similarity:
    """Rows for columns."""
    return Similarity(similarity.value.T, similarity.without.swapaxes(1, 2))


def _arrays(found: Mapping[str, Grams], pairs: Mapping[Pair, Measured]) -> dict[str, dict[str, Array]]:
    arrays: dict[str, dict[str, Array]] = {
        "sites": {name: np.array(grams.sites) for name, grams in found.items()}
    }
    for (name, other), measured in pairs.items():
        end = "" if name == other else f"_with_{file_name(other)}"
        for measure, similarity in measured.items():
            arrays.setdefault(f"{measure}{end}", {})[name] = similarity.value
            arrays.setdefault(f"{measure}_error{end}", {})[name] = similarity.error
    return arrays


def _notes(found: Mapping[str, Grams], *, k: int) -> list[str]:
    first = next(iter(found.values()))
    notes = [
        f"{name}: {site} has no similarity: "
        + ("it is the same for all images" if status == "constant" else "not all its values are finite")
        for name, grams in found.items()
        for site, status in grams.status.items()
        if status != "ok"
    ]
    sizes = [len(ids) for ids in first.ids]
    if first.dropped:
        notes.append(f"{first.dropped} images were left out: too few for a last batch, which needs four")
    if len(sizes) == 1:
        notes.append(f"one Gram matrix holds all {sizes[0]} images: values are exact, without an error")
    if first.repeated:
        notes.append(f"{first.repeated} images come again in their Gram matrix: they raise every similarity")
    used = [size for size in sizes if size > 2 * k]
    if used:
        notes.append(f"by chance mutual_knn is {k / (used[0] - 1):.3f}")
    else:
        notes.append(f"no mutual_knn: {k} neighbours need Gram matrices of more than {2 * k} images")
    return notes


def draw(result: Result) -> dict[str, Figure]:
    """A heat map for each model and each pair, one figure for each measure."""
    return {measure: _figure(result, measure) for measure in MEASURES}


def _figure(result: Result, measure: str) -> Figure:
    sites = {name: _ticks(each.tolist()) for name, each in result.by_model("sites").items()}
    panels, rows, columns = {}, {}, {}
    for name, other in _pairs(result.models):
        title = _short(name) if name == other else f"{_short(name)}\n× {_short(other)}"
        array = measure if name == other else f"{measure}_with_{file_name(other)}"
        panels[title] = result.by_model(array)[name]
        rows[title], columns[title] = sites[name], sites[other]
    return heat_maps(
        panels,
        x_label="site of the second model" if len(result.models) > 1 else "site",
        y_label="site of the first model" if len(result.models) > 1 else "site",
        value_label=MEASURES[measure],
        value_range=(0, 1),
        origin="lower",
        x_names=columns,
        y_names=rows,
    )


def _short(name: str) -> str:
    """Without the library a model comes from: there is little room over a panel."""
    return name.partition(":")[2] or name


def _ticks(sites: Sequence[str]) -> list[str]:
    """Without the word they all begin with: "7" of "blocks.7"."""
    shared = len({site.partition(".")[0] for site in sites}) == 1 and all("." in site for site in sites)
    return [site.partition(".")[2] if shared else site for site in sites]


SOURCE = "Raghu et al. 2021, section 3, figure 2"
SIMILARITY = Study(
    name="similarity",
    question="How alike do a model's sites represent images, and how alike do two models?",
    method=(
        "Of every site, the Gram matrix of its centred features is made over batches of images, and unbiased "
        "HSIC of every two sites is averaged over batches before CKA is taken; errors come from leaving out "
        "one batch after another. Beside it stand a CKA in which every image counts alike, and the share of "
        "nearest neighbours that two sites have in common. Two models see the same images, each its own view."
    ),
    citation="Raghu et al. 2021, sections 2 and 3 and appendix H (arXiv 2108.08810)",
    run=run,
    draw=draw,
    caveats=(
        "CKA says how alike images lie to one another, not what is computed: a value near 1 may come from a "
        "few directions, or a few images, that all sites share. See spherical_cka and mutual_knn.",
        "The paper uses 10,240 images in batches of 1,024 and takes the mean of 20 drawings; here images are "
        "read once, and the error says what that costs.",
        "A few hundred images give few Gram matrices, and an error of few batches is itself uncertain.",
        "The paper's axes count about six sites a block; depth here counts the sites that were asked for.",
    ),
    published=(
        {
            "model": "R50x1 (JFT-300M)",
            "other": "ViT-L/16, ViT-H/14 (JFT-300M)",
            "reading": "best_match",
            "depth": 60 / 130,
            "other_depth": 0.25,
            "source": f"{SOURCE}: about the lowest 60 of its layers match about the lowest quarter",
        },
        {
            "model": "R50x1 (JFT-300M)",
            "other": "ViT-L/16, ViT-H/14 (JFT-300M)",
            "reading": "best_match",
            "depth": 1.0,
            "other_depth": 0.25 + 1 / 3,
            "source": f"{SOURCE}: its upper half matches about the next third, nothing the last third",
        },
        {
            "model": "R152x2 (JFT-300M)",
            "other": "ViT-H/14 (JFT-300M)",
            "reading": "best_match",
            "depth": 100 / 360,
            "other_depth": 30 / 190,
            "source": "Raghu et al. 2021, appendix B: its lowest 100 layers match the lowest 30",
        },
    ),
)
