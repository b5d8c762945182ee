"""From activations back to what a module handed out: every axes, selections, orders, nested outputs."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from einops import rearrange

from vitscope.errors import SiteError
from vitscope.models.arrange import Rearrange
from vitscope.models.substitute import first_tensor, substitute, substitute_in_place, with_first
from vitscope.models.vision_model import LAYOUTS, MAP, MAP_LAST, PATTERN, TOKENS, VECTOR, Site
from vitscope.tap import as_activations

PICKED = Rearrange((0, 1, 2), 5, 6, columns=torch.tensor([3, 1]))
MIXED = Rearrange((0, 1, 2), 5, 6, table=torch.tensor([4, 0, 2]))
SITES = {
    TOKENS: (Site("tokens", "", TOKENS, 5, grid=(2, 3), prefix_tokens=1), (4, 7, 5)),
    MAP: (Site("map", "", MAP, 5, grid=(2, 3)), (4, 5, 2, 3)),
    MAP_LAST: (Site("last", "", MAP_LAST, 5, grid=(2, 3)), (4, 2, 3, 5)),
    VECTOR: (Site("vector", "", VECTOR, 5), (4, 5)),
    PATTERN: (Site("pattern", "", PATTERN, 12, grid=(1, 6)), (4, 2, 6, 6)),
    "turned": (
        Site("turned", "", TOKENS, 5, grid=(2, 3), derive=Rearrange((1, 0, 2), 5, 6)),
        (6, 4, 5),
    ),
    "picked": (
        Site(
            "picked",
            "",
            TOKENS,
            2,
            grid=(2, 3),
            derive=PICKED,
        ),
        (4, 6, 5),
    ),
    "places mixed": (
        Site(
            "mixed",
            "",
            TOKENS,
            5,
            grid=(1, 3),
            derive=MIXED,
        ),
        (4, 6, 5),
    ),
}


@pytest.mark.parametrize("case", SITES)
def test_what_is_put_back_is_read_again_and_nothing_else_moves(case):
    site, shape = SITES[case]
    tensor = torch.randn(shape)
    there = as_activations(site, tensor)
    made = substitute(site, tensor, there)
    assert torch.equal(made, tensor)
    instead = torch.randn(there.shape)
    made = substitute(site, tensor, instead)
    assert torch.equal(as_activations(site, made), instead)
    assert (made != tensor).sum() == instead.numel()


@pytest.mark.parametrize("case", SITES)
def test_gradients_reach_what_was_put_there(case):
    site, shape = SITES[case]
    tensor = torch.randn(shape)
    instead = torch.randn(as_activations(site, tensor).shape).requires_grad_()
    (substitute(site, tensor, instead) * 2).sum().backward()
    assert torch.equal(instead.grad, torch.full_like(instead, 2.0))


def test_every_axes_that_a_site_may_have_is_tried():
    assert set(LAYOUTS) <= set(SITES)


def test_more_images_and_fewer_places_may_be_put_back():
    site, _ = SITES[MAP]
    made = substitute(site, torch.randn(4, 5, 2, 3), torch.randn(24, 1, 5))
    assert made.shape == (24, 5, 1, 1)


@pytest.mark.parametrize("derive", [lambda tensor: tensor * 2, lambda tensor: tensor.softmax(-1)])
def test_what_is_computed_from_the_tensor_cannot_be_put_back(derive):
    site = Site("made", "some.path", TOKENS, 5, derive=derive)
    with pytest.raises(SiteError, match="made can be read but not changed: it is computed, and not held by"):
        substitute(site, torch.randn(2, 1, 5), torch.randn(2, 1, 5))


def test_in_place_everyone_who_holds_the_tensor_sees_it():
    site, shape = SITES[TOKENS]
    tensor, instead = torch.zeros(shape), torch.randn(shape)
    view = tensor[:, 1:]
    substitute_in_place(site, (tensor, "more"), instead)
    assert torch.equal(view, instead[:, 1:])
    with pytest.raises(SiteError, match="tokens can be changed but not resized: it is what a module"):
        substitute_in_place(site, tensor, instead[:2])


Pair = namedtuple("Pair", ["one", "two"])


@pytest.mark.parametrize(
    "value",
    [
        (torch.zeros(2), 5),
        [torch.zeros(2), 5],
        [(torch.zeros(2), 1), 5],
        Pair(torch.zeros(2), 5),
        {"first": torch.zeros(2), "other": 5},
        OrderedDict(first=torch.zeros(2), other=5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_first_tensor_of_a_nested_output_is_replaced_and_the_rest_is_kept(value):
    made = with_first(value, torch.ones(2))
    assert type(made) is type(value)
    assert torch.equal(first_tensor(made), torch.ones(2))
    assert torch.equal(first_tensor(value), torch.zeros(2)), "the value itself is not changed"
    assert (list(made.values()) if isinstance(made, dict) else list(made))[1] == 5


def test_where_there_is_no_tensor_nothing_can_be_replaced():
    for value in ([], "text", None):
        with pytest.raises(SiteError, match="expected a tensor, found"):
            with_first(value, torch.ones(2))


def test_heads_are_told_apart():
    site, shape = SITES[PATTERN]
    tensor = torch.arange(288.0).reshape(shape)
    instead = as_activations(site, tensor) + 1
    assert torch.equal(substitute(site, tensor, instead), tensor + 1)
    assert torch.equal(instead, rearrange(tensor + 1, LAYOUTS[PATTERN]))
