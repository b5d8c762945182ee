"""The zoos of tiny models, as fixtures, and one run of a contract for every model in one."""

import pytest

from vitscope.models import load
from vitscope.models.checkpoints import seeded
from vitscope.testing import stirred


@pytest.fixture(scope="session")
def open_clip_towers():
    """Name -> a function that gives an image tower and its (rows, columns)."""
    import zoo_open_clip

    return zoo_open_clip.towers()


@pytest.fixture(scope="session")
def transformers_models():
    """Name -> a function that gives a vision model and its (rows, columns)."""
    import zoo_transformers

    return zoo_transformers.models()


@pytest.fixture(scope="class")
def model(request, name):
    """The model of that name in the `ZOO` of a contract's class, in float64, under telling random weights."""
    module, size = seeded(request.cls.ZOO[name], seed=0)
    return load(stirred(module), sample=size, device="cpu", dtype="float64")


def pytest_generate_tests(metafunc):
    """A contract's class with a `ZOO` runs for every model in it."""
    if hasattr(metafunc.cls, "ZOO"):
        metafunc.parametrize("name", list(metafunc.cls.ZOO), scope="class")
