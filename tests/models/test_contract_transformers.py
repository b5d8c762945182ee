"""The contract of adapters on vision models of transformers."""

import pytest

from vitscope.testing import AdapterContract

pytest.importorskip("transformers")

import zoo_transformers


class TestContract(AdapterContract):
    ZOO = zoo_transformers.models()
