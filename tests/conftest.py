"""Fixtures and doubles shared by all tests."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

SHARED = Path(__file__).parents[2] / "shared" / "data"
PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
"""Two images of noise."""

torch.set_num_threads(1)  # many small computations: with more threads they wait for each other


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
