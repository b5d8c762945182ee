"""Sites of CNNs: blocks, branches and stages, alike whichever library wrote the ResNet."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from vitscope.models import load
from vitscope.tap import read
from vitscope.testing import tiny_cnn

PIXELS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def test_blocks_are_numbered_by_stage():
    names = [site.name for site in tiny_cnn().sites]
    assert names == [
        "embed",
        "stages.0.0.branch",
        "stages.0.0",
        "stages.1.0.branch",
        "stages.1.0",
        "stages.1.1.branch",
        "stages.1.1",
        "stages.2.0.branch",
        "stages.2.0",
        "stages.3.0.branch",
        "stages.3.0",
        "pooled",
        "logits",
    ]


def test_branch_and_shortcut_give_the_block():
    model = tiny_cnn()
    got = read(model, torch.rand(2, 3, 32, 32), list(model.sites))
    shortcut = model.module.layer1[0].downsample(got["embed"].mT.unflatten(2, (8, 8))).flatten(2).mT
    assert torch.allclose((shortcut + got["stages.0.0.branch"]).relu(), got["stages.0.0"], atol=1e-6)
    assert torch.allclose((got["stages.1.0"] + got["stages.1.1.branch"]).relu(), got["stages.1.1"], atol=1e-6)
    assert got["stages.1.1.branch"].min() < 0
    assert torch.allclose(model.module.fc(got["pooled"]), got["logits"], atol=1e-6)


@pytest.mark.parametrize(("name", "block"), [("resnet18", BasicBlock), ("resnet50", Bottleneck)])
def test_timm_and_torchvision_agree(name, block):
    theirs = torchvision.models.resnet.ResNet(block, [1, 2, 1, 1], num_classes=10)
    ours = timm.create_model(name, layers=(1, 2, 1, 1), num_classes=10)
    ours.load_state_dict(theirs.state_dict())
    one, other = (load(module, sample=(64, 64), device="cpu") for module in (ours, theirs))
    assert [site.describe() | {"path": ""} for site in one.sites] == [
        site.describe() | {"path": ""} for site in other.sites
    ]
    assert len(one.sites("stages.*.*.branch")) == 5
    expected = read(other, PIXELS, list(other.sites))
    for site, activations in read(one, PIXELS, list(one.sites)).items():
        assert (activations - expected[site]).abs().max() <= 1e-4 * expected[site].abs().max()


def test_fault_052_a_map_on_a_non_square_image_has_its_rows_and_columns():
    module = torchvision.models.resnet18(weights=None)
    model = load(module, sample=(64, 128), device="cpu")
    assert model.sites.named("embed").grid == (16, 32)
    assert model.sites.named("stages.3.1").grid == (2, 4)
    black = torch.zeros(1, 3, 64, 128)
    dotted = black.clone()
    dotted[:, :, 16:20, 100:104] = 1
    site = model.sites.named("embed")
    moved = (read(model, dotted, [site])["embed"] - read(model, black, [site])["embed"]).abs().sum((0, 2))
    assert moved.argmax() == site.place_index("4,25")


class Stacked(nn.Module):
    """Two convolutions without a shortcut."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1))
        self.head = nn.Linear(3, 5)

    def forward(self, images):
        return self.head(self.stack(images).mean((2, 3)))


def test_a_plain_stack_of_convolutions_has_a_block_for_each():
    module = Stacked()
    model = load(module, sample=(16, 16), device="cpu")
    assert [site.name for site in model.sites] == ["embed", "stages.0.0", "stages.0.1", "pooled", "logits"]
    images = PIXELS[:, :, :16, :16]
    got = read(model, images, list(model.sites))
    with torch.no_grad():
        first = module.stack[:2](images)
        assert torch.allclose(got["embed"], images.flatten(2).mT)
        assert torch.allclose(got["stages.0.0"], first.flatten(2).mT)
        assert torch.allclose(got["stages.0.1"], module.stack[2](first).flatten(2).mT, atol=1e-6)


class Beside(nn.Module):
    """Two convolutions side by side, joined: neither a block nor a stack."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Linear(6, 5)

    def forward(self, images):
        return self.head(torch.cat([self.one(images), self.other(images)], 1).mean((2, 3)))


def test_convolutions_side_by_side_are_no_stack():
    model = load(Beside(), sample=(16, 16), device="cpu")
    assert [site.name for site in model.sites] == ["pooled", "logits"]
    assert any(note.startswith("no stages.s.b: no residual sums") for note in model.sites.notes)
    assert model.sites.named("other").grid == (14, 14)
