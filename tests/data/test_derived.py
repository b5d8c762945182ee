"""Sources made of sources: limited, chosen, mapped; each is a source itself, and says what it is."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from vitscope.data import images
from vitscope.data.annotations import foregrounds
from vitscope.data.derived import Images, Mapped, Named, check_order
from vitscope.data.folder import Folder
from vitscope.data.source import Shard, Skipped
from vitscope.errors import BadValue
from vitscope.interventions.images import drop_boxes, keep_boxes, low_pass, shift
from vitscope.testing import SourceContract


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for index in range(12):
        path = folder / f"c{index % 3}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    (folder / "c1" / "broken.png").write_bytes(b"")
    return folder


def paths(source):
    return [entry.path for shard in source.shards(3) for entry in source.read(shard)]


class TestLimited(SourceContract):
    @pytest.fixture
    def source(self, photos):
        return images(photos, limit=9)


class TestChosen(SourceContract):
    @pytest.fixture
    def source(self, photos):
        return images(photos).where(lambda path: not path.endswith(("01.png", "05.png", "08.png")))


class TestNamed(SourceContract):
    @pytest.fixture
    def source(self, photos):
        whole = images(photos)
        named = {path: whole.find(path).id for path in ("c2/08.png", "c0/00.png", "c1/04.png")}
        return Named(whole, named, told="three")


def test_an_entry_that_changed_since_it_was_named_is_skipped(photos):
    whole = images(photos)
    few = Named(whole, {"c0/00.png": whole.find("c0/00.png").id, "c0/03.png": "0" * 32}, told="two")
    assert paths(few) == ["c0/00.png", "c0/03.png"]
    assert few.find("c0/03.png") == Skipped("c0/03.png", "changed", "other bytes than when it was scanned")


class TestMapped(SourceContract):
    @pytest.fixture
    def source(self, photos):
        return images(photos).map(low_pass(radius=3), shift(1, 2))


class TestAnnotated(SourceContract):
    @pytest.fixture
    def source(self, photos, tmp_path):
        (tmp_path / "boxes.csv").write_text("path,x0,y0,x1,y1\nc0/00.png,0,0,4,4\n")
        return images(photos).annotated(foregrounds(boxes=tmp_path / "boxes.csv")).limit(10)


def test_a_limit_takes_the_first(photos):
    whole = images(photos)
    every = paths(whole)
    assert list(whole.paths) == every
    for count in (1, 4, 7, 12):
        few = whole.limit(count)
        assert (len(few), paths(few)) == (count, every[:count])
        assert few.find(every[0]) == whole.find(every[0])
        assert isinstance(few.find(every[-1]), Skipped)
        assert few.classes == whole.classes
    assert whole.limit(13) is whole
    assert whole.limit(99) is whole
    assert few.name == f"folder:{photos} | first 12"
    with pytest.raises(BadValue, match="limit must be at least 1, not 0"):
        images(photos, limit=0)


def test_scattered_choices_are_read_in_order(photos):
    whole = images(photos)
    every = paths(whole)
    for chosen in ([0, 12], [1, 2, 3, 9], [5], list(range(0, 13, 2))):
        few = whole.where(lambda path, chosen=chosen: every.index(path) in chosen)
        assert paths(few) == [every[place] for place in chosen]
        assert list(few.read(Shard("", 0, 0))) == []
        assert list(few.limit(1).read(Shard("", 0, 1))) == [whole.find(every[chosen[0]])]
    with pytest.raises(BadValue, match=r"no image of folder:.* is chosen; its first is 'c0/00\.png'"):
        whole.where(lambda _: False)


def test_fingerprints_tell_choices_and_interventions_apart(photos):
    whole = images(photos)
    others = [
        whole,
        whole.limit(4),
        whole.limit(5),
        whole.where(lambda path: "c1" in path),
        whole.map(low_pass(radius=3)),
        whole.map(low_pass(radius=4)),
        whole.map(low_pass(radius=3), shift(1, 0)),
        whole.map(shift(1, 0), low_pass(radius=3)),
        whole.limit(4).map(shift(1, 0)),
    ]
    assert len({one.fingerprint for one in others}) == len(others)
    again = images(photos)
    assert again.map(low_pass(radius=3)).fingerprint == whole.map(low_pass(radius=3)).fingerprint
    assert again.limit(4).fingerprint == whole.limit(4).fingerprint


def test_a_choice_is_known_by_what_it_holds(photos):
    whole = images(photos)
    first = set(whole.paths[:4])
    assert whole.where(lambda path: path in first).fingerprint == whole.limit(4).fingerprint


def test_images_carry_their_interventions(photos):
    source = images(photos).map(low_pass(radius=3)).limit(5).map(shift(1, 2))
    entry = source.find("c0/00.png")
    assert entry.interventions == (low_pass(radius=3), shift(1, 2))
    assert entry.id == images(photos).find("c0/00.png").id
    changes = source.describe()["changes"]
    assert changes == ["low_pass(radius=3, shape='disk')", "first 5", "shift(1, 2, edge='wrap')"]
    assert source.name == " | ".join([f"folder:{photos}", *changes])


def test_an_impossible_order_is_refused(photos):
    with pytest.raises(
        BadValue,
        match=re.escape(
            "drop_boxes(fill='black') works on the original picture and cannot come after shift(1, "
        ),
    ):
        images(photos).map(shift(1, 2)).map(drop_boxes())
    with pytest.raises(
        BadValue, match="3 is no intervention on images: it has no on_original and no on_view"
    ):
        check_order([3])
    check_order((keep_boxes(), drop_boxes(), low_pass(radius=1)))


def test_any_source_gets_the_verbs(photos):
    class Plugin:
        def __init__(self, source):
            self.inner, self.name, self.fingerprint = source, "plugin:", source.fingerprint
            self.classes = source.classes

        def __len__(self):
            return len(self.inner)

        def __getattr__(self, name):
            if name == "paths":
                raise AttributeError(name)
            return getattr(self.inner, name)

    plain = Plugin(Folder(photos))
    source = images(plain)
    assert isinstance(source, Mapped)
    assert isinstance(source, Images)
    assert (source.name, source.fingerprint) == ("plugin:", plain.fingerprint)
    assert source.paths == plain.inner.paths
    assert source.describe()["changes"] == []
    assert paths(images(plain, limit=3)) == paths(plain.inner)[:3]


def test_the_first_images_of_an_archive(photos, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for path in sorted(photos.rglob("*.png")):
            archive.add(path, path.relative_to(photos).as_posix())
    few = images(tmp_path / "x.tar.gz", limit=5)
    assert [entry.path for entry in few.read(few.shards()[0])] == list(images(photos).paths[:5])
    assert io.BytesIO(few.find("c0/00.png").content).getvalue() == (photos / "c0/00.png").read_bytes()
