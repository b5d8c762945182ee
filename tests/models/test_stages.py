"""Which modules are the blocks of a stage: those numbered alike in the lists of the model, or none."""

import pytest
import torch
from doubles import Plus
from torch import nn
from torch.nn import functional

from vitscope.models import load
from vitscope.tap import read
from vitscope.testing import stirred

PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))


class Conv(nn.Sequential):
    """A convolution, a norm and an activation function."""

    def __init__(self, given, made, stride=1, kernel=3):
        super().__init__()
        self.conv = nn.Conv2d(given, made, kernel, stride, kernel // 2)
        self.norm, self.act = nn.BatchNorm2d(made), nn.ReLU()


class Branch(nn.Sequential):
    """Two convolutions."""

    def __init__(self, width):
        super().__init__(Conv(width, width), nn.Conv2d(width, width, 3, 1, 1))


class Deep(Plus):
    """The block of a residual network."""

    def __init__(self, width):
        super().__init__(Branch(width))


class Down(nn.Module):
    """A block that shrinks the map, without a shortcut."""

    def __init__(self, given, made):
        super().__init__()
        self.one, self.other = Conv(given, made, 2), Conv(made, made)

    def forward(self, x):
        return self.other(self.one(x))


class Attention(nn.Module):
    """Attention and an MLP on a map."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.proj = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        self.up, self.down = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x):
        q, k, v = (part.flatten(2).mT for part in self.qkv(x).chunk(3, 1))
        x = x + self.proj(functional.scaled_dot_product_attention(q, k, v).mT.unflatten(2, x.shape[2:]))
        return x + self.down(self.up(x).relu())


class Named(nn.Module):
    """Parts with names, one after the other."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        for part in self.children():
            x = part(x)
        return x


class Model(nn.Module):
    def __init__(self, *stages, stem=None, width=16):
        super().__init__()
        self.stem, self.stages = stem or Conv(3, 8, 2), nn.Sequential(*stages)
        self.head = nn.Linear(width, 5)

    def forward(self, images):
        return self.head(self.stages(self.stem(images)).mean((2, 3)))


def loaded(*stages, **settings):
    return load(stirred(Model(*stages, **settings)), sample=(32, 32), device="cpu")


def found(model):
    """Name of every block of a stage -> the path of its module."""
    return {
        site.name: site.path
        for site in model.sites
        if site.name.count(".") == 2 and site.name[:6] == "stages"
    }


def assert_numbered_as_listed(model, *lengths, blocks="stages.{}.{}"):
    names = [f"stages.{s}.{b}" for s, many in enumerate(lengths) for b in range(many)]
    assert found(model) == {name: blocks.format(*name.split(".")[1:]) for name in names}
    got = read(model, PIXELS, [model.site(name) for name in names])
    theirs = read(model, PIXELS, [model.site(path) for path in found(model).values()])
    for name, path in found(model).items():
        assert torch.equal(got[name], theirs[path])


def wide(count, made=16):
    return [Down(8, made), *(Deep(made) for _ in range(count))]


PLAIN = {
    "blocks with shortcuts": [Deep(8), Deep(8)],
    "one convolution": [Conv(8, 8)],
    "two convolutions of each place": [Conv(8, 8, kernel=1), Conv(8, 8, kernel=1)],
}


@pytest.mark.parametrize("name", PLAIN)
def test_whatever_is_listed_as_a_block_counts(name):
    model = loaded(nn.Sequential(*PLAIN[name]), nn.Sequential(*wide(2)))
    assert_numbered_as_listed(model, len(PLAIN[name]), 3)
    assert (model.site("embed").path, model.site("embed").units) == ("stem", 8)


def test_a_convolution_that_begins_a_stage_counts_where_it_is_listed_with_the_blocks():
    model = loaded(nn.Sequential(Deep(8)), nn.Sequential(nn.Conv2d(8, 16, 2, 2), Deep(16), Deep(16)))
    assert_numbered_as_listed(model, 1, 3)
    model = loaded(nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)), nn.Sequential(Deep(8)), width=8)
    assert found(model) == {"stages.0.0": "stages.1.0"}  # no block is listed with that convolution


def test_a_block_of_a_stem_is_no_stage():
    model = loaded(
        nn.Sequential(Deep(8), Deep(8)), nn.Sequential(*wide(1)), stem=Named(conv=Conv(3, 8, 2), res0=Deep(8))
    )
    assert_numbered_as_listed(model, 2, 2)
    assert model.site("embed").path == "stem"
    assert "no stages.s.b for the residual sums in stem.res*: not in the lists of blocks" in model.sites.notes


def test_parts_of_a_downsampling_are_no_blocks():
    stages = [
        Named(down=nn.Identity(), blocks=nn.Sequential(Deep(8), Deep(8))),
        Named(
            down=nn.Sequential(Plus(Branch(8)), Conv(8, 16, 2), Plus(Branch(16))),
            blocks=nn.Sequential(Deep(16)),
        ),
    ]
    model = loaded(*stages)
    assert_numbered_as_listed(model, 2, 1, blocks="stages.{}.blocks.{}")
    (note,) = (note for note in model.sites.notes if "residual sums" in note)
    assert note == "no stages.s.b for the residual sums in stages.*.down.*: not in the lists of blocks"


def test_a_block_is_all_that_its_module_does():
    def block():
        return nn.Sequential(Plus(Branch(8)), nn.Conv2d(8, 8, 1), nn.GELU(), nn.BatchNorm2d(8))

    model = loaded(*(block() for _ in range(3)), width=8)
    assert found(model) == {f"stages.0.{b}": f"stages.{b}" for b in range(3)}
    assert "stages.0.0.branch" not in {site.name for site in model.sites}
    assert model.sites.notes == ("no branch in stages.0.0-2: more comes after the residual sum there",)
    got = read(model, PIXELS, [model.site("embed"), model.site("stages.0.0")])
    with torch.no_grad():
        made = model.module.stages[0](got["embed"].mT.unflatten(2, (16, 16)))
    assert torch.allclose(made.flatten(2).mT, got["stages.0.0"], atol=1e-5)


def test_a_part_that_is_all_of_a_block_is_the_block():
    stages = [nn.Sequential(*(Named(mixer=Deep(8)) for _ in range(many))) for many in (2, 1)]
    model = loaded(*stages, width=8)
    assert_numbered_as_listed(model, 2, 1)
    assert {"stages.0.1.branch", "stages.1.0.branch"} <= {site.name for site in model.sites}


def test_attention_among_convolutions_keeps_its_number_in_the_list():
    model = loaded(
        nn.Sequential(Deep(8), Attention(8), Deep(8)), nn.Sequential(Down(8, 16), Attention(16), Deep(16))
    )
    assert_numbered_as_listed(model, 3, 3)
    names = {site.name for site in model.sites}
    assert {"blocks.0.attn", "blocks.1.mlp", "stages.0.2.branch", "stages.1.2.branch"} <= names
    assert not {"stages.0.1.branch", "stages.1.1.branch"} & names
    got = read(
        model, PIXELS, [model.site(name) for name in ("blocks.0", "stages.0.1", "blocks.1", "stages.1.1")]
    )
    assert torch.equal(got["blocks.0"], got["stages.0.1"])
    assert torch.equal(got["blocks.1"], got["stages.1.1"])


def test_attention_alone_has_blocks_and_no_stages():
    model = loaded(nn.Sequential(Attention(8), Attention(8)), width=8)
    assert found(model) == {}
    assert "blocks.1" in {site.name for site in model.sites}
