"""The recipe of Ghiasi et al. runs unchanged on the families of their appendix and on a CNN: scores rise."""

import pytest
import timm

from vitscope.dream import dream
from vitscope.dream.recipes import GHIASI_2022
from vitscope.models import load
from vitscope.models.checkpoints import seeded
from vitscope.testing import stirred

SMALL = {"num_classes": 5}
WINDOWS = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2)}
FAMILIES = {
    "deit_tiny_distilled_patch16_224": ({"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2}, 32),
    "coat_lite_tiny": ({"img_size": 32, "embed_dims": (16,) * 4, "serial_depths": (1,) * 4}, 32),
    "coat_tiny": (
        {"img_size": 32, "embed_dims": (16,) * 4, "serial_depths": (1,) * 4, "parallel_depth": 1},
        32,
    ),
    "convit_tiny": (
        {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "local_up_to_layer": 2},
        32,
    ),
    "pit_ti_224": ({"img_size": 64, "base_dims": (8, 8, 8), "depth": (1, 1, 1)}, 64),
    "swin_tiny_patch4_window7_224": (WINDOWS, 32),
    "twins_svt_small": (
        {"img_size": 64, "embed_dims": (16,) * 4, "num_heads": (2,) * 4, "depths": (1,) * 4},
        64,
    ),
    "twins_pcpvt_small": (
        {"img_size": 64, "embed_dims": (16,) * 4, "num_heads": (2,) * 4, "depths": (1,) * 4},
        64,
    ),
    "resnet18": ({}, 64),
}
FEW = GHIASI_2022.replace(steps=24)


def model_of(name):
    settings, size = FAMILIES[name]
    module = seeded(lambda: timm.create_model(name, **SMALL, **settings), seed=0)
    return load(stirred(module), sample=(size, size), device="cpu")


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_score_of_a_unit_rises(name):
    model = model_of(name)
    site = model.sites("stages.*.*" if name == "resnet18" else "blocks.*.ffn")[0]
    made = dream(model, [f"{site.name}:{unit}" for unit in range(4)], recipe=FEW, seed=0)
    rows, columns = model.preprocessing.size
    assert {one.pixels.shape for one in made} == {(3, rows, columns)}
    assert {one.trust["status"] for one in made} == {"ok"}
    assert sum(one.score - one.trust["start"] for one in made) > 0.1 * sum(
        abs(one.trust["start"]) for one in made
    )
