"""The contract of adapters on vision models of transformers."""

import importlib.util
from pathlib import Path

import pytest

from vitscope.models import load
from vitscope.models.checkpoints import seeded
from vitscope.testing import AdapterContract, stirred

pytest.importorskip("transformers")

spec = importlib.util.spec_from_file_location(
    "zoo_transformers", Path(__file__).with_name("zoo_transformers.py")
)
zoo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(zoo)


class TestContract(AdapterContract):
    ZOO = zoo.models()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, name):
        module, size = seeded(cls.ZOO[name], seed=0)
        return load(stirred(module), sample=size, device="cpu", dtype="float64")
