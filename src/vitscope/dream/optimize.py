"""Dreams of many objectives: in batches, each tried again once where its numbers diverged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from vitscope.dream.ascent import Ascent, Glimpse
from vitscope.dream.judge import judged, most_robust
from vitscope.dream.objectives import BoundObjective, Objective
from vitscope.dream.plan import Plan, plan_dreams
from vitscope.dream.recipe import Recipe
from vitscope.dream.result import Dream
from vitscope.errors import BadValue
from vitscope.models.vision_model import Site, VisionModel

OnStep = Callable[[int, int], None]
"""Called after every step with how many unit-steps are done and how many there are."""

OnGlimpse = Callable[[Glimpse], None]
"""Called after every step with where the ascent of a batch is."""

OnPlan = Callable[[Plan], None]
"""Called with the plan, before the first step."""


def optimize(
    model: VisionModel,
    objectives: Sequence[Objective],
    *,
    recipe: Recipe,
    seed: int = 0,
    seeds: int = 1,
    batch_size: int | None = None,
    plan: Plan | None = None,
    on_plan: OnPlan | None = None,
    on_step: OnStep | None = None,
    on_glimpse: OnGlimpse | None = None,
) -> list[Dream]:
    """Dream of every objective, in their order; an objective with several canvases gives as many dreams.

    Objectives that read the same sites share a batch. Each step costs a forward and a backward pass of
    `copies` images per objective through the blocks up to the deepest site.

    Args:
        model: the model to dream with; it is left as it was, whatever happens.
        objectives: what to maximise, one dream each.
        recipe: every setting.
        seed: with the objective's text it fixes all random numbers.
        seeds: how many seeds to try, from `seed` on. The most robust dream is returned; its trust has the
            `spread` of all.
        batch_size: objectives per batch; the result does not depend on it.
        plan: how passes are computed; measured where none is given.
        on_plan: told how passes are computed, and how long that should take.
        on_step: told after every step how many unit-steps are done, of how many.
        on_glimpse: shown after every step what the canvases of the batch look like, if it asks. What it
            raises ends the work. An ascent that is tried again after it diverged is not shown.

    Raises:
        UnknownSite, UnknownAddress, UnknownName, BadValue: the model does not have what an objective reads.
    """
    for name, number in (("batch_size", batch_size), ("seeds", seeds)):
        if number is not None and number < 1:
            raise BadValue(f"{name} must be at least 1, not {number}")
    bound = [objective.bind(model) for objective in objectives]
    if not bound:
        return []
    canvases = [canvas for objective in bound for canvas in objective.apart]
    plan = plan or plan_dreams(model, canvases, recipe=recipe)
    if on_plan is not None:
        on_plan(replace(plan, seconds=plan.seconds * seeds))
    done = 0

    def tick(glimpse: Glimpse) -> None:
        nonlocal done
        done += glimpse.units
        if on_step is not None:
            on_step(done, len(canvases) * recipe.steps * seeds)
        if on_glimpse is not None:
            on_glimpse(glimpse)

    batches = list(_batches(bound, batch_size or plan.units))
    tries = [_dreams(model, bound, batches, recipe, seed + n, plan, tick) for n in range(seeds)]
    return [most_robust(tried) if seeds > 1 else tried[0] for tried in zip(*tries, strict=True)]


def _dreams(
    model: VisionModel,
    objectives: Sequence[BoundObjective],
    batches: Sequence[Sequence[int]],
    recipe: Recipe,
    seed: int,
    plan: Plan,
    tick: OnGlimpse,
) -> list[Dream]:
    """With one seed; where numbers diverged with the next."""
    dreams: dict[int, list[Dream]] = {}
    for indices in batches:
        ascent = Ascent(model, [objectives[i] for i in indices], recipe, seed, plan.forms, plan.images)
        for index, found in zip(indices, _made(ascent, tick), strict=True):
            dreams[index] = found
            if any(dream.trust["status"] == "diverged" for dream in found):
                again = replace(ascent, objectives=[objectives[index]], seed=seed + 1)
                dreams[index] = _made(again, lambda _: None, retried=True)[0]
    return [dream for index in range(len(objectives)) for dream in dreams[index]]


def _made(ascent: Ascent, tick: OnGlimpse, *, retried: bool = False) -> list[list[Dream]]:
    """The dreams of every objective of an ascent."""
    climb = ascent.run(tick)
    made = judged(ascent.apart, climb, retried=retried)
    groups: list[list[Dream]] = [[] for _ in ascent.objectives]
    for owner, dream, slopes in zip(ascent.owners, made, climb.slopes.cpu(), strict=True):
        groups[owner].append(replace(dream, transparency=_scaled(slopes)))
    return groups


def _scaled(slopes: Float[Tensor, "row column"]) -> Float[Tensor, "row column"] | None:
    """In [0, 1], the largest being 1; None where a number is not finite or all are zero."""
    greatest = slopes.max()
    return slopes / greatest if slopes.isfinite().all() and greatest > 0 else None


def _batches(objectives: Sequence[BoundObjective], size: int) -> Iterator[list[int]]:
    """Indices of objectives that read the same sites, with at most `size` canvases at a time, if an objective
    has no more.
    """
    groups: dict[frozenset[Site], list[int]] = {}
    for index, objective in enumerate(objectives):
        groups.setdefault(frozenset(objective.sites), []).append(index)
    for group in groups.values():
        batch: list[int] = []
        held = 0
        for index in group:
            if batch and held + objectives[index].canvases > size:
                yield batch
                batch, held = [], 0
            batch.append(index)
            held += objectives[index].canvases
        yield batch
