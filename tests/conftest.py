"""Fixtures and doubles shared by all tests."""

from pathlib import Path

import pytest
import torch

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
