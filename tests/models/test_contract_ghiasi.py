"""The models of Ghiasi et al. 2022: small ones under the full contract, large ones by structure alone."""

from functools import cache

import pytest
import timm
import torch
import zoo_ghiasi as zoo

from vitscope.models import from_timm, load
from vitscope.models.checkpoints import seeded
from vitscope.models.sites import find_sites
from vitscope.models.vision_model import Preprocessing, VisionModel
from vitscope.testing import AdapterContract, StructureContract, stirred

NAMES = [*zoo.APPENDIX, *zoo.VIT, *zoo.CLIP]
FAMILIES = {"deit": 6, "coat": 5, "convit": 3, "pit": 8, "swin": 10, "twins": 6}


def test_the_appendix_has_38_models_in_6_families():
    assert len(zoo.APPENDIX) == len(set(zoo.APPENDIX)) == 38
    assert {family: sum(name.startswith(f"{family}_") for name in NAMES) for family in FAMILIES} == FAMILIES


def test_every_name_resolves_with_its_tag():
    assert set(NAMES) <= set(from_timm.names())


class TestSmall(AdapterContract):
    ZOO = zoo.SMALL

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, name):
        size = zoo.SMALL[name]
        module = seeded(lambda: timm.create_model(name, img_size=size, num_classes=10), seed=0)
        return load(stirred(module.eval()), sample=(size, size), device="cpu", dtype="float64")

    def test_every_block_has_its_parts(self, model):
        """What a unit of Ghiasi et al. is must be there in every block, and so must the branches."""
        names = {site.name for site in model.sites}
        blocks = [name for name in names if name.startswith("blocks.") and name.count(".") == 1]
        assert len(blocks) >= 8
        for block in blocks:
            assert {f"{block}.ffn", f"{block}.mlp", f"{block}.mid", f"{block}.attn"} <= names


@cache
def structure(architecture, size, *, classes):
    """Found once for names that differ in their tag alone, which says how they were trained."""
    with torch.device("meta"):
        module = timm.create_model(architecture, img_size=size, num_classes=classes).eval()
    return module, find_sites(module, torch.empty(2, 3, size, size, device="meta"))


class TestLarge(StructureContract):
    ZOO = zoo.LARGE

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, name):
        size = zoo.side(name)
        head = timm.get_pretrained_cfg(name).num_classes > 0
        module, found = structure(name.partition(".")[0], size, classes=10 if head else 0)
        facts = Preprocessing((size, size), size)
        return VisionModel(
            module, name, preprocessing=facts, sites=found.sites, raw=found.raw, notes=found.notes
        )

    def test_the_hidden_layers_are_the_paper_s_units(self, model):
        """As many units as the first linear map of the MLP has outputs."""
        hidden = [site for site in model.sites if site.name.endswith(".ffn")]
        assert len(hidden) >= 8
        for site in hidden:
            part = model.module.get_submodule(site.path.rpartition(".")[0]).fc1
            assert site.units == part.out_features
