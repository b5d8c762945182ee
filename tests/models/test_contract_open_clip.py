"""The contract of adapters on image towers of open_clip."""

import pytest

from vitscope.testing import AdapterContract

pytest.importorskip("open_clip")

import zoo_open_clip


class TestContract(AdapterContract):
    ZOO = zoo_open_clip.towers()
