"""Views under dropped patches against loops in float64, the pictures of one image, and what has no views."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import vitscope as vs
from vitscope.data.foregrounds import shares
from vitscope.data.stream import stream
from vitscope.errors import BadValue, Unsuited
from vitscope.flow import rolling_sites
from vitscope.interventions.patches import drop_patches
from vitscope.meters.attention import by_head
from vitscope.models.vision_model import Preprocessing
from vitscope.studies import study
from vitscope.studies.appearance import from_text
from vitscope.studies.views_dropped import WholeImages
from vitscope.studies.views_measured import DroppedViews
from vitscope.tap import read
from vitscope.testing import tiny_vit
from vitscope.variants import Variant, scan_variants

COUNT = 3
AMONG = {"random": "all", "salient": "foreground", "non_salient": "background"}


@pytest.fixture(scope="module")
def model():
    """As the paper's, it maps pixels to [-1, 1]; a black patch then has a view, the negative filter."""
    model = tiny_vit(reg_tokens=1)
    model.preprocessing = Preprocessing((32, 32), 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return model


@pytest.fixture(scope="module")
def folder(tinted, masked):
    masks = np.zeros((COUNT, 32, 32), np.uint8)
    for index, values in enumerate(masks):
        values[8 : 24 + 4 * index, :16] = 1
    return masked(tinted(COUNT), masks)


@pytest.fixture(scope="module")
def source(folder):
    whole = vs.images(f"folder:{folder}", masks=folder / "masks")
    return whole.where(lambda path: "/" not in path)


@pytest.fixture(scope="module")
def result(model, source):
    return study("occlusion", model, source, shares=(0.5, 1), units=0, seed=3, batch_size=2)


def local_views(model, pixels):
    """[place][filter], a vector each, as the diagram has it: the filter times the patch."""
    shown, kernel = model.preprocess(pixels[None])[0].double(), model.module.patch_embed.proj.weight.double()
    views = []
    for place in range(16):
        row, column = 8 * (place // 4), 8 * (place % 4)
        patch = shown[:, row : row + 8, column : column + 8]
        views.append(torch.stack([(one * patch).flatten() for one in kernel]).detach())
    return views


def held(model, pixels):
    """[level][token][patch]: the shares in a token, by the recursion over tokens."""
    weights = read(model, pixels[None], rolling_sites(model))
    now = np.eye(18)
    levels = [now]
    for site in rolling_sites(model):
        rows = by_head(site, weights[site.name])[0].mean(0).double().numpy()
        now = np.stack([sum((rows[q, k] + (q == k)) / 2 * now[k] for k in range(18)) for q in range(18)])
        levels.append(now)
    return [level[:, 2:] for level in levels]


def slow(model, whole, pixels, salient, left, level, token):
    """The measures of one image, level and token, from the pictures themselves."""
    before, after = local_views(model, whole), local_views(model, pixels)
    flows = [held(model, one)[level] for one in (whole, pixels)]

    def shares_of(flow, inside):
        if token == "image":
            return np.ones(16)
        if token == "cls":
            return flow[0]
        return np.mean([flow[2 + place] for place in range(16) if inside[place] and left[place]], axis=0)

    def auc(inside):
        weights = shares_of(flows[1], inside)
        kept = [place for place in range(16) if left[place]]
        if len({inside[place] for place in kept}) < 2:
            return np.nan
        sizes = [weights[place] * after[place].norm().item() for place in kept]
        return roc_auc_score([inside[place] for place in kept], sizes)

    old, new = (shares_of(flow, salient) for flow in flows)
    one = torch.cat([old[place] * before[place].flatten() for place in range(16)])
    other = torch.cat([new[place] * after[place].flatten() for place in range(16)])
    on = [place for place in range(16) if salient[place] and left[place]]
    off = [place for place in range(16) if not left[place]]
    return {
        "cosine": torch.nn.functional.cosine_similarity(one, other, dim=0).item(),
        "auc": auc(salient),
        "auc_turned": auc(salient[::-1]),
        "from_object": 100 * new[on].sum() / new.sum(),
        "from_dropped": 100 * new[off].sum() / new.sum(),
    }


@pytest.mark.parametrize(
    ("among", "share", "level", "token"),
    [
        ("none", 0.0, 3, "cls"),
        ("random", 0.5, 0, "image"),
        ("random", 0.5, 2, "cls"),
        ("random", 1.0, 3, "cls"),
        ("salient", 0.5, 1, "object"),
        ("salient", 1.0, 3, "cls"),
        ("non_salient", 0.5, 3, "object"),
    ],
)
def test_rows_are_means_of_what_the_pictures_say(result, model, source, among, share, level, token):
    found = []
    (shard,) = source.shards()
    for batch in stream(source, shard, model.preprocessing, batch_size=1, on_skip=print):
        salient = shares(batch.foreground, (4, 4))[0] > 0.15
        marked = salient.float().view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)[None]
        drop = drop_patches(share=share, patch=8, among=AMONG.get(among, "all"), seed=3)
        pixels = drop(batch.pixels, ids=batch.ids, foreground=marked)[0]
        gone = drop.chosen(batch.ids, (4, 4), foreground=marked)[0].numpy()
        found.append(slow(model, batch.pixels[0], pixels, salient.numpy(), ~gone, level, token))
    (row,) = result.rows(part="views", among=among, share=share, level=level, token=token)
    for name in found[0]:
        expected = np.array([one[name] for one in found])
        assert row[name] == pytest.approx(expected.mean(), abs=2e-5, nan_ok=True), name
    gains = np.array([one["auc"] - one["auc_turned"] for one in found])
    error = gains.std(ddof=1) / np.sqrt(COUNT)
    assert row["auc_gain_error"] == pytest.approx(error, abs=1e-6, nan_ok=True)
    assert row["compared"] == COUNT


def test_nothing_dropped_is_the_whole_and_what_is_gone_has_no_row(result):
    assert {(row["level"], row["token"]) for row in result.rows(part="views", among="none")} == {
        (0, "image"),
        *((level, token) for level in (1, 2, 3) for token in ("cls", "object")),
    }
    for row in result.rows(part="views", among="none"):
        assert (row["cosine"], row["from_dropped"]) == (pytest.approx(1), 0)
    assert not result.rows(part="views", among="salient", share=1.0, token="object")
    for row in result.rows(part="views", among="salient", share=1.0):
        assert row["from_object"] == 0
        assert np.isnan(row["auc"])


def test_states_merge_and_are_arrays(model, source):
    meter = DroppedViews(WholeImages(model, levels=2))
    drop = drop_patches(share=0.5, patch=8)
    images = (meter.images.under(drop),)
    whole, first, last = (
        scan_variants(model, some, [Variant("drop", images=images)], [meter])["drop"]["views"]
        for some in (source, source.limit(1), source.where(lambda path: path > "00.png" and "/" not in path))
    )
    sites = meter.sites(model.sites)
    states = [meter.load(sites, {"ids": one.ids, "values": one.values}) for one in (last, first)]
    both = states[0].merge(states[1]).arrays()
    np.testing.assert_array_equal(both["ids"], whole.ids)
    np.testing.assert_allclose(both["values"], whole.values, atol=1e-6)
    assert whole.values.shape == (COUNT, 2, 2, 5)


def test_one_picture_is_drawn_as_it_is_left(result, model, source):
    texts = result.arrays["pictures"]
    assert texts.shape == (3, 3, 3)  # kinds, none and two shares, the picture and its views at two levels
    black = from_text(texts[0, 2, 0])
    assert black.max() < 8
    assert from_text(texts[2, 2, 0])[8:24, :16].mean() > 30 > from_text(texts[1, 2, 0])[8:24, :16].mean()
    figures = result.figures()
    assert list(figures) == ["answers", "views", "views_object", "views_dropped", "pictures"]
    titles = [axes.get_title() for axes in figures["pictures"].axes[:3]]
    assert titles == ["0 % dropped", "50 % dropped", "100 % dropped"]
    with pytest.raises(BadValue, match=r"'none.png' cannot be read: choose another picture"):
        study("occlusion", model, source, shares=(1,), units=0, picture="none.png")


def test_what_has_no_views_has_other_rows_all_the_same(model, cnn, source):
    found = study("occlusion", [model, cnn], source, shares=(1,), units=0, levels=2)
    assert {row["level"] for row in found.rows(part="views")} == {0, 3}
    assert not found.rows(model=cnn.name, part="views")
    assert len(found.rows(model=cnn.name, part="answers")) == 4
    notes = found.provenance.settings["seen"]["notes"]
    assert [note for note in notes if note.startswith(f"no views: {cnn.name} does not cut images")]
    left_out = study("occlusion", model, source, shares=(1,), units=0, levels=0)
    assert not left_out.rows(part="views")
    assert list(left_out.figures()) == ["answers"]
    with pytest.raises(BadValue, match="levels is 0, or at least 2: the first and the last, not 1"):
        study("occlusion", model, source, levels=1)
    with pytest.raises(Unsuited, match="does not cut images into patches"):
        WholeImages(cnn, levels=2)
