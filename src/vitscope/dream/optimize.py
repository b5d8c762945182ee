"""Gradient ascent on canvases: many units at once, each as if it were alone.

Units are the batch axis. One parameter tensor and one optimiser step serve them all, and both the
optimiser's arithmetic and the random numbers are per unit, so a unit's dream depends on model, objective,
recipe and seed only.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vitscope.arrays import Activations, Pixels, Scores
from vitscope.dream.augment import Moment, augment, generator, whole
from vitscope.dream.canvases import Size
from vitscope.dream.objectives import BoundObjective, Objective
from vitscope.dream.recipe import Recipe
from vitscope.errors import BadValue, NotWritable
from vitscope.models.vision_model import Site, VisionModel
from vitscope.provenance import TEXT_CHUNK, Provenance
from vitscope.tap import tap

OnStep = Callable[[int, int], None]
"""Called after every step with how many unit-steps are done and how many there are."""

UNITS_PER_BATCH = {"cpu": 32, "cuda": 256}
IMAGES_PER_FORWARD = {"cpu": 16, "cuda": 512}
"""By device type; on two CPU cores 8 to 32 images were fastest, larger batches leave the cache."""

FRESH = 1 << 40
"""Counter of the random numbers that judge a finished dream: beyond those of any step."""

FRESH_COPIES = 32
"""How many fresh augmentations judge a finished dream."""

STILL = 1e-6
"""A score that never moves by more than this, relative to its size, belongs to a dead unit."""


@dataclass(frozen=True, eq=False)
class Dream:
    """A picture synthesised to excite one objective, and how far it can be trusted.

    Attributes:
        address: the unit's address, or the objective's formula.
        pixels: the image, in [0, 1]; never anything but finite.
        score: the objective of the image itself, shown to the model without augmentation. None where it
            diverged.
        trace: mean objective over the augmented copies, step by step, for as long as it was finite; in the
            warm-up of a recipe the objective before the activation function.
        trust: `status` is "ok", "dead" (the objective never moved) or "diverged" (it left the finite
            numbers, twice); `robust` is the mean objective over 32 fresh augmentations, drawn as half-way
            through the recipe; `start` is the objective of the canvas before the first step; `retried`
            tells that a first try diverged.
        seed: the seed that made it: the one asked for, or the next where that one diverged.
        recipe: the recipe's name.
        provenance: everything needed to make it again.
    """

    address: str
    pixels: Float[Tensor, "rgb row column"]
    score: float | None
    trace: Float[Tensor, " step"]
    trust: dict[str, Any]
    seed: int
    recipe: str
    provenance: Provenance = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Write a PNG that carries the provenance in a text chunk; its folder is made where it is missing.

        Raises:
            NotWritable: the file cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._repr_png_())
        except OSError as error:
            raise NotWritable(f"cannot write {path}: {error.strerror}") from error
        return path

    def describe(self) -> dict[str, Any]:
        """The JSON of `vitscope dream`, without the file's path."""
        names = ("address", "recipe", "seed", "score", "trust")
        return {name: getattr(self, name) for name in names}

    def _repr_png_(self) -> bytes:
        levels = rearrange((self.pixels * 255).round().to(torch.uint8), "rgb row column -> row column rgb")
        text = PngInfo()
        text.add_text(TEXT_CHUNK, self.provenance.to_json())
        file = io.BytesIO()
        Image.fromarray(levels.cpu().numpy()).save(file, format="PNG", pnginfo=text)
        return file.getvalue()


def optimize(
    model: VisionModel,
    objectives: Sequence[Objective],
    *,
    recipe: Recipe,
    seed: int = 0,
    batch_size: int | None = None,
    on_step: OnStep | None = None,
) -> list[Dream]:
    """Dream of every objective, in their order.

    Objectives that read the same sites share a batch. Each step costs a forward and a backward pass of
    `copies` images per objective through the blocks up to the deepest site.

    Args:
        model: the model to dream with; it is left as it was, whatever happens.
        objectives: what to maximise, one dream each.
        recipe: every setting.
        seed: with the objective's text it fixes all random numbers.
        batch_size: objectives per batch; the result does not depend on it.
        on_step: told after every step how many unit-steps are done, of how many.

    Raises:
        UnknownSite, UnknownAddress, UnknownName, BadValue: the model does not have what an objective reads.
    """
    if batch_size is not None and batch_size < 1:
        raise BadValue(f"batch_size must be at least 1, not {batch_size}")
    bound = [objective.bind(model) for objective in objectives]
    size = batch_size or UNITS_PER_BATCH.get(model.device.type, UNITS_PER_BATCH["cpu"])
    dreams: dict[int, Dream] = {}
    done = 0

    def tick(units: int) -> None:
        nonlocal done
        done += units
        if on_step is not None:
            on_step(done, len(bound) * recipe.steps)

    for indices in _batches(bound, size):
        ascent = Ascent(model, [bound[i] for i in indices], recipe, seed)
        made = ascent.run(tick)
        for again in [i for i, dream in enumerate(made) if dream.trust["status"] == "diverged"]:
            retry = Ascent(model, [bound[indices[again]]], recipe, seed + 1, retried=True)
            made[again] = retry.run(lambda _: None)[0]
        dreams.update(zip(indices, made, strict=True))
    return [dreams[i] for i in range(len(bound))]


Score = Callable[[Pixels, range], Scores]
"""Images of a range of units, and their scores."""


@dataclass(frozen=True)
class Ascent:
    """Gradient ascent for one batch of objectives that read the same sites."""

    model: VisionModel
    objectives: Sequence[BoundObjective]
    recipe: Recipe
    seed: int
    retried: bool = False

    @property
    def canvas_size(self) -> Size:
        """Rows and columns of the canvases."""
        rows, columns = (round(self.recipe.canvas_scale * length) for length in self.model.preprocessing.size)
        return rows, columns

    def run(self, tick: Callable[[int], None]) -> list[Dream]:
        """Start, climb, judge."""
        recipe, units = self.recipe, len(self.objectives)
        begun = recipe.canvas.start(self._sources(range(units), 0), self.canvas_size).to(self.model.device)
        parameters = begun.clone().requires_grad_()
        optimiser = _optimiser(recipe, parameters)
        trace = torch.zeros(recipe.steps, units, device=self.model.device)
        for objectives, steps in self._phases():
            with scoring(self.model, objectives) as score:
                for step in steps:
                    parameters.grad, trace[step] = self._slope(parameters.detach(), step, score)
                    optimiser.param_groups[0]["lr"] = recipe.rate(step)
                    optimiser.step()
                    if recipe.canvas.bounds is not None:
                        parameters.data.clamp_(*recipe.canvas.bounds)
                    tick(units)
        with scoring(self.model, self.objectives) as score, torch.no_grad():
            return self._judge(begun, parameters.detach(), trace, score)

    def _phases(self) -> tuple[tuple[Sequence[BoundObjective], range], ...]:
        """What is climbed in which steps: first the warm-up, which may be empty."""
        warm = round(self.recipe.warm_up * self.recipe.steps)
        before = [objective.before(self.model) for objective in self.objectives]
        return (before, range(warm)), (self.objectives, range(warm, self.recipe.steps))

    def _slope(self, parameters: Tensor, step: int, score: Score) -> tuple[Tensor, Scores]:
        """The gradient of what is minimised, and every unit's mean score."""
        recipe = self.recipe
        moment = Moment(step, recipe.steps, recipe.copies, self.model.preprocessing.size)
        gradients, means = torch.empty_like(parameters), []
        for part in self._parts(recipe.copies):
            held = parameters[part.start : part.stop].clone().requires_grad_()
            views, scores = self._score_views(held, part, moment, 1 + step, score)
            prices = [penalty.price(views).view_as(scores) for penalty in recipe.penalties]
            gains = torch.stack([scores, *(-price for price in prices)]).sum(dim=0).mean(dim=1)
            loss = -gains.sum()  # the one line where the sign flips and units are summed
            (gradients[part.start : part.stop],) = torch.autograd.grad(loss, held)
            means.append(scores.detach().mean(dim=1))
        return gradients, torch.cat(means)

    def _score_views(
        self, parameters: Tensor, part: range, moment: Moment, counter: int, score: Score
    ) -> tuple[Pixels, Float[Tensor, "unit copy"]]:
        """Augmented copies of some units' canvases, and the score of each."""
        views = augment(
            self.recipe.canvas.to_pixels(parameters, self.canvas_size),
            self.recipe.augmentations,
            sources=self._sources(part, counter),
            moment=moment,
            crops=self.recipe.crops,
        )
        images = rearrange(views, "unit copy rgb row column -> (unit copy) rgb row column")
        return images, rearrange(score(images, part), "(unit copy) -> unit copy", unit=len(part))

    def _judge(self, begun: Tensor, parameters: Tensor, trace: Tensor, score: Score) -> list[Dream]:
        """Clean and robust scores of the finished canvases, and the verdict on each; one unit at a time."""
        recipe, size = self.recipe, self.model.preprocessing.size
        moment = Moment(recipe.steps // 2, recipe.steps, FRESH_COPIES, size)
        origin, warm = self._origin(), len(self._phases()[0][1])
        dreams = []
        for unit in range(len(self.objectives)):
            part = range(unit, unit + 1)
            before, after = (
                recipe.canvas.to_pixels(held[unit : unit + 1], self.canvas_size)
                for held in (begun, parameters)
            )
            start, clean = (score(whole(pixels, size), part).item() for pixels in (before, after))
            held = parameters[unit : unit + 1]
            robust = self._score_views(held, part, moment, FRESH, score)[1].mean().item()
            path = trace[:, unit].cpu()
            finite = all(map(math.isfinite, [clean, robust, after.sum().item(), *path.tolist()]))
            trust = {
                "status": "diverged" if not finite else "dead" if _still(path[warm:], start, clean) else "ok",
                "robust": robust if finite else None,
                "start": start if math.isfinite(start) else None,
                "retried": self.retried,
            }
            text = self.objectives[unit].text
            dreams.append(
                Dream(
                    text,
                    (after if finite else before)[0].float().cpu(),
                    clean if finite else None,
                    path if finite else path[: int(path.isfinite().long().cumprod(dim=0).sum())],
                    trust,
                    self.seed,
                    recipe.name,
                    dataclasses.replace(origin, settings={"address": text, **origin.settings}),
                )
            )
        return dreams

    def _origin(self) -> Provenance:
        """What all dreams of this batch have in common."""
        model = self.model
        settings = {"recipe": self.recipe.describe(), "seed": self.seed, "size": list(self.canvas_size)}
        facts = model.preprocessing.describe()
        device = model.device.type
        return Provenance("dream", model.name, model.fingerprint, facts, settings=settings, device=device)

    def _parts(self, copies: int) -> Iterator[range]:
        """The units in runs that make one forward pass; no unit is ever split."""
        budget = IMAGES_PER_FORWARD.get(self.model.device.type, IMAGES_PER_FORWARD["cpu"])
        run = max(1, budget // copies)
        for start in range(0, len(self.objectives), run):
            yield range(start, min(start + run, len(self.objectives)))

    def _sources(self, part: range, counter: int) -> list[Any]:
        return [generator(self.seed, self.objectives[unit].text, step=counter) for unit in part]


@contextmanager
def scoring(model: VisionModel, objectives: Sequence[BoundObjective]) -> Iterator[Score]:
    """A function from images to their scores, while the model is tapped; differentiable with respect to the
    images.

    The objectives must read the same sites. The forward pass ends after the deepest of them, and
    activations are only looked at while their site fires.

    Yields:
        A function of images, the same number for each unit in a row, and of the range of those units.
    """
    gathered: list[Scores] = []
    shown = range(0)

    def on_read(site: Site, activations: Activations) -> None:
        shares = torch.split(activations, len(activations) // len(shown))
        pairs = zip(shown, shares, strict=True)
        gathered.append(torch.cat([objectives[unit].read(site, share) for unit, share in pairs]))

    with tap(model, objectives[0].sites, on_read=on_read) as run:

        def score(images: Pixels, units: range) -> Scores:
            nonlocal shown
            shown = units
            gathered.clear()
            run(images)
            return torch.stack(gathered).sum(dim=0)

        yield score


def _batches(objectives: Sequence[BoundObjective], size: int) -> Iterator[list[int]]:
    """Indices of objectives that read the same sites, at most `size` at a time."""
    groups: dict[frozenset[Site], list[int]] = {}
    for index, objective in enumerate(objectives):
        groups.setdefault(frozenset(objective.sites), []).append(index)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _optimiser(recipe: Recipe, parameters: Tensor) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.NAdam
    return kind([parameters], lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon)


def _still(path: Float[Tensor, " step"], start: float, clean: float) -> bool:
    values = torch.cat([path, path.new_tensor([start, clean])])
    return bool(values.max() - values.min() <= STILL * values.abs().max())
