"""Everyone that `dreams.py` times, each as a loop that says when a step is done.

Whoever is timed maximises the mean over patches of units `0, 1, ...` of one block's hidden layer, gets a copy
of the model of its own, and is driven as its documentation says, with three exceptions: torch-dreams' own
transforms change the size of an image, which a ViT does not take, so a resize follows them; the copies that
torch-lucent and torch-dreams do not know are made by a transform that repeats the image; and Horama draws
Fourier coefficients, as MACO would download a file.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from vitscope.dream.ascent import Ascent
from vitscope.dream.objectives import unit
from vitscope.dream.recipes import GHIASI_2022
from vitscope.lean import Forms, Lean
from vitscope.models.vision_model import VisionModel

Tick = Callable[[], None]


@dataclass(frozen=True)
class Task:
    """What is dreamt of: the first units of a block, `copies` images of each in every step."""

    model: VisionModel
    block: int
    units: int = 1
    copies: int = 1

    @property
    def images(self) -> int:
        return self.units * self.copies

    @property
    def side(self) -> int:
        return self.model.preprocessing.size[0]

    @property
    def hidden(self) -> str:
        """The module that gives the block's hidden layer."""
        return f"blocks.{self.block}.mlp.act"

    @property
    def addresses(self) -> list[str]:
        return [f"blocks.{self.block}.ffn:{number}" for number in range(self.units)]

    def module(self) -> nn.Module:
        """The model as whoever loads it has it, its weights trainable."""
        return copy.deepcopy(self.model.module).eval().requires_grad_(True)

    def scores(self, hidden: Tensor) -> Tensor:
        """Of every image, the mean of its unit over the patches."""
        prefix = self.model.site(self.addresses[0]).prefix_tokens
        own = rearrange(hidden, "(unit copy) ... -> unit copy ...", unit=self.units)
        own = own[:, :, prefix:, : self.units].diagonal(dim1=0, dim2=3)
        return reduce(own, "copy place unit -> (unit copy)", "mean")


@dataclass(frozen=True)
class Dreamer:
    """Someone who is timed.

    Attributes:
        name: of the row.
        run: takes that many steps, calls back once in every step, and returns a remark or nothing.
        many: whether several units share a step; where not, they are timed one at a time and added up.
        kind: "bare", "ours", "authors" or "peer".
        products: the type of matrix products.
        note: what there is to say about it where the run has nothing to say.
    """

    name: str
    run: Callable[[Task, int, Tick], str]
    many: bool = True
    kind: str = "peer"
    products: str = "float32"
    note: str = ""


def bare(forms: Forms) -> Dreamer:
    """No canvas, no augmentation, no optimiser: forward to the unit and back to the images, again and
    again.
    """

    def run(task: Task, steps: int, tick: Tick) -> str:
        module, kept = task.module().requires_grad_(False), _Kept()
        module.get_submodule(task.hidden).register_forward_hook(kept.and_stop)
        images = torch.rand(task.images, 3, task.side, task.side, device=task.model.device)
        images.requires_grad_()
        lean = Lean(forms)
        for _ in range(steps):
            with contextlib.suppress(_Enough), lean:
                module(task.model.preprocess(images))
            torch.autograd.grad(task.scores(kept.hidden).sum(), images)
            tick()
        return ""

    note = f"attention {forms.attention}, patches by {forms.patches}"
    note += f", layers by {forms.linear}" if forms.products == "float32" else ""
    return Dreamer(f"bare pass, {forms.products}", run, kind="bare", products=forms.products, note=note)


def ours(forms: Forms, *, planned: Forms) -> Dreamer:
    """The authors' recipe, as `vitscope.dream` climbs it in these forms; its plan takes `planned`."""

    def run(task: Task, steps: int, tick: Tick) -> str:
        recipe = GHIASI_2022.replace(steps=steps, copies=task.copies)
        objectives = [unit(address).bind(task.model) for address in task.addresses]
        ascent = Ascent(task.model, objectives, recipe, seed=0, forms=forms, images=task.images)
        climb = ascent.run(lambda _: tick())
        late = sum(climb.narrow_from.get(index, steps) > 1 for index in range(task.units))
        if forms.products == "float32" or not late:
            return ""
        return f"float32 for {late} of {task.units}: gradients differ"

    note = "what the plan takes here" if forms == planned else ""
    return Dreamer(f"vitscope, {forms.products}", run, kind="ours", products=forms.products, note=note)


def authors(task: Task, steps: int, tick: Tick) -> str:
    """Ghiasi et al. 2022, written down plainly: every block runs, a hook keeps the hidden layer of one, and
    colours, noise, roll and total variation are computed on every copy.
    """
    module, kept = task.module().requires_grad_(False), _Kept()
    module.get_submodule(task.hidden.replace(".act", ".fc1")).register_forward_hook(kept)
    shape, device = (task.copies, 3, 1, 1), task.model.device
    image = torch.rand(1, 3, task.side, task.side, device=device).requires_grad_()
    adam = torch.optim.Adam([image], lr=0.1, betas=(0.5, 0.99), eps=1e-8)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 400)
    for step in range(steps):
        adam.zero_grad()
        views = image.repeat(task.copies, 1, 1, 1)
        shift, stretch = (2 * torch.rand(shape, device=device) - 1 for _ in range(2))
        views = (views - shift) / torch.exp(stretch)
        views = views + 0.5 * ((398 - step) % 400) / 400 * torch.randn(shape, device=device)
        down, right = torch.randint(-32, 33, (2,)).tolist()
        views = torch.roll(views, (down, right), dims=(2, 3))
        module(task.model.preprocess(views))
        loss = -task.scores(F.gelu(kept.hidden)).sum() / task.copies**2 + 0.0005 * 0.1 * _roughness(views)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        schedule.step()
        with torch.no_grad():
            image.clamp_(0, 1)
        tick()
    return ""


def lucent(task: Task, steps: int, tick: Tick) -> str:
    """torch-lucent: its Fourier image and its standard transforms, at the model's size."""
    render = importlib.import_module("lucent.optvis.render")
    param = importlib.import_module("lucent.optvis.param")
    transform = importlib.import_module("lucent.optvis.transform")

    def loss(layer: Callable[[str], Tensor]) -> Tensor:
        tick()
        return -task.scores(layer(task.hidden.replace(".", "_"))).sum()

    render.render_vis(
        task.module(),
        loss,
        param_f=lambda: param.image(task.side, batch=task.units),
        transforms=[_repeated(task.copies), *transform.standard_transforms],
        fixed_image_size=task.side,
        thresholds=(steps,),
        progress=False,
        show_image=False,
    )
    return ""


def torch_dreams(task: Task, steps: int, tick: Tick) -> str:
    """torch-dreams: its default transforms, and then a resize to the model's size."""
    package = importlib.import_module("torch_dreams")
    batched = importlib.import_module("torch_dreams.batched_image_param")
    resized = importlib.import_module("torch_dreams.transforms").random_resize
    vision = importlib.import_module("torchvision.transforms")

    def loss(layers: list[Tensor]) -> Tensor:
        tick()
        return -task.scores(layers[0]).sum()

    module, device = task.module(), str(task.model.device)
    dreamer = package.Dreamer(module, quiet=True, device=device)
    changes = [vision.RandomAffine(15, translate=(0, 0)), resized(1.2, 0.5)]
    fitted = vision.Resize((task.side, task.side))
    dreamer.set_custom_transforms(vision.Compose([_repeated(task.copies), *changes, fitted]))
    size = {"height": task.side, "width": task.side, "device": device, "standard_deviation": 0.01}
    image = batched.BatchedAutoImageParam(task.units, **size)
    layers = [module.get_submodule(task.hidden)]
    dreamer.render(layers, image_parameter=image, iters=steps, custom_func=loss)
    return ""


def horama(canvas: int | None = None) -> Callable[[Task, int, Tick], str]:
    """Horama: crops of a canvas, 1,280 pixels wide by default."""

    def run(task: Task, steps: int, tick: Tick) -> str:
        module, kept = task.module(), _Kept()
        module.get_submodule(task.hidden).register_forward_hook(kept)

        def score(crops: Tensor) -> Tensor:
            tick()
            module(crops)
            return task.scores(kept.hidden).mean()

        size = {"image_size": canvas} if canvas else {}
        importlib.import_module("horama").fourier(
            score,
            total_steps=steps,
            model_input_size=task.side,
            crops_per_iteration=task.copies,
            device=str(task.model.device),
            **size,
        )
        return ""

    return run


AUTHORS = Dreamer("authors' settings, naively", authors, many=False, kind="authors")

PEERS = {
    "torch-lucent": Dreamer("torch-lucent", lucent),
    "torch-dreams": Dreamer("torch-dreams", torch_dreams),
    "horama": Dreamer("Horama, canvas 1280", horama(), many=False),
    "horama-224": Dreamer("Horama, canvas 224", horama(224), many=False),
}


def timed(dreamer: Dreamer, task: Task, steps: int, clock: Callable[[], float]) -> tuple[float, str]:
    """Seconds of one step of the task, the mean of so many after two that do not count, and a remark."""
    alone = task if dreamer.many else replace(task, units=1)
    ticks: list[float] = []
    with _silence():
        remark = dreamer.run(alone, steps + 2, lambda: ticks.append(clock()))
    if alone.units < task.units:
        remark = "one unit at a time"
    return (ticks[-1] - ticks[1]) / steps * task.units / alone.units, remark or dreamer.note


class _Enough(Exception):
    """Raised in a hook when the hidden layer is there."""


class _Kept:
    """A forward hook that keeps what its module gave."""

    hidden: Tensor

    def __call__(self, *call: Any) -> None:
        self.hidden = call[-1]

    def and_stop(self, *call: Any) -> None:
        self(*call)
        raise _Enough


def _roughness(views: Tensor) -> Tensor:
    differences = (
        views[..., 1:, :] - views[..., :-1, :],
        views[..., 1:] - views[..., :-1],
        views[..., 1:, 1:] - views[..., :-1, :-1],
        views[..., 1:, :-1] - views[..., :-1, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(each, dim=(2, 3)).mean() for each in differences]).sum()


def _repeated(copies: int) -> Callable[[Tensor], Tensor]:
    return lambda images: images.repeat_interleave(copies, dim=0)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Peers print progress bars, and warn of what torch has renamed since."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield
