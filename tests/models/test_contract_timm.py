"""The contract of adapters on the smallest models of every family of timm."""

import zoo_timm

from vitscope.testing import AdapterContract
from vitscope.testing.witness import error, witness


class TestContract(AdapterContract):
    ZOO = zoo_timm.models()

    def test_a_block_of_one_branch_is_its_base_plus_that(self, model):
        """Where there is no sum in between."""
        seen, before = witness(model), "embed"
        for name in (site.name for site in model.sites if site.name.startswith("blocks.")):
            block, _, branch = name.rpartition(".")
            if branch in ("attn", "mix") and not {f"{block}.mid", f"{block}.mlp"} & seen.found.keys():
                base = f"{name}.base" if f"{name}.base" in seen else before
                assert error(seen[base] + seen[name], seen[block]) < 1e-5, f"{base} + {name} is not {block}"
            if name.count(".") == 1:
                before = name
