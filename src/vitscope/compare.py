"""Two models side by side over the same images: the studies a user asks first, and one page on top of them.

A study that was answered before in the same folder, of the same question, is read and not computed again; a
study that was stopped begins again, but for the dreams that it had kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vitscope.data.drawn import Drawn
from vitscope.data.source import ImageSource
from vitscope.dream import recipe_named
from vitscope.errors import BadValue, UnknownSite, Unsuited
from vitscope.front import callable_as
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE
from vitscope.provenance import Provenance
from vitscope.report import INDEX, Front, pages_of
from vitscope.studies import STUDIES, open_result
from vitscope.studies.result import RESULT_FILE, SEEN, Result, check_free, plain
from vitscope.studies.study import Models, OnProgress, Study, by_name
from vitscope.summary import Fact, facts

ASKED: Mapping[str, Mapping[str, Any]] = {
    "similarity": {},
    "attention_distance": {},
    "receptive_field": {"sample": 8, "channels": 4, "batch_size": 4},  # a backward pass a channel and site
    "skips": {},
    "probe": {},
    "matched_dreams": {},
    "overview": {},
}
"""The studies in the order of the page, with what differs from their own defaults for the sake of time."""
GRAMS, LEAST, MOST = 4, 16, 64
"""Gram batches that the images are to fill, so that CKA has an error, and the images of one."""


@dataclass(frozen=True)
class Comparison:
    """Two models side by side.

    Attributes:
        models: their names.
        images: what they were shown.
        index: the page to open.
        results: by study, those that at least one of the models answered.
        folders: by study, where each of these is saved.
        facts: the summary, line by line.
        left_out: by study, why it is not here, or why one of the models is not in it.
    """

    models: tuple[str, ...]
    images: str
    index: Path
    results: Mapping[str, Result] = field(repr=False)
    folders: Mapping[str, Path] = field(repr=False)
    facts: tuple[Fact, ...] = field(repr=False)
    left_out: Mapping[str, str] = field(repr=False)

    def describe(self) -> dict[str, Any]:
        """The JSON of `vitscope compare`."""
        return {
            "report": str(self.index),
            "models": list(self.models),
            "images": self.images,
            "summary": [fact.describe() for fact in self.facts],
            "results": {name: str(folder) for name, folder in self.folders.items()},
            "left_out": dict(self.left_out),
        }

    def __rich__(self) -> Table:
        notes = [f"{study}: {why}" for study, why in self.left_out.items()]
        table = Table(box=SIMPLE_HEAD, caption="\n".join(notes) or None, caption_justify="left")
        table.add_column("quantity", overflow="fold")
        for name in self.models:
            table.add_column(name, justify="right", overflow="fold")
        for fact in self.facts:
            table.add_row(fact.quantity, *_cells(fact, self.models))
        return table


def compare(
    model_a: VisionModel,
    model_b: VisionModel,
    images: ImageSource,
    *,
    out: str | Path,
    limit: int = 256,
    recipe: str = "olah_2017:short",
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Comparison:
    """Similarity, attention distances, receptive fields, skips, probes and dreams of two models, as one page.

    A study that one of the two cannot answer is asked of the other alone, and left out where neither can; the
    page and the result say why. Dreams take most of the time.

    Args:
        model_a, model_b: the models; each is shown the images under its own preprocessing.
        images: the images; with labels that number the logits there is accuracy too.
        out: the folder for the page, `index.html`, and for every result, `results/STUDY`. Results of the same
            question that are there are not computed again.
        limit: how many images, drawn without replacement; all where there are fewer.
        recipe: of the dreams; the default is a cheap one.
        seed: of the drawing of images, places and units.
        batch_size: images a forward pass.
        on_progress: told the study and stage, how much of it is done, and of how much.

    Raises:
        BadValue: `limit` is below 1.
        UnknownName: there is no such recipe.
        Failure: `out` holds a result that was made otherwise; the message says what differs.
        NotWritable: `out` cannot be written.

    Example:
        >>> import vitscope as vs
        >>> one, other = vs.load("timm:vit_tiny_patch16_224"), vs.load("tv:resnet18")   # doctest: +SKIP
        >>> vs.compare(one, other, vs.images("folder:val"), out="compared").index       # doctest: +SKIP
    """
    recipe_named(recipe)  # a wrong name is refused before any work
    folder, named = Path(out), by_name([model_a, model_b])
    source = Drawn(images, seed=seed).limit(limit)
    given = {"recipe": recipe, "seed": seed, "keep": str(folder / "dreams"), "batch_size": batch_size}
    given["gram"] = _gram(len(source))
    asked = [_Asked(name, folder / "results" / name, given) for name in ASKED if name in STUDIES]
    found = {one.name: one.found(named, source) for one in asked}
    left_out: dict[str, str] = {}
    for one in asked:
        try:
            result = found[one.name] or one.answered(named, source, on_progress=on_progress)
            found[one.name] = result
            left_out |= {one.name: why} if (why := _lacking(result)) else {}
        except (BadValue, UnknownSite, Unsuited) as error:
            left_out[one.name], found[one.name] = f"left out: {error}", None
    results = {name: result for name, result in found.items() if result}
    lines = facts(results)
    folders = {one.name: one.folder for one in asked if one.name in results}
    index = folder / INDEX
    compared = Comparison(tuple(named), source.name, index, results, folders, tuple(lines), left_out)
    pages_of(list(results.values()), folder, front=_front(compared))
    return compared


@dataclass(frozen=True)
class _Asked:
    """One study of a comparison: what it is asked, and where its result goes."""

    name: str
    folder: Path
    given: Mapping[str, Any]

    @property
    def study(self) -> Study:
        found: Study = STUDIES.get(self.name)
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """What is asked for where it is not the study's default."""
        handed = {name: self.given[name] for name in self.study.settings if name in self.given}
        return {**handed, **ASKED[self.name]}

    def found(self, models: Models, source: ImageSource) -> Result | None:
        """The result of this very question, where it is there already.

        Raises:
            Failure: there is one that was made otherwise.
        """
        settings = {**self.study.settings, **self.settings}
        question = Provenance(
            kind="study",
            model=", ".join(models),
            weights=", ".join(model.fingerprint for model in models.values()),
            preprocessing={},
            source=source.fingerprint,
            settings={"study": self.name, "images": source.name, **plain(settings)},
        )
        check_free(self.folder, question)
        return open_result(self.folder) if (self.folder / RESULT_FILE).is_file() else None

    def answered(self, models: Models, source: ImageSource, *, on_progress: OnProgress | None) -> Result:
        """The result, computed and saved.

        Raises:
            BadValue: both models lack what the study needs, which is found before any work, or it refuses.
            UnknownSite, Unsuited: as the study.
        """
        told = partial(_told, on_progress, self.name) if on_progress else None
        return self.study(list(models.values()), source, out=self.folder, on_progress=told, **self.settings)


def _gram(images: int) -> int:
    """Images in a Gram matrix, of so many."""
    return min(max(images // GRAMS, LEAST), MOST)


def _lacking(result: Result) -> str:
    """Which of the models a result says nothing of, in the study's own words where it has some."""
    said = {name: f"nothing is said of {name}" for name in result.models if not result.rows(model=name)}
    for note in _seen(result).get("notes", ()):
        said |= {name: note for name in said if note.startswith(f"{name} ")}
    return ". ".join(said.values())


def _told(on_progress: OnProgress, study: str, stage: str, done: int, total: int) -> None:
    on_progress(f"{study}: {stage}", done, total)


def _cells(fact: Fact, models: tuple[str, ...]) -> list[str]:
    return [fact.readings[name].text if name in fact.readings else "–" for name in models]


def _seen(result: Result) -> dict[str, Any]:
    """What a run met."""
    return result.provenance.settings.get(SEEN) or {}


def _front(compared: Comparison) -> Front:
    models, results = compared.models, compared.results
    count = max((_seen(result).get("images") or 0 for result in results.values()), default=0)
    notes = [f"{study}: {why}" for study, why in compared.left_out.items()]
    if "overview" in results:
        notes += _seen(results["overview"]).get("notes", ())
    return Front(
        title=f"{models[0]} and {models[1]}",
        lead=f"{count} images, {compared.images}; each model is shown them under its own preprocessing.",
        models=models,
        lines=[(fact.quantity, fact.study, _cells(fact, models)) for fact in compared.facts],
        notes=notes,
    )


callable_as(__name__, compare)
