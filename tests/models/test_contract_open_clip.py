"""The contract of adapters on image towers of open_clip."""

import importlib.util
from pathlib import Path

import pytest

from vitscope.models import load
from vitscope.models.checkpoints import seeded
from vitscope.testing import AdapterContract, stirred

pytest.importorskip("open_clip")

spec = importlib.util.spec_from_file_location("zoo_open_clip", Path(__file__).with_name("zoo_open_clip.py"))
zoo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(zoo)


class TestContract(AdapterContract):
    ZOO = zoo.towers()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, name):
        module, size = seeded(cls.ZOO[name], seed=0)
        return load(stirred(module), sample=size, device="cpu", dtype="float64")
