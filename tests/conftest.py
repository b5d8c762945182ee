"""Fixtures and doubles shared by all tests, and how types are checked while they run."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jaxtyping
import numpy as np
import pytest
import torch
from beartype import BeartypeConf, beartype
from PIL import Image

SHARED = Path(__file__).parents[2] / "shared" / "data"
PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
"""Two images of noise."""

torch.set_num_threads(1)  # many small computations: with more threads they wait for each other

checked_with_axes = jaxtyping.jaxtyped
checked_without = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def checked(part=None, *, typechecker):
    """What jaxtyping's import hook decorates everything with, in place of its `jaxtyped`.

    That binds the arguments of every call and has them checked twice, which took half of the time of all
    tests. It is needed where there are arrays, whose axes are compared; elsewhere beartype sees to the same
    alone.
    """
    if part is None:
        return partial(checked, typechecker=typechecker)
    if isinstance(part, type):
        if dataclasses.is_dataclass(part) and "__init__" in vars(part):
            part.__init__ = checked(part.__init__, typechecker=typechecker)
        return part
    written = part.__annotations__
    types = {name: type_of(text, part.__globals__) for name, text in written.items()}
    if any(map(has_array, types.values())):
        return checked_with_axes(part, typechecker=typechecker)
    part.__annotations__ = types
    found = checked_without(part)
    part.__annotations__ = found.__annotations__ = written
    return found


def type_of(text, names):
    """What an annotation stands for: anything, as for jaxtyping, where mypy alone knows."""
    try:
        return get_type_hints(type("Holder", (), {"__annotations__": {"it": text}}), names)["it"]
    except Exception:
        return Any


def has_array(hint):
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(has_array, hint if isinstance(hint, list) else get_args(hint)))


jaxtyping.jaxtyped = checked  # before any file of the package is imported, and so decorated


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real weights and images, where it stands beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside the repository: tests on real weights and images are skipped")
    return SHARED


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Tests that draw from the global generator draw the same numbers every time."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def tinted(tmp_path_factory):
    """Makes a folder of so many pictures of noise, each in its own colour, with the ten labels in turn."""

    def make(count):
        folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
        for index in range(count):
            values = draw.uniform(0, 135, (32, 32, 3)) + draw.uniform(0, 120, 3)
            Image.fromarray(values.astype(np.uint8)).save(folder / f"{index:02}.png")
        lines = [f"{index:02}.png,{index % 10}" for index in range(count)]
        (folder / "labels.csv").write_text("\n".join(["path,index", *lines, ""]))
        return folder

    return make


def ignore(site, activations):
    pass


def state_of(module):
    """Everything that a tap could leave behind."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "hooks": [len(getattr(part, hook)) for part in module.modules() for hook in hooks],
        "modes": [part.training for part in module.modules()],
        "needs": [weight.requires_grad for weight in module.parameters()],
        "grads": [weight.grad is not None for weight in module.parameters()],
        "weights": [weight.sum().item() for weight in module.parameters()],
    }
