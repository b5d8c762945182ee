"""Gradient ascent on canvases: many units at once, each as if it were alone.

Units are the batch axis. One parameter tensor and one optimiser step serve them all, and both the
optimiser's arithmetic and the random numbers are per unit, so a unit's dream depends on model, objective,
recipe, seed and forms only.

Here a unit is one canvas. An objective has one, or several that it compares; those are always in one pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import groupby

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vitscope.arrays import Pixels, Scores
from vitscope.draws import generator
from vitscope.dream.augment import Moment, Views, augment
from vitscope.dream.canvases import FromPixels, Size
from vitscope.dream.numbers import EvenNumbers, Numbers
from vitscope.dream.objectives import BoundObjective
from vitscope.dream.pictures import Picture
from vitscope.dream.recipe import Recipe
from vitscope.dream.scoring import Beside, Score, scoring
from vitscope.errors import BadValue
from vitscope.lean import AS_WRITTEN, Forms, Lean
from vitscope.models.vision_model import VisionModel

IMAGES_PER_PASS = {"cpu": 32, "cuda": 512}
"""At most, by device type: on two CPU cores 8 to 32 images were fastest, larger ones leave the cache."""

AGREEMENT = 0.999
"""How well a gradient in bfloat16 has to agree with the one in float32: the cosine between them."""


@dataclass
class Climb:
    """Where an ascent is.

    Attributes:
        begun: the canvases' parameters at the start.
        parameters: and now.
        trace: mean score by step and unit.
        slopes: how much the score depended on every pixel: absolute slopes, summed over colours and steps.
        narrow_from: by unit, the step from which its passes are in bfloat16; units not in it are in the
            model's own type.
    """

    begun: Float[Tensor, "unit ..."]
    parameters: Float[Tensor, "unit ..."]
    trace: Float[Tensor, "step unit"]
    slopes: Float[Tensor, "unit row column"]
    narrow_from: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Slopes:
    """The gradients of one step.

    Attributes:
        parameters: of what is minimised, by the canvases' parameters.
        scores: every unit's mean score.
        pixels: of the scores alone, by pixel: absolute, summed over colours.
    """

    parameters: Float[Tensor, "unit ..."]
    scores: Scores
    pixels: Float[Tensor, "unit row column"]


@dataclass(frozen=True)
class Ascent:
    """Gradient ascent for one batch of objectives.

    Attributes:
        model: the model.
        objectives: what to climb.
        recipe: every setting.
        seed: with an objective's text it fixes all its random numbers.
        forms: how passes are computed. Where these are in bfloat16, a unit's passes are in the model's own
            type until both agree about its gradient.
        images: how many at most a pass shows; of one unit at least all copies.
    """

    model: VisionModel
    objectives: Sequence[BoundObjective]
    recipe: Recipe
    seed: int
    forms: Forms = AS_WRITTEN
    images: int | None = None

    @property
    def canvas_size(self) -> Size:
        """Rows and columns of the canvases."""
        rows, columns = (round(self.recipe.canvas_scale * length) for length in self.model.preprocessing.size)
        return rows, columns

    @cached_property
    def canvases(self) -> tuple[BoundObjective, ...]:
        """What every canvas is to show by itself."""
        return tuple(alone for objective in self.objectives for alone in objective.apart)

    @cached_property
    def owners(self) -> tuple[int, ...]:
        """Whose canvas each is: indices of objectives."""
        return tuple(
            owner for owner, objective in enumerate(self.objectives) for _ in range(objective.canvases)
        )

    @property
    def apart(self) -> Ascent:
        """The same for canvases by themselves: what finished ones are judged by."""
        return replace(self, objectives=self.canvases)

    def run(self, tick: Callable[[Glimpse], None]) -> Climb:
        """Take all steps; `tick` is shown after each where the ascent is. What it raises ends the ascent.

        Raises:
            BadValue: an objective starts from an image, and the recipe's canvas cannot.
        """
        climb, recipe = self._begin(), self.recipe
        optimiser = _optimiser(recipe, climb.parameters)
        lean = Lean(self.forms), Lean(self.forms.wide)
        for objectives, steps in self._phases():
            with scoring(self.model, objectives) as score:
                for step in steps:
                    slopes = self._slope(climb, step, score, *lean)
                    climb.parameters.grad, climb.trace[step] = slopes.parameters, slopes.scores
                    climb.slopes += slopes.pixels
                    optimiser.param_groups[0]["lr"] = recipe.rate(step)
                    optimiser.step()
                    if recipe.canvas.bounds is not None:
                        climb.parameters.data.clamp_(*recipe.canvas.bounds)
                    tick(Glimpse(self, climb, step))
        return climb

    def _begin(self) -> Climb:
        recipe, device = self.recipe, self.model.device
        sources = [generator(self.seed, canvas.text, step=0) for canvas in self.canvases]
        begun = recipe.canvas.start(sources, self.canvas_size)
        for unit, canvas in enumerate(self.canvases):
            if canvas.begin:
                begun[unit : unit + 1] = self._from(canvas.begin)
        begun = begun.to(device)
        trace = torch.zeros(recipe.steps, len(begun), device=device)
        slopes = torch.zeros(len(begun), *self.canvas_size, device=device)
        return Climb(begun, begun.clone().requires_grad_(), trace, slopes)

    def _from(self, start: Picture) -> Float[Tensor, "1 ..."]:
        """The parameters of a canvas that shows an image."""
        if not isinstance(self.recipe.canvas, FromPixels):
            kind = type(self.recipe.canvas).__name__
            raise BadValue(
                f"recipe {self.recipe.name} cannot start from {start}: a {kind} cannot show every image. "
                "Recipes on pixels or Fourier coefficients can, such as ghiasi_2022 and olah_2017."
            )
        return self.recipe.canvas.from_pixels(start.fitted(self.model.preprocessing, self.canvas_size))

    def _phases(self) -> tuple[tuple[Sequence[BoundObjective], range], ...]:
        """What is climbed in which steps: first the warm-up, which may be empty."""
        warm = self.recipe.warm_steps
        before = [objective.before(self.model) for objective in self.objectives]
        return (before, range(warm)), (self.objectives, range(warm, self.recipe.steps))

    def _slope(self, climb: Climb, step: int, score: Score, narrow: Lean, wide: Lean) -> Slopes:
        """The gradients of all units, each in the type it has reached."""
        units = range(len(self.canvases))
        in_own = [unit for unit in units if unit not in climb.narrow_from]
        in_narrow = [unit for unit in units if unit in climb.narrow_from]
        parameters = climb.parameters.detach()
        slopes = Slopes(
            torch.empty_like(parameters), parameters.new_empty(len(units)), torch.empty_like(climb.slopes)
        )
        for some, lean in ((in_narrow, narrow), (in_own, wide)):
            if some:
                found = self._slopes(parameters, some, step, score, lean)
                slopes.parameters[some], slopes.scores[some] = found.parameters, found.scores
                slopes.pixels[some] = found.pixels
        if in_own and narrow.forms != wide.forms and _is_check(step):
            other = self._slopes(parameters, in_own, step, score, narrow).parameters
            agreement = F.cosine_similarity(slopes.parameters[in_own].flatten(1), other.flatten(1)).tolist()
            agreed = [unit for unit, cosine in zip(in_own, agreement, strict=True) if cosine >= AGREEMENT]
            climb.narrow_from |= dict.fromkeys(self._whole_groups(agreed), step + 1)
        return slopes

    def _slopes(
        self, parameters: Tensor, units: Sequence[int], step: int, score: Score, lean: Lean
    ) -> Slopes:
        """The same for some units, in these forms."""
        recipe = self.recipe
        moment = Moment(step, recipe.steps, recipe.copies, self.model.preprocessing.size)
        found: list[Slopes] = []
        for part in self._parts(units, recipe.copies):
            held = parameters[part].requires_grad_()
            pixels = recipe.canvas.to_pixels(held, self.canvas_size)
            scores, prices = self.score_pixels(pixels, part, moment, self._numbers(part, step), score, lean)
            toll = _slope_of(prices, pixels)  # first, so that its small graph is kept and not the model's
            (rise,) = torch.autograd.grad(scores.mean(dim=1).sum(), pixels)
            fall = toll - rise  # the one line where the sign flips
            (slope,) = torch.autograd.grad(pixels, held, fall)
            found.append(Slopes(slope, scores.detach().mean(dim=1), rise.abs().sum(dim=1)))
        return Slopes(
            torch.cat([each.parameters for each in found]),
            torch.cat([each.scores for each in found]),
            torch.cat([each.pixels for each in found]),
        )

    def score_pixels(
        self,
        pixels: Pixels,
        units: Sequence[int],
        moment: Moment,
        sources: Sequence[Numbers],
        score: Score,
        lean: Lean,
    ) -> tuple[Float[Tensor, "unit copy"], Float[Tensor, "unit copy"]]:
        """Score and price of augmented copies of what some units' canvases show, drawn from these sources."""
        beside = self._beside(units, moment, sources)
        views = self._views(pixels, moment, sources)
        owners = [owner for owner, _ in groupby(self.owners[unit] for unit in units)]
        scores = rearrange(
            score(_images(views), owners, lean, beside), "(unit copy) -> unit copy", unit=len(units)
        )
        prices = [penalty.price(views) for penalty in self.recipe.penalties]
        return scores, torch.stack([torch.zeros_like(scores), *prices]).sum(dim=0)

    def _views(self, pixels: Pixels, moment: Moment, sources: Sequence[Numbers]) -> Views:
        recipe = self.recipe
        return augment(pixels, recipe.augmentations, sources=sources, moment=moment, crops=recipe.crops)

    def _beside(self, units: Sequence[int], moment: Moment, sources: Sequence[Numbers]) -> list[Beside]:
        """What objectives compare with, augmented as their units are; nothing where these are not."""
        if not self.recipe.augmentations and self.recipe.crops is None:
            return []
        found = []
        for owner, group in groupby(range(len(units)), key=lambda index: self.owners[units[index]]):
            drawn = [sources[index] for index in group]
            for picture in self.objectives[owner].pictures:
                shown = picture.fitted(self.model.preprocessing, self.canvas_size).to(self.model.device)
                views = self._views(shown.expand(len(drawn), -1, -1, -1), moment, deepcopy(drawn))
                found.append(Beside(owner, picture, _images(views)))
        return found

    def _numbers(self, units: Sequence[int], step: int) -> list[Numbers]:
        """The random numbers of some units at a step."""
        recipe, texts = self.recipe, [self.canvases[unit].text for unit in units]
        if recipe.numbers == "independent":
            return [generator(self.seed, text, step=1 + step) for text in texts]
        return [
            EvenNumbers(self.seed, text, step=step, steps=recipe.steps, copies=recipe.copies)
            for text in texts
        ]

    def _parts(self, units: Sequence[int], copies: int) -> Iterator[list[int]]:
        """The units in runs that make one pass; no unit is ever split, nor the canvases of an objective."""
        budget = self.images or IMAGES_PER_PASS.get(self.model.device.type, IMAGES_PER_PASS["cpu"])
        part: list[int] = []
        for _, group in groupby(units, key=self.owners.__getitem__):
            together = list(group)
            if part and len(part) + len(together) > budget // copies:
                yield part
                part = []
            part = part + together
        if part:
            yield part

    def _whole_groups(self, units: Sequence[int]) -> list[int]:
        """Those of some units that are there with all canvases of their objective."""
        counted = Counter(self.owners[unit] for unit in units)
        return [
            unit
            for unit in units
            if counted[self.owners[unit]] == self.objectives[self.owners[unit]].canvases
        ]


@dataclass(frozen=True)
class Glimpse:
    """Where an ascent is after one of its steps. It only reads, and nothing is computed that nobody asks for.

    Attributes:
        ascent, climb: of which it is a glimpse; the climb goes on.
        step: the step just taken, from 0.
    """

    ascent: Ascent
    climb: Climb
    step: int

    @property
    def units(self) -> int:
        """How many units took the step."""
        return len(self.ascent.canvases)

    @property
    def scores(self) -> Scores:
        """The mean score over the augmented copies that every unit's canvas had in this step."""
        return self.climb.trace[self.step].cpu()

    def pixels(self) -> Pixels:
        """What the canvases show now: a copy, on the processor."""
        canvas, size = self.ascent.recipe.canvas, self.ascent.canvas_size
        with torch.no_grad():
            return canvas.to_pixels(self.climb.parameters.detach().clone(), size).float().cpu()


def _images(views: Views) -> Pixels:
    images: Tensor = rearrange(views.pixels, "unit copy rgb row column -> (unit copy) rgb row column")
    return images


def _slope_of(prices: Float[Tensor, "unit copy"], pixels: Pixels) -> Pixels | float:
    """Of mean prices; nothing where there are none. The graph is kept."""
    if not prices.requires_grad:
        return 0.0
    (slope,) = torch.autograd.grad(prices.mean(dim=1).sum(), pixels, retain_graph=True)
    return slope


def _is_check(step: int) -> bool:
    """Whether gradients in bfloat16 and float32 are compared: at steps 0, 1, 2, 4, 8 and so on."""
    return step & (step - 1) == 0


def _optimiser(recipe: Recipe, parameters: Tensor) -> torch.optim.Optimizer:
    fused = parameters.device.type in ("cpu", "cuda")
    adam = partial(torch.optim.Adam, fused=fused) if recipe.optimiser == "adam" else torch.optim.NAdam
    return adam([parameters], lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon)
