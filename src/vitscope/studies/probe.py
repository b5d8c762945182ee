"""What can a linear classifier read off every block? Few-shot probes by depth and token (Raghu et al. 2021).

Rows, one for each site and reading; arrays `top1`, `top1_sd` and `strength` [site][cls, patches, all, first,
token], `token_top1` and `token_top1_sd` [site][row][column], and `sites`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vitscope.data.shots import Shots, few_shots
from vitscope.data.source import ImageSource
from vitscope.errors import BadValue
from vitscope.meters.meter import matching
from vitscope.parts import BATCH_SIZE
from vitscope.studies.depth import column
from vitscope.studies.probed import Several, probed, probes_of
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.scanner import scanner
from vitscope.studies.study import NEEDS, Findings, Models, OnProgress, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vitscope.plots import Line

SITES = ("blocks.*", "stages.*.*")
"""The outputs of full blocks, as in the paper (appendix F)."""
TOKEN = "token"
"""The reading of single places: the mean over places, each of which has a probe of its own."""
LABELS = {
    "cls": "CLS",
    "patches": "mean of the patches",
    "all": "mean of all tokens",
    "first": "first patch",
    TOKEN: "single patches: mean of their probes",
}
"""Readings, and what figures call them."""
SHOWN = (0.0, 0.5, 1.0)
"""Depths of the sites whose single places are drawn."""


def run(
    models: Models,
    source: ImageSource,
    *,
    sites: Sequence[str] = SITES,
    shots: int = 10,
    test: float = 0.5,
    held_out: float = 0.2,
    weakest: int = -10,
    strongest: int = 20,
    tokens: int = 4,
    draws: int = 3,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Top-1 accuracy of a few-shot linear probe of every site and reading.

    Args:
        models: the models.
        source: labelled images; their labels need not be the models' classes.
        sites: patterns; of each model, the sites that match any of them.
        shots: images of each class to learn from, 10 as in the paper; 0 takes all but those for testing.
        test: the share of each class's images that probes are tested on, and that nothing else sees.
        held_out: the share of the shots on which strengths are compared; the probe is then fitted to all.
        weakest, strongest: the strengths that are compared, as powers of two (the paper says only that they
            were compared on training images; the range is our choice).
        tokens: rows and columns of single places with a probe each, evenly spread over the grid; all of them
            where it has no more, none for 0.
        draws: how often images are drawn anew, 3 as in big_vision's `fewshot_lsr.py`; numbers are means.
        seed: of the draws of images.
        batch_size: images a forward pass.
        on_progress: told the model and what for, how many images are done, and of how many.

    Raises:
        BadValue: images without labels or with too few for each class, or a number outside its range.
        UnknownSite: a model has no such site.
    """
    if source.classes is None:
        raise BadValue(f"the study 'probe' needs {NEEDS['labels'].missing.format(source=source.name)}")
    if not sites or tokens < 0 or weakest > strongest:
        raise BadValue(
            "probe needs a pattern of sites, tokens of at least 0, and weakest not above strongest, not "
            f"{len(sites)} patterns, {tokens}, {weakest} and {strongest}"
        )
    parts = few_shots(source, shots=shots, test=test, held_out=held_out, draws=draws, seed=seed)
    strengths = tuple(2.0**power for power in range(weakest, strongest + 1))
    chance = {"chance": 100 / len(parts[0].classes)}
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    seen: dict[str, Several] = {}
    for name, model in models.items():
        readouts = probes_of(matching(model.sites, sites), tokens)
        found = []
        for draw, part in enumerate(parts, start=1):
            told = f"{name}, draw {draw} of {draws}" if draws > 1 else name
            scanned = scanner(told, model, batch_size=batch_size, on_progress=on_progress)
            found.append(probed(scanned, part, readouts, strengths=strengths))
        seen[name] = Several(tuple(found))
        rows = list(_rows(seen[name]))
        table += [{"model": name, **row, **chance} for row in rows]
        for array, values in _arrays(seen[name], rows).items():
            arrays.setdefault(array, {})[name] = values
    scans = [each for draw in next(iter(seen.values())).draws for each in draw.scans]
    return Findings(
        table,
        arrays,
        images=len({image.id for each in scans for image in each.images}),
        skipped=list(dict.fromkeys(entry for each in scans for entry in each.skipped)),
        notes=_notes(parts, seen),
    )


def _rows(found: Several) -> Iterator[Row]:
    for index, site in enumerate(found.sites):
        start = {"site": site, "depth": (index + 1) / len(found.sites)}
        images = {"images": found.draws[0].shares[found.readings(site)[0]].images}
        for readout in found.readings(site):
            yield {**start, "reading": readout.tokens, **found.row(readout), **images}
        if places := found.places(site):
            yield {**start, "reading": TOKEN, **places, **images}


def _arrays(found: Several, rows: Sequence[Row]) -> dict[str, Array]:
    sites, readings = found.sites, list(LABELS)
    arrays: dict[str, Array] = {"sites": np.array(sites)}
    for name in ("top1", "top1_sd", "strength"):
        arrays[name] = np.full((len(sites), len(readings)), np.nan)
        for row, value in zip(rows, column(rows, name), strict=True):
            arrays[name][sites.index(row["site"]), readings.index(row["reading"])] = value
    maps = found.maps()
    if maps.size:
        several = len(maps) > 1
        arrays["token_top1"] = maps.mean(axis=0)
        arrays["token_top1_sd"] = maps.std(axis=0, ddof=1) if several else np.full_like(maps[0], np.nan)
    return arrays


def _notes(parts: Sequence[Shots], seen: Mapping[str, Several]) -> list[str]:
    first, draws = parts[0], len(parts)
    count, tuned = len(first.classes), len(first.tune)
    notes = [
        f"{count} classes, {len(first.fit) + tuned} images to learn from, {tuned} of which were held out "
        f"while strengths were compared, {len(first.test)} others to test on; chance is {100 / count:.1f} %"
    ]
    if draws > 1:
        notes.append(f"means over {draws} such draws, top1_sd is their standard deviation")
    if first.left_out:
        notes.append(f"{first.left_out} classes are left out: they have no two different images")
    if first.fewest < first.most:
        notes.append(f"classes have {first.fewest} to {first.most} images to learn from")
    return notes + [
        f"{name}: not all activations of {site} are finite; such images teach nothing and are never right"
        for name, found in seen.items()
        for site in found.broken
    ]


def draw(result: Result) -> dict[str, Figure]:
    """Accuracy against depth, by model and by reading, and that of single places as maps."""
    from vitscope.plots import heat_maps, lines

    series = {
        (model, reading): _line(result, model, reading)
        for model in result.models
        for reading in LABELS
        if result.rows(model=model, reading=reading)
    }
    drawn = partial(
        lines,
        x_label="depth: number of the block / number of blocks",
        y_label="top-1 of the probe (%)",
        y_range=(0, 100),
        reference=result.table[0]["chance"],
    )
    by_model = {
        model: [
            replace(line, label=LABELS[reading]) for (each, reading), line in series.items() if each == model
        ]
        for model in result.models
    }
    figures = {"probe": drawn(by_model)}
    if len(result.models) > 1:
        by_reading = {
            LABELS[reading]: [line for (_, each), line in series.items() if each == reading]
            for reading in ("patches", TOKEN)
            if any(each == reading for _, each in series)
        }
        figures["models"] = drawn(by_reading)
    if "token_top1" in result.arrays:
        figures["token"] = heat_maps(
            _maps(result),
            x_label="column of the places probed",
            y_label="row",
            value_label="top-1 of the place's probe (%)",
        )
    return figures


def _line(result: Result, model: str, reading: str) -> Line:
    """Top-1 along depth, with a deviation of draws to each side, of one draw its interval."""
    from vitscope.plots import Line

    rows = result.rows(model=model, reading=reading)
    depth, top1, spread, low, high = (
        column(rows, name) for name in ("depth", "top1", "top1_sd", "top1_low", "top1_high")
    )
    several = np.isfinite(spread).all()
    return Line(model, depth, top1, *((top1 - spread, top1 + spread) if several else (low, high)))


def _maps(result: Result) -> dict[str, Array]:
    """Of a few sites of each model, accuracy at single places."""
    maps = {}
    for model, values in result.by_model("token_top1").items():
        for share in SHOWN:
            place = round(share * (len(values) - 1))
            site = result.by_model("sites")[model][place]
            maps[f"{model.partition(':')[2] or model}\n{site}"] = values[place]
    return maps


RANGE = "Raghu et al. 2021, Figure D.4: colours over tokens range so; top1 is the middle"
PUBLISHED = (
    ("ViT-B/32 with CLS", 1 / 12, 0.7, 1.1),
    ("ViT-B/32 with CLS", 2 / 12, 1.25, 2.25),
    ("ViT-B/32 with CLS", 6 / 12, 4.0, 10.0),
    ("ViT-B/32 with CLS", 1.0, 6.0, 10.0),
    ("ViT-B/32 with GAP", 6 / 12, 6.0, 10.0),
    ("ViT-B/32 with GAP", 11 / 12, 39.0, 44.0),
    ("ViT-B/32 with GAP", 1.0, 57.0, 58.0),
    ("R50x1", 1.0, 44.0, 52.0),
)
"""Model, depth, and the range over tokens of top-1 in per cent."""
PROBE = Study(
    name="probe",
    question="What can a linear classifier read off every block, and off which tokens?",
    method=(
        "A few images of every class are drawn to learn from, and others to test on, several times. Of every "
        "site and "
        "reading, ridge regression on +1 and -1 for each class is solved in closed form; its strength is "
        "chosen on a part of the first images, and the probe is fitted again to all of them."
    ),
    citation="Raghu et al. 2021, sections 5 and 6, Figures 11, 13 and D.4, appendix F (arXiv 2108.08810)",
    run=run,
    draw=draw,
    caveats=(
        "Intervals are over the images tested on, and means over draws. top1_sd and the bands of figures are "
        "over draws of images to learn from and to test on; where classes are small these share most of "
        "their images, and then the deviation is too low.",
        "A probe tells what a linear classifier can find, not what the model uses; where a site has more "
        "units there is more to find.",
        "Published numbers are of 10 images of each of the 1,000 classes of ImageNet, and of models trained "
        "on JFT-300M: compare shapes over depth, not heights.",
        "Maps of a CNN are averaged to the grid of its last stage before single places are read. The paper "
        "folds neighbours into channels before that, for a gain it calls very minor.",
    ),
    published=tuple(
        {
            "model": model,
            "depth": depth,
            "reading": TOKEN,
            "top1": (low + high) / 2,
            "top1_low": low,
            "top1_high": high,
            "source": RANGE,
        }
        for model, depth, low, high in PUBLISHED
    ),
)
