"""Products of tokens: which places weigh which, and where the results lie."""

import pytest
import torch
from doubles import Calling
from torch import nn
from torch.nn import functional

from vitscope.models.layout import of_map
from vitscope.trace import trace

SAMPLE = torch.rand(2, 6, 3, 4, generator=torch.Generator().manual_seed(1))
PLACES = of_map((2, 1, 3, 4), source=0).place.flatten(1)
"""Of 2 images of 12 cells: the number of every place."""
KEYS = torch.arange(1, 13)


def layout_of(function):
    return trace(Calling(function), SAMPLE.clone()).calls[0].output.layout


def tokens(images):
    return images.flatten(2).mT


def heads(images, many: int = 2):
    """ "image head token dim"."""
    return tokens(images).unflatten(-1, (many, -1)).transpose(1, 2)


def turned(images):
    """Tokens from the last to the first."""
    return tokens(images).flip(1)


PAIRED = {
    "matmul": lambda x: tokens(x) @ tokens(x).mT,
    "bmm": lambda x: torch.bmm(tokens(x), tokens(x).transpose(1, 2)),
    "by name": lambda x: torch.matmul(tokens(x), other=tokens(x).mT),
    "scaled": lambda x: (tokens(x) * 0.1 @ tokens(x).mT + torch.rand(12, 12)).softmax(-1),
    "heads": lambda x: (heads(x) @ heads(x).mT)[:, 1],
}


@pytest.mark.parametrize("name", PAIRED)
def test_scores_have_the_place_of_the_query_and_the_key(name):
    found = layout_of(PAIRED[name])
    assert (found.grid, found.keys) == ((3, 4), (3, 4))
    assert torch.equal(found.place, PLACES[:, :, None].expand(2, 12, 12))
    assert torch.equal(found.unit, KEYS.expand(2, 12, 12))


def test_scores_of_tokens_in_any_order_are_known():
    found = layout_of(lambda x: turned(x) @ tokens(x)[:, ::3].mT)
    assert torch.equal(found.place, PLACES.flip(1)[:, :, None].expand(2, 12, 4))
    assert torch.equal(found.unit, KEYS[::3].expand(2, 12, 4))


ATTENDED = {
    "weights times values": lambda x: (turned(x) @ tokens(x).mT).softmax(-1) @ tokens(x),
    "values times weights": lambda x: (tokens(x).mT @ (turned(x) @ tokens(x).mT).softmax(-1).mT).mT,
    "fused": lambda x: functional.scaled_dot_product_attention(turned(x), tokens(x), tokens(x)),
    "fused by name": lambda x: functional.scaled_dot_product_attention(
        value=tokens(x), key=tokens(x), query=turned(x)
    ),
    "fused heads": lambda x: (
        functional.scaled_dot_product_attention(heads(x).flip(2), heads(x), heads(x))
        .transpose(1, 2)
        .flatten(2)
    ),
    "multiplied by hand": lambda x: (turned(x) @ tokens(x).mT).mul(0.5).add_(1).softmax(-1).matmul(tokens(x)),
}


@pytest.mark.parametrize("name", ATTENDED)
def test_context_vectors_have_the_places_of_queries_and_the_units_of_values(name):
    found = layout_of(ATTENDED[name])
    assert found.keys is None
    assert torch.equal(found.place, PLACES.flip(1)[:, :, None].expand(2, 12, 6))
    assert torch.equal(found.unit, torch.arange(1, 7).expand(2, 12, 6))


def test_heads_that_share_their_values_have_units_of_their_own():
    found = layout_of(lambda x: (heads(x) @ heads(x).mT).softmax(-1) @ tokens(x)[:, None])
    assert found.shape == (2, 2, 12, 6)
    assert found.unit[0, :, 3].tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]
    grouped = layout_of(
        lambda x: functional.scaled_dot_product_attention(
            heads(x, 6), heads(x)[..., :1], heads(x)[..., :1], enable_gqa=True
        )
    )
    assert grouped is None or torch.equal(grouped.place[:, 5, :, 0], PLACES)


def test_cross_covariance_keeps_places():
    def eager(x):
        weights = (tokens(x).mT @ turned(x)).softmax(-1)
        assert weights.shape == (2, 6, 6)
        return weights @ turned(x).mT

    found = layout_of(eager)
    assert torch.equal(found.place, PLACES.flip(1)[:, None].expand(2, 6, 12))
    fused = layout_of(
        lambda x: functional.scaled_dot_product_attention(x.flatten(2), x.flatten(2), x.flatten(2))
    )
    assert torch.equal(fused.place, PLACES[:, None].expand(2, 6, 12))
    assert fused.unit[0, :, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_sums_over_places_lie_nowhere_and_come_back_where_they_are_used():
    found = layout_of(lambda x: tokens(x).mT @ tokens(x))
    assert (found.is_nowhere, found.shape) == (True, (2, 6, 6))
    linear = layout_of(lambda x: turned(x) @ (tokens(x).mT @ tokens(x)))
    assert torch.equal(linear.place, PLACES.flip(1)[:, :, None].expand(2, 12, 6))
    other = layout_of(lambda x: (tokens(x).mT @ tokens(x)) @ turned(x).mT)
    assert torch.equal(other.place, PLACES.flip(1)[:, None].expand(2, 6, 12))


def test_a_product_with_a_fixed_matrix_is_a_linear_map():
    found = layout_of(lambda x: turned(x) @ torch.rand(6, 5))
    assert torch.equal(found.place, PLACES.flip(1)[:, :, None].expand(2, 12, 5))
    assert found.unit[0, 0].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("batch_first", [True, False])
def test_multi_head_attention_has_the_places_of_its_queries(batch_first):
    module = nn.MultiheadAttention(6, 2, batch_first=batch_first).eval()
    turn = (lambda x: x) if batch_first else (lambda x: x.transpose(0, 1))
    found = layout_of(lambda x: turn(module(turn(turned(x)), turn(tokens(x)), turn(tokens(x)))[0]))
    assert torch.equal(found.place, PLACES.flip(1)[:, :, None].expand(2, 12, 6))
    assert found.unit[0, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_windows_weigh_only_their_own_places():
    def windows(x):
        return x.view(2, 6, 3, 2, 2).permute(0, 3, 2, 4, 1).reshape(4, 6, 6)

    found = layout_of(lambda x: windows(x) @ windows(x).mT)
    assert found.unit[0, 0].tolist() == [1, 2, 5, 6, 9, 10]
    assert found.unit[1, 0].tolist() == [3, 4, 7, 8, 11, 12]
    assert torch.equal(found.place[2], found.place[0] + found.span)


NOT_KNOWN = {
    "an unknown side": lambda x: tokens(x) @ tokens(x).cumsum(1).mT,
    "unknown values": lambda x: functional.scaled_dot_product_attention(
        tokens(x), tokens(x), tokens(x).sort(dim=1)[0]
    ),
    "unknown queries": lambda x: functional.scaled_dot_product_attention(
        tokens(x).sort(dim=1)[0], tokens(x), tokens(x)
    ),
    "weights of weights": lambda x: (tokens(x) @ tokens(x).mT) @ (tokens(x) @ tokens(x).mT),
    "tokens mixed from the left": lambda x: torch.rand(12, 12) @ tokens(x),
    "tokens mixed on the right": lambda x: x.flatten(2) @ torch.rand(12, 12),
    "a matrix for every image": lambda x: tokens(x) @ torch.rand(2, 6, 6),
}


@pytest.mark.parametrize("name", NOT_KNOWN)
def test_products_that_are_not_certain_have_no_layout(name):
    assert layout_of(NOT_KNOWN[name]) is None
