"""The zoos of tiny models, as fixtures, and one run of a contract for every model in one."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def zoo(name: str) -> ModuleType:
    """A file beside this one, imported by its path: tests are no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def open_clip_towers():
    """Name -> a function that gives an image tower and its (rows, columns)."""
    return zoo("zoo_open_clip").towers()


@pytest.fixture(scope="session")
def transformers_models():
    """Name -> a function that gives a vision model and its (rows, columns)."""
    return zoo("zoo_transformers").models()


def pytest_generate_tests(metafunc):
    """A contract's class with a `ZOO` runs for every model in it."""
    if hasattr(metafunc.cls, "ZOO"):
        metafunc.parametrize("name", list(metafunc.cls.ZOO), scope="class")
