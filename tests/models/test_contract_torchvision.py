"""The contract of adapters on models of torchvision."""

import zoo_torchvision

from vitscope.testing import AdapterContract


class TestContract(AdapterContract):
    ZOO = zoo_torchvision.models()
