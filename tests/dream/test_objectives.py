"""Objectives: the algebra by numbers, and what each readout reads."""

import pytest
import torch

from vitscope.address import Address
from vitscope.dream import dream
from vitscope.dream.objectives import Objective, channel, direction, interpolate, logit, unit
from vitscope.dream.recipes import OLAH_2017
from vitscope.errors import BadAddress, BadValue, UnknownAddress, UnknownName, UnknownSite
from vitscope.models.vision_model import TOKENS, VECTOR, Preprocessing, Site, VisionModel
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit


def two_sites() -> VisionModel:
    sites = [
        Site("a", "", VECTOR, 2),
        Site("b", "", VECTOR, 3),
        Site("t", "", TOKENS, 4, (2, 2), prefix_tokens=1),
    ]
    facts = Preprocessing((8, 8), None)
    return VisionModel(torch.nn.Identity(), "hand", preprocessing=facts, sites=sites, classes=None)


def vectors(**values: list[float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(numbers).view(1, 1, -1) for name, numbers in values.items()}


def test_a_weighted_sum_by_numbers():
    objective = 0.5 * unit("a:1") + 2 * unit("b:2")
    assert objective.score(two_sites(), vectors(a=[7, 1.0], b=[7, 7, 10.0])).tolist() == [20.5]


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        (unit("a:0") - unit("a:1"), 3 - 5),
        (-(unit("a:0") * 2 - unit("a:1")), -1),
        (unit("a:1") / 4, 1.25),
        (2 * (unit("a:0") + 3 * unit("a:1")), 36),
        (unit("a:0") + unit("a:0"), 6),
        (direction("a", [0.5, -1]), 1.5 - 5),
        (2 * direction("a", torch.tensor([1.0, 1.0])) - unit("a:0"), 13),
    ],
)
def test_the_algebra_is_that_of_numbers(objective: Objective, value: float):
    assert objective.score(two_sites(), vectors(a=[3.0, 5.0])).item() == pytest.approx(value)


def test_the_formula_is_printed():
    assert (
        repr(0.5 * unit("blocks.5.ffn:40") - unit("a:1@cls"))
        == "0.5*unit(blocks.5.ffn:40) - 1.0*unit(a:1@cls)"
    )
    assert repr(-unit("a:1") + 2 * logit("tabby")) == "-1.0*unit(a:1) + 2.0*logit(tabby)"
    assert repr(unit("a:1")) == "unit(a:1)"
    assert unit("a:1").text == "a:1"
    assert (2 * unit("a:1")).text == "2.0*unit(a:1)"
    assert direction("a", [1, 2]).text.startswith("direction(a, 2 numbers #")
    assert direction("a", [1, 2]).text != direction("a", [1, 3]).text


def test_objectives_are_values():
    assert unit("a:1") == unit(Address("a", 1))
    assert len({0.5 * unit("a:1"), unit("a:1") / 2, unit("a:1")}) == 2


def test_a_unit_is_not_a_token():
    """The trap of peers: axis 1 of a transformer counts tokens."""
    tokens = torch.arange(20.0).view(1, 5, 4)
    scores = unit("t:3").score(two_sites(), {"t": tokens})
    assert scores.item() == tokens[0, 1:, 3].mean()
    assert scores.item() != tokens[0, 3].mean()


def test_the_mean_leaves_prefix_tokens_out_and_ignores_the_order_of_places():
    tokens = torch.randn(2, 5, 4, dtype=torch.float64)
    expected = [[sum(float(tokens[i, p, 2]) for p in range(1, 5)) / 4][0] for i in range(2)]
    shuffled = torch.cat([tokens[:, :1], tokens[:, [3, 1, 4, 2]]], dim=1)
    for given in (tokens, shuffled):
        torch.testing.assert_close(unit("t:2").score(two_sites(), {"t": given}).tolist(), expected)
    assert unit("t:2").score(two_sites(), {"t": tokens})[0] != tokens[0, :, 2].mean()


@pytest.mark.parametrize(("place", "index"), [("cls", 0), ("0", 1), ("1,0", 3), ("center", 4)])
def test_a_place_is_read_where_it_is(place: str, index: int):
    tokens = torch.randn(2, 5, 4)
    scores = unit(f"t:1@{place}").score(two_sites(), {"t": tokens})
    assert torch.equal(scores, tokens[:, index, 1])
    along = direction(f"t@{place}", [0, 1, 0, 1]).score(two_sites(), {"t": tokens})
    torch.testing.assert_close(along, tokens[:, index, 1] + tokens[:, index, 3])


@pytest.mark.parametrize(
    ("where", "places"),
    [("top", [1, 2]), ("left", [1, 3]), ("grid", [1, 2, 3, 4]), ("all", range(5)), ("0:2,1:2", [2, 4])],
)
def test_a_region_is_averaged_over(where: str, places: list[int]):
    tokens = torch.randn(2, 5, 4, dtype=torch.float64)
    expected = [sum(float(tokens[i, p, 2]) for p in places) / len(places) for i in range(2)]
    found = unit("t:2", where=where).score(two_sites(), {"t": tokens})
    assert found.tolist() == pytest.approx(expected)
    along = direction("t", [0, 0, 3, 0], where=where).score(two_sites(), {"t": tokens})
    assert along.tolist() == pytest.approx([3 * value for value in expected])


def test_a_region_is_part_of_the_formula():
    assert unit("t:2", where="top").text == "unit(t:2, top)"
    assert direction("t", [1, 2, 3, 4], where="top").text.startswith("direction(t, top, 4 numbers #")
    with pytest.raises(BadValue, match="'t:2@cls' names a place already: leave out where='top'"):
        unit("t:2@cls", where="top").bind(two_sites())
    with pytest.raises(UnknownAddress, match="no region 'top' at a: its places are not a grid"):
        unit("a:1", where="top").bind(two_sites())


def test_a_channel_is_the_unit_over_its_whole_grid():
    assert channel("t:2@1,1") == channel("t:2") == unit("t:2")
    with pytest.raises(BadAddress, match="'t' names a site but no unit"):
        channel("t")


def test_objectives_in_between():
    one, other = unit("a:0"), 2 * unit("b:2")
    path = interpolate(one, other, 5)
    assert path[0] == one
    assert path[-1] == other
    values = vectors(a=[8.0, 0], b=[0, 0, 2.0])
    scores = [each.score(two_sites(), values).item() for each in (path[1:-1])]
    assert scores == pytest.approx([0.75 * 8 + 0.25 * 4, 0.5 * 8 + 0.5 * 4, 0.25 * 8 + 0.75 * 4])
    assert repr(path[2]) == "0.5*unit(a:0) + 1.0*unit(b:2)"
    with pytest.raises(BadValue, match="count must be at least 2, the ends, not 1"):
        interpolate(one, other, 1)


@pytest.mark.parametrize(("make", "site"), [(tiny_vit, "blocks.1"), (tiny_cnn, "stages.1.0")])
def test_dreams_of_a_negative_unit_a_region_and_the_middle_of_two_rise(make, site: str):
    asked = [
        -unit(f"{site}:3"),
        unit(f"{site}:3", where="left"),
        interpolate(unit(f"{site}:3"), unit(f"{site}:4"), 3)[1],
    ]
    model = make()
    made = dream(model, [*asked, unit(f"{site}:3")], recipe=OLAH_2017.replace(steps=30))
    for one in made:
        assert one.trust["status"] == "ok"
        assert one.score > one.trust["start"]
    assert -made[0].score < made[0].trust["start"] * -1 < made[3].score


def test_a_batch_of_two_equals_two_batches_of_one():
    model = tiny_vit()
    objective = unit("blocks.1.ffn:3") - 0.1 * logit(2) + direction("blocks.0", range(24))
    images = torch.rand(2, 3, 32, 32)
    together = objective.score(model, read(model, images, objective.sites(model)))
    alone = [objective.score(model, read(model, image[None], objective.sites(model))) for image in images]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert together.shape == (2,)


def test_feature_maps_are_read_by_channel():
    model = tiny_cnn()
    site = model.site("stages.1.0")
    images = torch.rand(2, 3, 32, 32)
    activations = read(model, images, [site])[site.name]
    torch.testing.assert_close(
        unit(f"{site.name}:5").score(model, {site.name: activations}), activations[:, :, 5].mean(dim=1)
    )


def test_half_precision_is_averaged_in_single():
    tokens = torch.full((1, 5, 4), 1000.1, dtype=torch.bfloat16)
    scores = unit("t:0").score(two_sites(), {"t": tokens})
    assert scores.dtype == torch.float32


def test_a_logit_by_name():
    model = tiny_vit()
    model.classes = tuple(f"class {n}" for n in range(10))
    images = torch.rand(1, 3, 32, 32)
    found = read(model, images, logit("class 7").sites(model))
    assert torch.equal(logit("class 7").score(model, found), found["logits"][:, 0, 7])
    with pytest.raises(UnknownName, match=r"no class 'clas 7' in .* Nearest: 'class 7'"):
        logit("clas 7").bind(model)


def test_sites_are_each_named_once():
    model = two_sites()
    assert [site.name for site in (unit("b:0") + unit("a:1") + unit("b:2")).sites(model)] == ["b", "a"]


def test_errors_say_what_is_wrong():
    model = two_sites()
    with pytest.raises(BadAddress, match="'a' names a site but no unit: say which, such as a:0"):
        unit("a")
    with pytest.raises(BadAddress, match="write 'a', not 'a:1'"):
        direction("a:1", [1, 2])
    with pytest.raises(BadValue, match="a direction at a needs 2 numbers; this one has 3"):
        direction("a", [1, 2, 3]).bind(model)
    with pytest.raises(BadValue, match="not finite"):
        direction("a", [1, float("nan")])
    with pytest.raises(BadValue, match="must be finite"):
        unit("a:1") * float("inf")
    with pytest.raises(BadValue, match="by zero"):
        unit("a:1") / 0
    with pytest.raises(UnknownAddress, match="no unit 9 at a"):
        unit("a:9").bind(model)
    with pytest.raises(UnknownSite, match="no site 'c'"):
        unit("c:9").bind(model)
    with pytest.raises(TypeError):
        unit("a:1") + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        unit("a:1") * unit("a:0")  # type: ignore[operator]
