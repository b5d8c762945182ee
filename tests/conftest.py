"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared" / "data"

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
