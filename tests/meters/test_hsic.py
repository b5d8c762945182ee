"""CKA as a meter: any batches, merges and files give the slow float64 value; known defects of other tools."""

import itertools

import numpy as np
import pytest
import torch
from tests.conftest import state_of
from torch import nn

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue, Failure, UnknownAddress, UnknownSite
from vitscope.meters import gathering
from vitscope.meters.hsic import CKA
from vitscope.meters.reading import Reading
from vitscope.models import load
from vitscope.models.vision_model import Site
from vitscope.passes import read_batches
from vitscope.testing.doubles import tiny_cnn, tiny_vit

PLACES, WIDTHS = 5, {"a": 7, "b": 3, "c": 12}
SITES = [Site(name, name, "image token unit", width, (2, 2), 1) for name, width in WIDTHS.items()]


def slowly(x, y):
    """HSIC_1 by its definition (Song et al. 2012), in float64, with the matrices written out."""
    grams = []
    for values in (x, y):
        flat = values.double().flatten(1)
        gram = flat @ flat.T
        gram.fill_diagonal_(0)
        grams.append(gram)
    k, l = grams  # noqa: E741
    n, ones = len(k), torch.ones(len(k), 1, dtype=torch.float64)
    trace = torch.trace(k @ l)
    sums = (ones.T @ k @ ones) * (ones.T @ l @ ones) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (ones.T @ k @ l @ ones)
    return float((trace + sums - cross) / (n * (n - 3)))


def cka_slowly(x, y, gram):
    """The ratio of means over batches, each batch counting by its images."""
    sums = np.zeros(3)
    for start in range(0, len(x), gram):
        part = x[start : start + gram], y[start : start + gram]
        if len(part[0]) >= 4:
            pairs = (part, (part[0], part[0]), (part[1], part[1]))
            sums += len(part[0]) * np.array([slowly(*pair) for pair in pairs])
    return sums[0] / np.sqrt(sums[1] * sums[2])


def batch_of(names):
    ids = tuple(f"{name:032x}" for name in names)
    return ImageBatch(ids, ids, torch.zeros(len(ids), 3, 1, 1), torch.zeros(len(ids), dtype=torch.int64))


def fed(values, meter=None, *, batch=8, first=0, sites=SITES):
    """The state that has read {site: "image place unit"} as a pass does: all sites of a batch, in order."""
    state = (meter or CKA(gram=16)).start(sites)
    count = len(next(iter(values.values())))
    for start in range(0, count, batch):
        names = range(first + start, first + min(count, start + batch))
        for site in sites:
            state.read(Reading(site, values[site.name][start : start + batch], batch_of(names)))
    return state


def made(count, seed=0):
    """Three sites that have something in common, with a large offset."""
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(count, 6, generator=draw)
    return {
        name: (base @ torch.randn(6, PLACES * width, generator=draw)).relu().unflatten(1, (PLACES, width))
        + 3 * torch.randn(PLACES, width, generator=draw)
        for name, width in WIDTHS.items()
    }


@pytest.mark.parametrize(("count", "gram"), [(64, 16), (50, 16), (50, 64), (18, 16), (7, 4), (5, 128)])
def test_every_pair_equals_the_definition_in_float64(count, gram):
    values = made(count)
    found = fed(values, CKA(gram=gram)).result()
    kept = count - (count % gram if count % gram < 4 else 0)
    for (i, a), (j, b) in itertools.product(enumerate("abc"), repeat=2):
        truth = cka_slowly(values[a], values[b], gram)
        assert found.cka().value[i, j] == pytest.approx(truth, abs=1e-6)
    assert (found.images, found.dropped) == (kept, count - kept)


ONE = 4 * 16 * PLACES
"""Bytes that the images of a Gram batch need in memory, for each unit of a site."""


@pytest.mark.parametrize("in_memory", [0, ONE * (WIDTHS["a"] + WIDTHS["b"]), 2**30])
def test_the_batches_of_passes_change_nothing_to_the_last_bit(monkeypatch, in_memory):
    values = made(50)
    whole = fed(values, batch=50).arrays()
    monkeypatch.setattr(gathering, "IN_MEMORY", in_memory)
    for batch in (1, 3, 16, 20, 50):
        other = fed(values, batch=batch).arrays()
        assert all(np.array_equal(whole[name], other[name]) for name in whole)


def test_more_features_than_are_multiplied_at_once_in_a_file_and_in_memory(monkeypatch):
    values = made(20)
    once = fed(values).result().cka().value
    monkeypatch.setattr(gathering, "COLUMNS", 4)
    parts = fed(values).result().cka().value
    monkeypatch.setattr(gathering, "IN_MEMORY", 0)
    np.testing.assert_array_equal(fed(values).result().cka().value, parts)
    np.testing.assert_allclose(parts, once, atol=1e-6)


def test_states_merge_in_any_order_and_are_files():
    values = made(48)
    parts = [
        fed({name: each[start : start + 16] for name, each in values.items()}, first=start)
        for start in (0, 16, 32)
    ]
    whole = fed(values).arrays()
    for one, two, three in itertools.permutations(parts):
        for merged in (one.merge(two).merge(three), one.merge(two.merge(three))):
            again = CKA(gram=16).load(SITES, merged.arrays())
            for state in (merged, again):
                found = state.arrays()
                assert all(np.array_equal(whole[name], found[name]) for name in whole)
    assert again.result().sites == ("a", "b", "c")


def test_a_state_that_has_seen_nothing_is_a_file_too_and_has_no_similarity():
    state = CKA().load(SITES, CKA().start(SITES).arrays())
    with pytest.raises(BadValue, match="similarity needs at least 4 images, and there are 0"):
        state.result().cka()


@pytest.mark.parametrize("short", [1, 2, 3])
def test_a_short_last_batch_is_dropped_and_counted_and_nothing_is_nan(short):
    values = made(16 + short)
    found = fed(values).result()
    truth = fed({name: each[:16] for name, each in values.items()}).result()
    assert (found.images, found.dropped) == (16, short)
    np.testing.assert_array_equal(found.cka().value, truth.cka().value)
    assert np.isfinite(found.cka().value).all()


def test_what_is_read_may_be_overwritten_at_once():
    values, state = made(16), CKA(gram=16).start(SITES)
    truth = fed(values).result().cka().value
    for start in (0, 8):
        for site in SITES:
            passing = values[site.name][start : start + 8].clone()
            state.read(Reading(site, passing, batch_of(range(start, start + 8))))
            passing.fill_(7.0)
    np.testing.assert_array_equal(state.result().cka().value, truth)


def test_features_are_places_their_mean_or_one_place():
    values = made(32)
    reduced = {
        "mean": {name: each[:, 1:].mean(1) for name, each in values.items()},
        "cls": {name: each[:, 0] for name, each in values.items()},
        "1,0": {name: each[:, 3] for name, each in values.items()},
    }
    for features, truth in reduced.items():
        found = fed(values, CKA(gram=16, features=features)).result().cka().value
        assert found[0, 2] == pytest.approx(cka_slowly(truth["a"], truth["c"], 16), abs=1e-6)
    with pytest.raises(UnknownAddress, match=r"no place '2,0' at blocks\.0: its grid is"):
        CKA("blocks.0", features="2,0").sites(tiny_vit(img_size=16).sites)


def test_maps_that_lie_unit_by_unit_in_memory_read_the_same():
    values = made(32)
    turned = {name: each.mT.contiguous().mT for name, each in values.items()}
    np.testing.assert_allclose(fed(turned).result().cka().value, fed(values).result().cka().value, atol=1e-7)


def test_fault_109_constant_features_have_a_status_and_no_similarity():
    values = made(32)
    values["b"] = values["b"][:1].expand(32, -1, -1).contiguous() / 3
    found = fed(values).result()
    assert found.status == {"a": "ok", "b": "constant", "c": "ok"}
    for spherical in (False, True):
        value = found.cka(spherical=spherical).value
        assert np.isnan(value[1]).all()
        assert np.isnan(value[:, 1]).all()
        assert np.isfinite(value[[0, 2]][:, [0, 2]]).all()
    assert np.isnan(found.neighbours(k=3).value[1]).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_said(bad):
    values = made(32)
    values["c"][20, 1, 1] = bad
    found = fed(values).result()
    assert found.status["c"] == "nan"
    assert np.isnan(found.cka().value[2]).all()
    assert np.isnan(found.neighbours(k=3).value[2]).all()
    assert np.isfinite(found.cka().value[:2, :2]).all()


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(BadValue, match="gram counts the images of a Gram batch and is at least 4, not 3"):
        CKA(gram=3)
    with pytest.raises(BadValue, match="cka needs at least one pattern"):
        CKA(())
    with pytest.raises(UnknownSite, match=r"no site 'stages\.\*' "):
        CKA(("stages.*", "layers.*")).sites(tiny_vit().sites)


def test_a_full_disk_is_said(monkeypatch):
    monkeypatch.setattr(gathering, "IN_MEMORY", 0)
    state = fed(made(8))

    class Full:
        def seek(self, _):
            raise OSError(28, "No space left on device")

        write = seek

    state._waiting._file = Full()
    with pytest.raises(Failure, match=r"the features of 16 images need .* MB in .*Set TMPDIR"):
        state.read(Reading(SITES[0], made(8)["a"], batch_of(range(8))))


def batches(model, count, batch, seed=0):
    rows, columns = model.preprocessing.size
    pixels = torch.rand(count, 3, rows, columns, generator=torch.Generator().manual_seed(seed))
    for start in range(0, count, batch):
        part = pixels[start : start + batch]
        ids = tuple(f"{index:032x}" for index in range(start, start + len(part)))
        yield ImageBatch(ids, ids, part, torch.zeros(len(part), dtype=torch.int64))


def grams(model, meter, *, count=24, batch=8):
    return read_batches(model, batches(model, count, batch), [meter])["cka"].result()


def test_defect_shuffled_images_a_model_against_its_copy_is_one():
    ours, theirs = (grams(tiny_cnn(), CKA("stages.*.*", gram=12), batch=batch) for batch in (8, 5))
    np.testing.assert_allclose(np.diag(ours.cka(theirs).value), 1.0, atol=1e-6)


def test_defect_shuffled_images_other_images_are_refused():
    values = made(32)
    ours, theirs = fed(values).result(), fed(values, first=1).result()
    with pytest.raises(BadValue, match="similarity compares the same images in the same batches"):
        ours.cka(theirs)
    with pytest.raises(BadValue, match="these are 32 images in 2 batches and 16 in 1"):
        ours.neighbours(fed(made(16)).result())


class Backwards(nn.Module):
    """Its parts run in another order than they are registered in, and one of them overwrites its input."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(6, 4)
        self.act = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(3, 6, 8, 8)

    def forward(self, pixels):
        return self.last(self.act(self.norm(self.first(pixels))).mean((2, 3)))


@pytest.fixture(scope="module")
def backwards():
    torch.manual_seed(0)
    module = Backwards()
    module.norm.running_mean.fill_(0.2)
    return load(module, sample=(32, 32), device="cpu")


def test_defects_rows_named_otherwise_and_features_overwritten_in_place(backwards):
    meter = CKA(("last", "act", "norm", "first"), gram=24)
    found = grams(backwards, meter)
    (batch,) = batches(backwards, 24, 24)
    module = backwards.module
    with torch.no_grad():
        truth = {"first": module.first(backwards.preprocess(batch.pixels))}
        truth["norm"] = module.norm(truth["first"])
        truth["act"] = truth["norm"].relu()
        truth["last"] = module.last(truth["act"].mean((2, 3)))
    value = found.cka().value
    assert {*found.sites} == {*truth}
    for (i, a), (j, b) in itertools.product(enumerate(found.sites), repeat=2):
        assert value[i, j] == pytest.approx(cka_slowly(truth[a], truth[b], 24), abs=1e-6), (a, b)
    assert value[found.sites.index("norm"), found.sites.index("act")] < 0.999


@pytest.mark.parametrize("make", [tiny_vit, tiny_cnn])
def test_defects_hooks_left_behind_and_gradients_kept(make):
    model = make()
    before = state_of(model.module)
    for weight in model.module.parameters():
        weight.requires_grad_(True)
    grams(model, CKA(("blocks.*", "stages.*.*"), gram=8))
    for weight in model.module.parameters():
        weight.requires_grad_(before["needs"][0])
    assert state_of(model.module) == before


def test_defect_tokens_compared_within_an_image():
    """The matrices are of images: as many rows as images, however many tokens there are."""
    found = grams(tiny_vit(), CKA("blocks.*", gram=24))
    assert [values.shape for values in found.values] == [(3, 24 * 25 // 2)]
