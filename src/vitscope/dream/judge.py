"""The verdict on finished canvases: clean and robust scores, and what dreaming returns of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.draws import generator
from vitscope.dream.ascent import Ascent, Climb
from vitscope.dream.augment import Moment, whole
from vitscope.dream.result import Dream
from vitscope.dream.scoring import Score, scoring
from vitscope.dream.trust import picture_facts, spread, status
from vitscope.lean import Lean
from vitscope.provenance import Provenance

FRESH = 1 << 40
"""Counter of the random numbers that judge a finished dream: beyond those of any step."""

FRESH_COPIES = 32
"""How many fresh augmentations judge a finished dream."""


def judged(ascent: Ascent, climb: Climb, *, retried: bool = False) -> list[Dream]:
    """The dreams that an ascent reached; judged one by one, in the model's own type."""
    with scoring(ascent.model, ascent.objectives) as score, torch.no_grad():
        return list(_dreams(ascent, climb, score, retried))


def _dreams(ascent: Ascent, climb: Climb, score: Score, retried: bool) -> Iterator[Dream]:
    origin = _origin(ascent)
    for unit, objective in enumerate(ascent.objectives):
        before, after = (_pixels(ascent, held, unit) for held in (climb.begun, climb.parameters))
        start, clean = (_clean(ascent, pixels, unit, score) for pixels in (before, after))
        robust = robust_score(ascent, after, unit, score)
        path = climb.trace[:, unit].cpu()
        verdict = status(path[ascent.recipe.warm_steps :], start=start, clean=clean, robust=robust)
        finite = bool(verdict != "diverged" and path.isfinite().all() and after.isfinite().all())
        pixels = (after if finite else before)[0].float().cpu()
        trust = {
            "status": verdict if finite else "diverged",
            "robust": robust if finite else None,
            "start": start if verdict != "diverged" else None,
            "retried": retried,
            "narrow_from": climb.narrow_from.get(unit),
            **picture_facts(pixels),
        }
        yield Dream(
            objective.text,
            pixels,
            clean if finite else None,
            path if finite else path[: int(path.isfinite().long().cumprod(dim=0).sum())],
            trust,
            ascent.seed,
            ascent.recipe.name,
            dataclasses.replace(origin, settings={"address": objective.text, **origin.settings}),
        )


def _pixels(ascent: Ascent, parameters: Tensor, unit: int) -> Float[Tensor, "1 rgb row column"]:
    return ascent.recipe.canvas.to_pixels(parameters.detach()[unit : unit + 1], ascent.canvas_size)


def _clean(ascent: Ascent, pixels: Tensor, unit: int, score: Score) -> float:
    return score(whole(pixels, ascent.model.preprocessing.size), [unit], Lean()).item()


def robust_score(ascent: Ascent, pixels: Float[Tensor, "1 rgb row column"], unit: int, score: Score) -> float:
    """The mean score of what a canvas shows over fresh augmentations, drawn as half-way through the recipe.

    They are the same ones for every picture of a unit.
    """
    recipe = ascent.recipe
    moment = Moment(recipe.steps // 2, recipe.steps, FRESH_COPIES, ascent.model.preprocessing.size)
    sources = [generator(ascent.seed, ascent.objectives[unit].text, step=FRESH)]
    scores, _ = ascent.score_pixels(pixels, [unit], moment, sources, score, Lean())
    return scores.mean().item()


def most_robust(tried: Sequence[Dream]) -> Dream:
    """Of dreams of one objective from several seeds the most robust.

    Its trust tells of all: how many `seeds`, and the `spread` of their robust scores, without those that
    diverged.
    """
    scores = {index: dream.trust["robust"] for index, dream in enumerate(tried)}
    known = {index: robust for index, robust in scores.items() if robust is not None}
    best = tried[max(known, key=known.__getitem__)] if known else tried[0]
    facts = {"seeds": len(tried), "spread": spread(list(known.values()))}
    return dataclasses.replace(best, trust={**best.trust, **facts})


def _origin(ascent: Ascent) -> Provenance:
    """What all dreams of one ascent have in common."""
    model = ascent.model
    settings = {
        "recipe": ascent.recipe.describe(),
        "seed": ascent.seed,
        "size": list(ascent.canvas_size),
        "forms": dataclasses.asdict(ascent.forms),
    }
    facts = model.preprocessing.describe()
    return Provenance(
        "dream", model.name, model.fingerprint, facts, settings=settings, device=model.device.type
    )
