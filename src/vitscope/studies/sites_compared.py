"""Why dreams are made of the FFN: those of queries, keys and values are noisier (Ghiasi et al. 2022).

Rows with `part` "block", one for each kind of site at an early and at a late block, and with `part` "kind",
one for each kind of site. Arrays [kind][end][unit]: `high_frequency`, `units`, `status`, `dreams`, where
"end" is early, then late, and `kinds` names the first axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float

from vitscope.atlas.commit import file_name
from vitscope.data.source import ImageSource
from vitscope.errors import BadValue, Unsuited
from vitscope.meters.reading import Array
from vitscope.models.vision_model import Site, VisionModel
from vitscope.studies.appearance import as_text, features, roughness
from vitscope.studies.dreamt import Dreamt, drawn, dreams_of, short
from vitscope.studies.effects import average, cliffs_delta, mean_of, separability
from vitscope.studies.result import Result, Row
from vitscope.studies.sites_drawn import sites_figure
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.tap import read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDS = ("early", "late")
READ_AT_ONCE = 8
"""Dreams shown to the model together, for its own features."""


def run(
    models: Models,
    source: ImageSource,
    *,
    kinds: Sequence[str] = ("ffn", "attn.q", "attn.k", "attn.v"),
    units: int = 8,
    early: float = 0.1,
    late: float = 0.9,
    recipe: str = "vitscope",
    steps: int = 64,
    copies: int = 0,
    seed: int = 0,
    keep: str = "",
    on_progress: OnProgress | None = None,
) -> Findings:
    """Dream of units drawn by lot at every kind of site, early and late, and compare the dreams.

    Args:
        models: the models; one without the first kind and another is left out, with a note.
        source: images, which are not read.
        kinds: ends of site names; the others are compared with the first.
        units: how many a site and block; the paper's claim wants 32 or more.
        early, late: which blocks, as a share of the depth: 0 is the first that has such a site, 1 the last.
        recipe: of the dreams; the paper's own is "ghiasi_2022".
        steps, copies: of the recipe; 0 leaves its own.
        seed: of the units, the dreams and the parts of the cross-validation.
        keep: a folder for the dreams, so that a run that was stopped goes on; "" keeps none.
        on_progress: told how many dreams of a model are done.

    Raises:
        BadValue: fewer than two kinds, a depth outside 0 to 1, or fewer than one unit.
        Unsuited: no model has the first kind and another.
    """
    if len(kinds) < 2 or not 0 <= early <= late <= 1:
        raise BadValue(
            "sites_compared needs two kinds of sites and 0 <= early <= late <= 1, "
            f"not {', '.join(kinds) or 'none'}, {early} and {late}"
        )
    setting = short(recipe, steps=steps, copies=copies)
    findings: list[_Compared] = []
    notes = [f"{source.name} was not read: dreams need no images"]
    for name, model in models.items():
        there = [kind for kind in kinds if _sites(model, kind)]
        if kinds[0] not in there or len(there) < 2:
            notes.append(f"{name} is left out: it has {', '.join(there) or 'none'} of {', '.join(kinds)}")
            continue
        chosen = {kind: _ends(_sites(model, kind), (early, late)) for kind in there}
        wanted = {site.name: drawn(site, units=units, seed=seed) for two in chosen.values() for site in two}
        told = partial(on_progress, name) if on_progress else None
        found = dreams_of(model, wanted, recipe=setting, seed=seed, keep=keep, on_progress=told)
        dreams = {kind: [found[site.name] for site in two] for kind, two in chosen.items()}
        findings.append(_Compared(name, dreams, _own(model, found), seed))
    if not findings:
        raise Unsuited(f"no model has sites that end in {kinds[0]!r} and in another of {', '.join(kinds)}")
    table = [{"model": one.name, **row} for one in findings for row in one.rows()]
    arrays: dict[str, dict[str, Array]] = {}
    for one in findings:
        for array, values in one.arrays().items():
            arrays.setdefault(array, {})[one.name] = values
    return Findings(table, arrays, notes=notes)


@dataclass(frozen=True)
class _Compared:
    """The dreams of one model, by kind, of the early and of the late block.

    Attributes:
        name: of the model.
        dreams: kind -> early, late.
        own: what the model itself makes of each dream, by site and unit; None where it has no such vector.
        seed: of the cross-validation.
    """

    name: str
    dreams: dict[str, list[list[Dreamt]]]
    own: dict[tuple[str, int], Float[Array, " unit"]] | None
    seed: int

    def rows(self) -> list[Row]:
        """One for each kind and block, then one for each kind."""
        reference, *_ = self.dreams
        shares = {kind: [_shares(end) for end in ends] for kind, ends in self.dreams.items()}
        blocks: list[Row] = []
        kinds: list[Row] = []
        for kind, ends in self.dreams.items():
            deltas = [cliffs_delta(*pair) for pair in zip(shares[kind], shares[reference], strict=True)]
            for end, dreams, share, delta in zip(ENDS, ends, shares[kind], deltas, strict=True):
                row = {"part": "block", "kind": kind, "end": end, "site": dreams[0].site, **_counts(dreams)}
                row |= mean_of(share).row("high_frequency")
                blocks.append({**row, **({} if kind == reference else delta.row("delta"))})
            both = [*ends[0], *ends[1]]
            row = {"part": "kind", "kind": kind, **_counts(both)}
            row |= mean_of(np.concatenate(shares[kind])).row("high_frequency")
            row |= {} if kind == reference else average(deltas).row("delta")
            kinds.append({**row, **self._separability(ends)})
        return [*blocks, *kinds]

    def _separability(self, ends: Sequence[Sequence[Dreamt]]) -> Row:
        """Of early and late dreams, by what they look like and by what the model itself makes of them."""
        good = [
            (dream, which) for which, dreams in enumerate(ends) for dream in dreams if dream.status == "ok"
        ]
        late = np.array([which == 1 for _, which in good], dtype=bool)
        row: Row = {}
        looks = {"separability": [features(dream.pixels) for dream, _ in good]}
        if self.own is not None:
            looks["separability_own"] = [self.own[dream.site, dream.unit] for dream, _ in good]
        for column, vectors in looks.items():
            stacked = np.stack(vectors) if vectors else np.zeros((0, 1))
            row |= separability(stacked, late, seed=self.seed).row(column)
        return row

    def arrays(self) -> dict[str, Array]:
        """Per unit, and the dreams themselves as small pictures."""
        width = max(len(end) for ends in self.dreams.values() for end in ends)

        def table(value: Any, missing: Any) -> Array:
            rows = [
                [[value(dream) for dream in end] + [missing] * (width - len(end)) for end in ends]
                for ends in self.dreams.values()
            ]
            return np.array(rows)

        return {
            "kinds": np.array(list(self.dreams)),
            "units": table(lambda dream: dream.unit, -1),
            "status": table(lambda dream: dream.status, ""),
            "high_frequency": table(_rough_if_good, np.nan),
            "dreams": table(lambda dream: as_text(dream.pixels), ""),
        }


def _shares(dreams: Sequence[Dreamt]) -> Float[Array, " dream"]:
    """The roughness of every dream that says something of its unit."""
    return np.array([roughness(dream.pixels) for dream in dreams if dream.status == "ok"])


def _rough_if_good(dream: Dreamt) -> float:
    return roughness(dream.pixels) if dream.status == "ok" else float("nan")


def _counts(dreams: Sequence[Dreamt]) -> Row:
    good = sum(dream.status == "ok" for dream in dreams)
    return {"units": good, "left_out": len(dreams) - good}


def _sites(model: VisionModel, kind: str) -> list[Site]:
    """The sites of that kind, in the order of the pass."""
    return [site for site in model.sites if site.name.endswith(f".{kind}")]


def _ends(sites: Sequence[Site], depths: Sequence[float]) -> list[Site]:
    return [sites[round(depth * (len(sites) - 1))] for depth in depths]


def _own(
    model: VisionModel, dreams: dict[str, list[Dreamt]]
) -> dict[tuple[str, int], Float[Array, " unit"]] | None:
    """The vector before the classifier that the model makes of every dream."""
    pooled = next((site for site in model.sites if site.name == "pooled"), None)
    if pooled is None:
        return None
    every = [dream for of in dreams.values() for dream in of]
    found: dict[tuple[str, int], Float[Array, " unit"]] = {}
    for start in range(0, len(every), READ_AT_ONCE):
        part = every[start : start + READ_AT_ONCE]
        shown = rearrange(
            np.stack([dream.pixels for dream in part]), "image row column rgb -> image rgb row column"
        )
        pixels = torch.nn.functional.interpolate(
            torch.from_numpy(shown / 255).float(), size=model.preprocessing.size, mode="area"
        )
        with torch.no_grad():
            vectors = read(model, pixels, [pooled])["pooled"].mean(dim=1).float().cpu().numpy()
        found |= {(dream.site, dream.unit): vector for dream, vector in zip(part, vectors, strict=True)}
    return found


def draw(result: Result) -> dict[str, Figure]:
    """For each model: strips of dreams by kind, early and late, beside the share of high frequencies."""
    names = list(result.by_model("kinds"))
    shown = {name: "dreams" if len(names) == 1 else f"dreams.{file_name(name)}" for name in names}
    return {stem: sites_figure(result, name, ends=ENDS) for name, stem in shown.items()}


SITES_COMPARED = Study(
    name="sites_compared",
    question="Are dreams of queries, keys and values noisier than the FFN's, and less telling of depth?",
    method=(
        "Units are drawn by lot at an early and a late block, and each is dreamt with the same recipe. Of "
        "every dream the share of its power above a quarter of the Nyquist frequency is measured, and a "
        "linear classifier is asked whether the dream is of the early or of the late block."
    ),
    citation="Ghiasi et al. 2022, Figure 3 (arXiv 2212.06727)",
    run=run,
    draw=draw,
    caveats=(
        "The paper shows pictures and no numbers: the share of high frequencies and the classifier are our "
        "measures of what it describes.",
        "A recipe decides how much high frequency a dream can have: compare sites under one recipe, and no "
        "share with that of another.",
        "Few steps make shorter ways from the same noise: dreams of all sites are then more alike.",
        "Separability has an interval that takes the dreams for independent, which under cross-validation "
        "they are not quite. 50 % is chance where both groups are of one size.",
        "separability_own uses the vector before the classifier of the very model that was dreamt with, so "
        "it also tells how differently the model answers to its own dreams.",
        "Dead and diverged dreams are left out and counted.",
    ),
)
