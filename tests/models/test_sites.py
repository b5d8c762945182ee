"""Raw sites of any module, and the ends that every classifier has."""

import pytest
import timm
import torch
from torch import nn

from vitscope.errors import SiteError, UnknownSite
from vitscope.models import load
from vitscope.models.sites import summed_up
from vitscope.models.vision_model import MAP, MAP_LAST, TOKENS, VECTOR
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit

PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", [tiny_vit, tiny_cnn])
def test_every_raw_site_can_be_read_and_is_what_its_module_gave(make):
    model = make()
    outputs = {}

    def record(path):
        return lambda _, __, output: outputs.setdefault(path, []).append(output.clone())

    raw = [model.sites.named(name) for name in model.sites._raw if "." in name]
    raw = [site for site in raw if not site.semantic]
    assert len(raw) > 20
    handles = [model.module.get_submodule(site.path).register_forward_hook(record(site.path)) for site in raw]
    with torch.no_grad():
        model.module(model.preprocess(PIXELS))
    [handle.remove() for handle in handles]
    for name, activations in read(model, PIXELS, raw).items():
        expected = outputs[model.sites.named(name).path][0]
        if name.endswith(("q_norm", "k_norm")):  # "image head token dim"
            expected = expected.transpose(1, 2).flatten(2)
        elif expected.ndim == 4:
            expected = expected.flatten(2).mT
        assert torch.equal(activations, expected if expected.ndim == 3 else expected[:, None]), name


def test_axes_follow_the_rank():
    model = tiny_vit()
    assert model.sites.named("patch_embed.proj").axes == MAP
    assert model.sites.named("blocks.0.mlp.fc1").axes == TOKENS
    assert model.sites.named("head").axes == VECTOR


def test_per_head_tensors_have_the_places_of_their_tokens():
    model = tiny_vit()
    site, qkv = model.sites.named("blocks.0.attn.q_norm"), model.sites.named("blocks.0.attn.qkv")
    assert (site.units, site.grid, site.prefix_tokens) == (24, (4, 4), 1)
    got = read(model, PIXELS, [site, qkv])
    assert torch.equal(got[site.name], got[qkv.name][..., :24])


class Last(nn.Module):
    """A channels-last stage, as Swin and ConvNeXt have them."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(3, 40), nn.Linear(40, 5)

    def forward(self, images):
        return self.head(self.inner(images.permute(0, 2, 3, 1)).mean((1, 2)))


def test_fault_052_channels_last_maps_have_the_right_grid():
    model = load(Last(), sample=(16, 12), device="cpu")
    inner = model.sites.named("inner")
    assert (inner.axes, inner.grid, inner.units) == (MAP_LAST, (16, 12), 40)
    images = torch.zeros(1, 3, 16, 12)
    images[:, :, 7, 5] = 1
    got = read(model, images, [inner])["inner"][0]
    assert (got - got[0]).abs().sum(-1).argmax() == inner.place_index("7,5")


class Tuple(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)), {"aux": images}


class Odd(nn.Module):
    """A module whose parts hand out tuples, scalars, text and tensors of five axes."""

    def __init__(self):
        super().__init__()
        self.pair, self.head = Tuple(), nn.Linear(3, 4)
        self.words, self.cube = nn.Identity(), nn.Identity()

    def forward(self, images):
        self.words("text")
        self.cube(images[:, :, None])
        return self.head(self.pair(images)[0])


def test_fault_052_tuples_are_read_and_odd_outputs_left_out():
    model = load(Odd(), sample=(8, 8), device="cpu")
    got = read(model, PIXELS[:, :, :8, :8], [model.site("pair")])
    assert torch.allclose(got["pair"][:, 0], PIXELS[:, :, :8, :8].mean((2, 3)))
    with pytest.raises(UnknownSite, match="no site 'words' in Odd"):
        model.site("words")


def test_a_view_of_the_image_with_five_axes_has_the_places_of_the_image():
    model = load(Odd(), sample=(8, 8), device="cpu")
    site = model.site("cube")
    assert (site.grid, site.prefix_tokens, site.units) == ((8, 8), 0, 3)
    pixels = PIXELS[:, :, :8, :8]
    assert torch.equal(read(model, pixels, [site])["cube"], pixels.flatten(2).mT)


def test_notes_that_say_the_same_of_several_blocks_are_one():
    notes = [f"no blocks.{i}.mlp: why" for i in (0, 1, 2, 7)] + ["no blocks.4.ffn: who", "no pooled: what"]
    assert summed_up(notes) == (
        "no blocks.i.mlp (i = 0-2, 7): why",
        "no blocks.4.ffn: who",
        "no pooled: what",
    )
    assert summed_up(["no pooled: what", "no pooled: what"]) == ("no pooled: what",)


def test_a_distilled_deit_has_two_prefix_tokens_and_no_single_classifier():
    module = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_classes=10
    )
    model = load(module, sample=(32, 32), device="cpu")
    assert {(site.grid, site.prefix_tokens) for site in model.sites("blocks.**")} == {((4, 4), 2)}
    assert model.sites.notes == ("no pooled: the output does not come from one linear classifier",)


def test_a_module_that_does_not_run_on_its_sample_says_so():
    with pytest.raises(SiteError, match=r"does not run on images of shape \(2, 3, 40, 40\): Input height"):
        load(tiny_vit().module, sample=(40, 40), device="cpu")


def test_finding_sites_leaves_the_module_as_it_was():
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=1)
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    load(module, sample=(32, 32), device="cpu")
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in module.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in module.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in module.state_dict().items())
