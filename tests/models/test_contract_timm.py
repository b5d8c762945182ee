"""The contract of adapters on the smallest models of every family of timm."""

import zoo_timm

from vitscope.testing import AdapterContract


class TestContract(AdapterContract):
    ZOO = zoo_timm.models()
