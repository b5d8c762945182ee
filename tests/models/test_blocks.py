"""Which sums make one block, on ways of writing blocks that are not just attention, then an MLP."""

import pytest
import torch
from doubles import Plus
from torch import nn
from torch.nn import functional

from vitscope.models import load
from vitscope.tap import read
from vitscope.testing import stirred

PIXELS = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(6))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(24), nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, x):
        return self.down(functional.gelu(self.up(self.norm(x))))


class Mixing(nn.Module):
    """A map over places."""

    def __init__(self):
        super().__init__()
        self.norm, self.over = nn.LayerNorm(24), nn.Linear(12, 12)

    def forward(self, x):
        return self.over(self.norm(x).mT).mT


class PlusMlp(Plus):
    pass


class Parts(nn.Module):
    """Residual parts with names, one after the other."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, Plus(part))

    def forward(self, x):
        for part in self.children():
            x = part(x)
        return x


class Gated(nn.Module):
    """An MLP whose hidden layer is gated by a map over places."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.over, self.down = (
            nn.LayerNorm(24),
            nn.Linear(24, 96),
            nn.Linear(12, 12),
            nn.Linear(48, 24),
        )

    def forward(self, x):
        u, v = functional.gelu(self.up(self.norm(x))).chunk(2, -1)
        return self.down(u * self.over(v.mT).mT)


class Fused(Attention):
    """Attention and an MLP in one branch, from one projection; `joined`: into one projection too."""

    def __init__(self, *, joined):
        super().__init__()
        self.up, self.down = nn.Linear(24, 72 + 48), nn.Linear(24 + 48 if joined else 48, 24)
        self.joined = joined

    def forward(self, x):
        qkv, hidden = self.up(self.norm(x)).split([72, 48], -1)
        q, k, v = qkv.unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        hidden = functional.gelu(hidden)
        x = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        if self.joined:
            return self.down(torch.cat([x, hidden], -1))
        return self.proj(x) + self.down(hidden)


class Several(nn.Module):
    """Branches side by side, summed up."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.stack([branch(x) for branch in self.branches]).sum(dim=0)


class Additive(nn.Module):
    """Every place is weighed once; the weighed sum multiplies each place."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.weigh, self.proj = (nn.Linear(24, n) for n in (24, 24, 1, 24))

    def forward(self, x):
        query, key = self.q(x), self.k(x)
        weights = functional.normalize(self.weigh(query), dim=1)
        return self.proj((weights * query).sum(dim=1, keepdim=True) * key) + query


class Model(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, 24, 8, 8), nn.Sequential(*blocks)
        self.head = nn.Linear(24, 5)

    def forward(self, images):
        return self.head(self.blocks(self.patches(images).flatten(2).mT).mean(1))


def loaded(*blocks):
    return load(stirred(Model(*blocks)), sample=(24, 32), device="cpu")


def assert_close(one, other):
    assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def assert_outputs(model, lengths):
    """Block i hands out what the module after so many of the list does."""
    x = model.module.patches(model.preprocess(PIXELS)).flatten(2).mT
    blocks = [name for name in (site.name for site in model.sites) if name.count(".") == 1]
    assert blocks == [f"blocks.{i}" for i in range(len(lengths))]
    got = read(model, PIXELS, [model.site(name) for name in blocks])
    with torch.no_grad():
        for index, length in enumerate(lengths):
            assert_close(got[f"blocks.{index}"], model.module.blocks[:length](x))


def parts_of(model, index):
    own = f"blocks.{index}."
    return {site.name.removeprefix(own) for site in model.sites if site.name.startswith(own)}


def test_two_residual_parts_of_a_listed_module_are_one_block():
    model = loaded(*(Parts(mixer=Mixing(), mlp=Mlp()) for _ in range(3)))
    assert_outputs(model, [1, 2, 3])
    got = read(model, PIXELS, list(model.sites))
    assert parts_of(model, 1) == {"norm1", "mix", "mid", "norm2", "ffn", "mlp"}
    assert_close(got["blocks.0"] + got["blocks.1.mix"] + got["blocks.1.mlp"], got["blocks.1"])


def test_attention_and_mlp_that_take_turns_in_a_list_are_blocks():
    model = loaded(*(part for _ in range(3) for part in (Plus(Attention()), PlusMlp(Mlp()))))
    assert_outputs(model, [2, 4, 6])
    assert {"attn", "mid", "mlp", "ffn", "attn.pattern"} <= parts_of(model, 2)


def test_attention_and_mlp_of_one_class_that_take_turns_are_blocks():
    model = loaded(*(part for _ in range(2) for part in (Plus(Attention()), Plus(Mlp()))))
    assert_outputs(model, [2, 4])


def test_attention_among_blocks_of_another_kind_is_a_block_of_one_branch():
    mlps = [PlusMlp(Mlp()) for _ in range(4)]
    model = loaded(mlps[0], Plus(Attention()), mlps[1], Plus(Attention()), mlps[2], mlps[3])
    assert_outputs(model, [2, 4])
    assert {"attn", "norm1", "attn.q", "attn.pattern"} <= parts_of(model, 1)
    assert not {"mlp", "mid", "ffn", "mix"} & parts_of(model, 1)
    got = read(model, PIXELS, list(model.sites))
    assert_close(got["blocks.1.attn.base"] + got["blocks.1.attn"], got["blocks.1"])
    assert model.sites.notes == (
        "no blocks.i.mid, .mlp, .ffn (i = 0-1): the block has one branch, it is its base plus .attn",
    )


def test_a_gated_mlp_that_mixes_places_is_a_block_of_one_branch():
    model = loaded(*(Plus(Gated()) for _ in range(3)))
    assert_outputs(model, [1, 2, 3])
    assert parts_of(model, 2) == {"norm1", "mix", "ffn"}
    got = read(model, PIXELS, list(model.sites))
    assert_close(got["blocks.1"] + got["blocks.2.mix"], got["blocks.2"])
    with torch.no_grad():
        assert_close(model.module.blocks[2].branch.down(got["blocks.2.ffn"]), got["blocks.2.mix"])


@pytest.mark.parametrize("joined", [False, True])
def test_attention_and_mlp_in_one_branch_are_a_block_of_one_branch(joined):
    model = loaded(*(Plus(Fused(joined=joined)) for _ in range(3)))
    assert_outputs(model, [1, 2, 3])
    inner = {f"attn.{part}" for part in ("q", "k", "v", "heads", "pattern")}
    assert parts_of(model, 0) == {"norm1", "mix", *inner, *([] if joined else ["ffn"])}
    got, branch = read(model, PIXELS, list(model.sites)), model.module.blocks[1].branch
    assert_close(got["blocks.0"] + got["blocks.1.mix"], got["blocks.1"])
    with torch.no_grad():
        made = branch.up(got["blocks.1.norm1"])
        assert_close(torch.cat([got[f"blocks.1.attn.{part}"] for part in "qkv"], -1), made[..., :72])
        if joined:
            whole = torch.cat([got["blocks.1.attn.heads"], functional.gelu(made[..., 72:])], -1)
            assert_close(branch.down(whole), got["blocks.1.mix"])
        else:
            mlp = branch.down(got["blocks.1.ffn"])
            assert_close(branch.proj(got["blocks.1.attn.heads"]) + mlp, got["blocks.1.mix"])
    lacking = ".mid, .mlp, .ffn" if joined else ".mid, .mlp"
    assert model.sites.notes == (
        f"no blocks.i{lacking} (i = 0-2): "
        "the block has one branch that holds attention and an MLP, it is its base plus .mix",
    )


def test_several_attentions_and_several_mlps_side_by_side_are_one_block():
    pair = (Several(Attention(), Attention()), Several(Mlp(), Mlp()))
    model = loaded(Parts(attn=pair[0], mlp=pair[1]))
    assert_outputs(model, [1])
    assert parts_of(model, 0) == {"attn", "mid", "mlp"}
    got = read(model, PIXELS, list(model.sites))
    with torch.no_grad():
        assert_close(pair[0](got["embed"]), got["blocks.0.attn"])
        assert_close(pair[1](got["blocks.0.mid"]), got["blocks.0.mlp"])
    assert model.sites.notes == (
        "no blocks.0.attn.q, .k, .v, .heads, .pattern: there are 2 attentions in the branch",
        "no blocks.0.ffn: several MLPs side by side are one branch",
    )


def test_a_block_ends_where_its_module_ends():
    model = loaded(*(Parts(attn=Attention(), mlp=Mlp(), local=Mixing()) for _ in range(2)))
    assert_outputs(model, [1, 2])
    assert {"attn", "mid", "ffn"} <= parts_of(model, 0)
    assert "mlp" not in parts_of(model, 0)
    assert model.sites.notes == (
        "no blocks.i.mlp (i = 0-1): another branch is added after the MLP's, before the block ends",
    )
    got = read(model, PIXELS, list(model.sites))
    with torch.no_grad():
        assert_close(model.module.blocks[0].attn(got["embed"]), got["blocks.0.mid"])
        assert_close(
            functional.gelu(model.module.blocks[1].mlp.branch.up(got["blocks.1.norm2"])), got["blocks.1.ffn"]
        )


def test_additive_attention_has_no_pattern_and_the_note_says_why():
    model = loaded(*(Parts(attn=Additive(), mlp=Mlp()) for _ in range(2)))
    assert parts_of(model, 0) == {"mix", "mid", "norm2", "ffn", "mlp"}
    (note,) = (note for note in model.sites.notes if "additive" in note)
    where, _, why = note.partition(": ")
    assert where == "no attention sites for the additive attention in blocks.*.attn.branch, blocks.*.attn"
    assert why == (
        "every place is weighed once, for a summary of all that multiplies each place, so there is no "
        "pattern of weights from place to place"
    )
