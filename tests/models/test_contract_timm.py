"""The contract of adapters on the smallest models of every family of timm."""

import importlib.util
from pathlib import Path

import pytest

from vitscope.models import load
from vitscope.models.checkpoints import seeded
from vitscope.testing import AdapterContract, stirred

spec = importlib.util.spec_from_file_location("zoo_timm", Path(__file__).with_name("zoo_timm.py"))
zoo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(zoo)


class TestContract(AdapterContract):
    ZOO = zoo.models()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, name):
        module, size = seeded(cls.ZOO[name], seed=0)
        return load(stirred(module), sample=size, device="cpu", dtype="float64")
