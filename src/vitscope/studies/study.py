"""What a study is: one question of a paper, asked of any models over any images.

To add one, write a function that takes models by name and a source and returns `Findings`, describe it in a
`Study`, and register the name in `studies/__init__.py` or by an entry point in the group `vitscope.study`.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitscope.data.source import ImageSource, RawImage, Shard, Skipped
from vitscope.errors import BadValue, suggestion
from vitscope.models.vision_model import VisionModel
from vitscope.provenance import Provenance
from vitscope.studies.result import SEEN, Array, Result, Row, check_free, joined, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OnProgress = Callable[[str, int, int], None]
"""Told the stage, how much of it is done, and of how much."""
Models = Mapping[str, VisionModel]
"""The models of a study, by the name that its rows use; two of one name are told apart by a number."""
LOOKED_AT = 1024
"""Entries of a source among which one must have a foreground, where a study needs one."""
MOVED = 0.01
"""Share of class names that may have another number in a model: ImageNet has two classes "maillot"."""
RESERVED = ("study", "images", SEEN, "on_progress")
"""Names that no setting of a study may have: provenance and the frame use them."""


@dataclass(frozen=True)
class Findings:
    """What a study's function returns; the frame adds names, published numbers and provenance.

    Attributes:
        table: rows of plain values, each with its `model`.
        arrays: name -> model -> array; numbers, truth values or text.
        images: how many images were read; None where the study reads none.
        skipped: the entries that could not be used.
        notes: what a reader must know of this run: a model left out, a batch dropped.
    """

    table: Sequence[Row]
    arrays: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    images: int | None = None
    skipped: Sequence[Skipped] = ()
    notes: Sequence[str] = ()

    @property
    def seen(self) -> dict[str, Any]:
        """What the run met, for its provenance."""
        reasons = Counter(entry.reason for entry in self.skipped)
        return {
            "images": self.images,
            "skipped": dict(sorted(reasons.items())),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Need:
    """Something that a study cannot do without.

    Attributes:
        holds: whether the models and the source have it.
        missing: the end of the error's sentence: what is missing and what to give.
    """

    holds: Callable[[Models, ImageSource], bool]
    missing: str


def _any_site(pattern_end: str) -> Callable[[Models, ImageSource], bool]:
    return lambda models, _: any(
        site.name.endswith(pattern_end) for model in models.values() for site in model.sites
    )


def _has_cls(models: Models, _: ImageSource) -> bool:
    return any(site.prefix_tokens and site.grid for model in models.values() for site in model.sites)


def _has_foreground(_: Models, source: ImageSource) -> bool:
    """Whether the first `LOOKED_AT` entries of a source have a foreground among them."""
    beginning = source.read(Shard("beginning", 0, min(len(source), LOOKED_AT)))
    return any(isinstance(entry, RawImage) and entry.foreground is not None for entry in beginning)


NEEDS: dict[str, Need] = {
    "labels": Need(
        lambda _, source: source.classes is not None,
        "labels, and {source} has none. Give --labels FILE (a CSV with the columns path and label), or a "
        "folder of class folders",
    ),
    "foreground": Need(
        _has_foreground,
        "boxes or masks, and {source} has neither. Give --boxes FILE or --masks DIR",
    ),
    "cls": Need(
        _has_cls,
        "a model with a CLS token, and there is none among {models}. Give one such as vit_tiny_patch16_224",
    ),
    "attention": Need(
        _any_site(".attn.pattern"),
        "a model with attention, and there is none among {models}. Give one such as vit_tiny_patch16_224",
    ),
    "logits": Need(
        _any_site("logits"),
        "a classifier, and none of {models} has logits. Give a model with a classification head",
    ),
}
"""What a study may require, by the word that stands in `Study.needs`. A model of several is enough."""


@dataclass(frozen=True)
class Study:
    """One question, and how it is answered.

    Attributes:
        name: what it is called, on the command line too.
        question: the question, as a sentence.
        method: how it is answered, in two sentences.
        citation: the paper and its section.
        run: `run(models, source, *, setting=default, ...) -> Findings`. Its keyword arguments are the study's
            settings, and their defaults the only place where a default is written. `on_progress`, where it
            takes one, is no setting.
        draw: the figures of a result, by name, the main one first.
        needs: words of `NEEDS`: what must be there.
        caveats: sentences to read before quoting a number.
        published: what the paper reports: rows of the table's columns, each with a `source`.
    """

    name: str
    question: str
    method: str
    citation: str
    run: Callable[..., Findings] = field(repr=False)
    draw: Callable[[Result], Mapping[str, Figure]] | None = field(default=None, repr=False)
    needs: tuple[str, ...] = ()
    caveats: tuple[str, ...] = field(default=(), repr=False)
    published: tuple[Row, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for need in self.needs:
            if need not in NEEDS:
                raise BadValue(
                    f"{self.name}: no need {need!r}.{suggestion(need, NEEDS)} There are: {', '.join(NEEDS)}."
                )
        for row in self.published:
            if not row.get("source"):
                raise BadValue(f"{self.name}: a published row does not say where it stands: {row}")
        for name in {*self.settings} & {*RESERVED}:
            raise BadValue(f"{self.name}: {name!r} cannot be a setting: the frame uses the name")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings and their defaults."""
        parameters = list(inspect.signature(self.run).parameters.values())[2:]
        return {each.name: each.default for each in parameters if each.name != "on_progress"}

    def describe(self) -> dict[str, Any]:
        """One entry of `vitscope studies --json`."""
        names = ("name", "question", "method", "citation", "needs", "caveats")
        facts: dict[str, Any] = plain({name: getattr(self, name) for name in names})
        return {**facts, "settings": plain(self.settings)}

    def __call__(
        self,
        models: VisionModel | Sequence[VisionModel],
        source: ImageSource,
        *,
        out: str | Path | None = None,
        on_progress: OnProgress | None = None,
        **settings: Any,
    ) -> Result:
        """Answer the question for each of the models, over the same images.

        Args:
            models: one or several; each is shown the images under its own preprocessing.
            source: the images.
            out: a folder to save the result in; one that holds another result is refused before any work.
            on_progress: told the stage, how much of it is done, and of how much.
            settings: the study's own settings, as `settings` lists them.

        Raises:
            BadValue: an unknown setting, no model, or something the study needs is missing.
            Failure: `out` holds a result that was made otherwise.
        """
        named = by_name([models] if isinstance(models, VisionModel) else models)
        given = {**self.settings, **self._checked(settings)}
        notes = self.check(named, source)
        asked = self._provenance(named, source, given)
        if out is not None:
            check_free(out, asked)
        told = {"on_progress": on_progress} if "on_progress" in inspect.signature(self.run).parameters else {}
        findings = self.run(named, source, **given, **told)
        findings = replace(findings, notes=(*notes, *findings.notes))
        made = replace(asked, settings={**asked.settings, SEEN: findings.seen})
        result = Result(
            self.name,
            tuple(named),
            tuple(_row(row, tuple(named)) for row in findings.table),
            _arrays(findings.arrays, tuple(named)),
            self.published,
            made,
            self.draw,
        )
        if out is not None:
            result.save(out)
        return result

    def check(self, models: Models, source: ImageSource) -> list[str]:
        """Refuse models or images that lack what the study needs; what a reader must know of their labels.

        Raises:
            BadValue: the message says what is missing, and what to give.
        """
        for word in self.needs:
            if not NEEDS[word].holds(models, source):
                missing = NEEDS[word].missing.format(source=source.name, models=", ".join(models))
                raise BadValue(f"the study {self.name!r} needs {missing}")
        return label_notes(models, source) if "labels" in self.needs else []

    def parse(self, texts: Iterable[str]) -> dict[str, Any]:
        """Settings from "name=value" texts; a value is read as the type of the setting's default.

        A setting that holds several values takes them with commas: "radii=4,8,16".

        Raises:
            BadValue: an unknown setting, or a value of another type.
        """
        pairs = [text.partition("=") for text in texts]
        for name, equals, _ in pairs:
            if not equals:
                raise BadValue(f"a setting is written name=value, not {name!r}")
        self._checked({name: None for name, _, _ in pairs})
        return {name: _parsed(name, value, self.settings[name]) for name, _, value in pairs}

    def _checked(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in settings:
            if name not in self.settings:
                known = ", ".join(self.settings) or "none"
                raise BadValue(
                    f"the study {self.name!r} has no setting {name!r}.{suggestion(name, self.settings)} "
                    f"There are: {known}."
                )
        return settings

    def _provenance(self, models: Models, source: ImageSource, settings: Mapping[str, Any]) -> Provenance:
        asked = {"study": self.name, "images": source.name, **plain(settings)}
        return joined(
            {
                name: Provenance(
                    kind="study",
                    model=model.name,
                    weights=model.fingerprint,
                    preprocessing=model.preprocessing.describe(),
                    source=source.fingerprint,
                    settings=asked,
                    device=model.device.type,
                )
                for name, model in models.items()
            }
        )


def by_name(models: Sequence[VisionModel]) -> dict[str, VisionModel]:
    """Models by name, in order; the second of a name is called "NAME (2)".

    Raises:
        BadValue: there is no model.
    """
    if not models:
        raise BadValue("a study needs at least one model")
    found: dict[str, VisionModel] = {}
    met: Counter[str] = Counter()
    for model in models:
        met[model.name] += 1
        found[model.name if met[model.name] == 1 else f"{model.name} ({met[model.name]})"] = model
    return found


def label_notes(models: Models, source: ImageSource) -> list[str]:
    """What makes it doubtful that the images' labels number the models' logits.

    Raises:
        BadValue: they cannot: more classes than logits, or another number for a class of the same name.
    """
    notes = []
    classes = source.classes or ()
    for name, model in models.items():
        units = next((site.units for site in model.sites if site.name == "logits"), len(classes))
        remedy = f"the labels are not the numbers of {name}'s logits. Give --labels FILE with these"
        if len(classes) > units:
            raise BadValue(f"{source.name} has {len(classes)} classes, but {name} {units} logits: {remedy}")
        places: dict[str, set[int]] = {}
        for place, known in enumerate(model.classes or ()):
            places.setdefault(known, set()).add(place)
        shared = [(called, place) for place, called in enumerate(classes) if called in places]
        moved = [(called, place) for called, place in shared if place not in places[called]]
        if moved:
            called, here = moved[0]
            said = f"{source.name} has {called!r} as class {here}, {name} as {min(places[called])}"
            if len(moved) > MOVED * len(shared):
                raise BadValue(f"{said}: {remedy}")
            notes.append(f"{said}: {len(moved)} of {len(shared)} names; taken for two classes of one name")
        named = any(called in places or called.isdigit() for called in classes)
        if len(classes) < units and not named:
            notes.append(
                f"the images have {len(classes)} classes and {name} has {units} logits: labels were taken as "
                "numbers of logits; where they are not, accuracies mean nothing"
            )
    return notes


def _row(row: Row, models: tuple[str, ...]) -> Row:
    if row.get("model") not in models:
        raise BadValue(f"a row must name one of the models {', '.join(models)}: {row}")
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}


def _arrays(
    arrays: Mapping[str, Mapping[str, Array]], models: tuple[str, ...]
) -> dict[str, Array | Mapping[str, Array]]:
    """As `Result.arrays` holds them: without the model where there is one only."""
    if len(models) > 1:
        return {name: dict(of) for name, of in arrays.items()}
    return {name: of[models[0]] for name, of in arrays.items() if models[0] in of}


def _parsed(name: str, text: str, default: Any) -> Any:
    if isinstance(default, (tuple, list)):
        sample = default[0] if default else ""
        return tuple(_parsed(name, part.strip(), sample) for part in text.split(",") if part.strip())
    if isinstance(default, str):
        return text
    try:
        value = json.loads(text.lower() if isinstance(default, bool) else text)
    except ValueError:
        value = text
    if default is None:
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise BadValue(f"{name} is a {type(default).__name__} such as {default!r}, not {text!r}")
    return value
