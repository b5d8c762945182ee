"""A few images of every class: parts without overlap, the same for the same seed, and classes too small."""

import numpy as np
import pytest
from PIL import Image

from vitscope.data import images
from vitscope.data.shots import few_shots
from vitscope.errors import BadValue

SIZES = {"ant": 12, "bee": 9, "cow": 3, "dog": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Classes of several sizes; the second image of the first class is there again under another name."""
    root, shade = tmp_path_factory.mktemp("photos"), 0
    for name, count in SIZES.items():
        (root / name).mkdir()
        for index in range(count):
            shade += 1
            Image.fromarray(np.full((8, 8, 3), 5 * shade, np.uint8)).save(root / name / f"{index:02}.png")
    (root / "ant" / "99.png").write_bytes((root / "ant" / "01.png").read_bytes())
    return root


@pytest.fixture(scope="module")
def source(folder):
    return images(f"folder:{folder}")


def counts(part):
    return [sum(path.startswith(name) for path in part.paths) for name in SIZES]


def entries(part):
    return [entry for shard in part.shards() for entry in part.read(shard)]


def test_parts_have_the_images_that_were_asked_for_and_share_none(source):
    [found] = few_shots(source, shots=5, test=0.25, held_out=0.4, seed=1)
    assert counts(found.test) == [3, 2, 1, 0]
    assert counts(found.tune) == [2, 2, 1, 0]
    assert counts(found.fit) == [3, 3, 1, 0]
    ids = [entry.id for part in (found.fit, found.tune, found.test) for entry in entries(part)]
    assert len(set(ids)) == len(ids)
    assert (found.classes, found.left_out, found.fewest, found.most) == ((0, 1, 2), 1, 2, 5)
    assert {entry.label for entry in entries(found.fit)} == {0, 1, 2}


def test_no_shots_are_all_that_are_not_for_testing(source):
    [found] = few_shots(source, shots=0, test=0.5, held_out=0.2, seed=1)
    assert counts(found.test) == [6, 4, 1, 0]
    assert [sum(two) for two in zip(counts(found.fit), counts(found.tune), strict=True)] == [6, 5, 2, 0]


def test_the_draw_is_that_of_the_seed_and_others_draw_otherwise(source):
    one, again, other = (
        few_shots(source, shots=4, test=0.25, held_out=0.25, seed=seed)[0].fit.paths for seed in (1, 1, 2)
    )
    assert one == again != other


def test_several_draws_are_single_draws_and_another_seed_has_none_of_them(source):
    settings = {"shots": 4, "test": 0.25, "held_out": 0.25}
    for seed in (0, 2):
        several = few_shots(source, **settings, draws=3, seed=seed)
        single = [few_shots(source, **settings, seed=3 * seed + draw)[0] for draw in range(3)]
        assert [part.fit.paths for part in several] == [part.fit.paths for part in single]
        assert len({part.fit.paths for part in several}) == 3


def test_every_image_is_drawn_as_often_as_any(source):
    drawn = [part.test.paths for part in few_shots(source, shots=2, test=0.25, held_out=0.5, draws=80)]
    times = [sum(f"bee/{index:02}.png" in paths for paths in drawn) for index in range(9)]
    assert sum(times) == 160
    assert max(abs(each - 160 / 9) for each in times) < 4 * np.sqrt(80 * 2 / 9 * 7 / 9)


def test_what_cannot_be_learnt_and_tested_is_an_error(source, folder):
    for wrong in ({"shots": -1}, {"test": 0.0}, {"test": 1.0}, {"held_out": 1.0}, {"draws": 0}):
        with pytest.raises(BadValue, match=r"between 0 and 1, and draws is at least 1, not -?\d, \d\.\d, "):
            few_shots(source, **{"shots": 2, "test": 0.5, "held_out": 0.5, **wrong})
    few = images(f"folder:{folder / 'ant'}")
    with pytest.raises(BadValue, match="has 0 classes, of which 0 have two different images: two such"):
        few_shots(few, shots=2, test=0.5, held_out=0.5)
