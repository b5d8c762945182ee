"""Archives: read as a stream, never extracted, and loud when they are cut short."""

import gzip
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from vitscope.data.source import RawImage, Shard, Skipped
from vitscope.data.tar import Tar
from vitscope.errors import BadValue, MissingPath, SourceError
from vitscope.testing import SourceContract


def picture(colour: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (30, 30), (colour % 256, 7, 7)).save(file, "BMP")
    return file.getvalue()


def pack(path: Path, names, *, mode: str = "w", specials=()) -> Path:
    with tarfile.open(path, mode) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            content = picture(number)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
        for name, kind in specials:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
    return path


def entries(source: Tar) -> dict[str, RawImage | Skipped]:
    return {entry.path: entry for entry in source.read(Shard("all", 0, len(source)))}


NAMES = [f"train/{'ba'[i % 2]}/{i}.jpg" for i in range(17)]


class TestPlain(SourceContract):
    @pytest.fixture
    def source(self, tmp_path):
        return Tar(pack(tmp_path / "x.tar", NAMES, specials=[("train/a/l.jpg", tarfile.SYMTYPE)]))


class TestGzipped(SourceContract):
    @pytest.fixture
    def source(self, tmp_path):
        return Tar(pack(tmp_path / "x.tar.gz", NAMES, mode="w:gz"))


def test_order_is_that_of_the_archive_and_the_class_is_the_folder(tmp_path):
    source = Tar(
        pack(tmp_path / "x.tar", [*NAMES, "train/readme.txt"], specials=[("train", tarfile.DIRTYPE)])
    )
    assert list(entries(source)) == NAMES
    assert source.classes == ("a", "b")
    assert [entry.label for entry in entries(source).values()] == [1, 0] * 8 + [1]
    assert entries(source)[NAMES[4]].content == picture(4)


def test_an_image_outside_any_folder_leaves_no_classes(tmp_path):
    source = Tar(pack(tmp_path / "x.tar", ["a/1.png", "./2.png"]))
    assert source.classes is None
    assert list(entries(source)) == ["a/1.png", "2.png"]


def test_plain_and_gzipped_are_the_same_source(tmp_path):
    plain, packed = Tar(pack(tmp_path / "x.tar", NAMES)), Tar(pack(tmp_path / "x.tgz", NAMES, mode="w:gz"))
    assert plain.fingerprint == packed.fingerprint
    assert entries(plain) == entries(packed)


def test_labels_and_classes_from_files(tmp_path):
    archive = pack(tmp_path / "x.tar", ["v/n2/1.png", "v/n1/2.png"])
    (tmp_path / "labels.csv").write_text("path,index,wnid\nv/n2/1.png,5,n2\n")
    assert [e.label for e in entries(Tar(archive, labels=tmp_path / "labels.csv")).values()] == [5, None]
    (tmp_path / "classes.csv").write_text("index,wnid,name\n0,n2,hen\n1,n1,cock\n")
    source = Tar(archive, classes=tmp_path / "classes.csv")
    assert source.classes == ("hen", "cock")
    assert [entry.label for entry in entries(source).values()] == [0, 1]


def test_missing_empty_and_other_files(tmp_path):
    with pytest.raises(MissingPath, match=r"no archive '.*absent.tar'"):
        Tar(tmp_path / "absent.tar")
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(BadValue, match=r"x.zip' is not an archive we read: .tar, .tar.gz, .tgz"):
        Tar(tmp_path / "x.zip")
    with pytest.raises(SourceError, match=r"no image in '.*none.tar': looked for \*.jpg"):
        Tar(pack(tmp_path / "none.tar", ["readme.txt"]))


@pytest.mark.parametrize("length", [0, 100, 512, 3000, 512 + 3072, 512 + 3072 + 100, 2 * (512 + 3072)])
def test_fault_034_a_truncated_archive_is_refused_and_named(tmp_path, length):
    whole = pack(tmp_path / "x.tar", NAMES).read_bytes()
    assert len(picture(0)) <= 3072
    (tmp_path / "cut.tar").write_bytes(whole[:length])
    with pytest.raises(SourceError, match=r"the archive .*cut.tar is truncated or damaged") as caught:
        Tar(tmp_path / "cut.tar")
    if length >= 512:
        assert "at or after the member 'train/" in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_fault_034_a_truncated_gzip_is_refused(tmp_path, share):
    whole = pack(tmp_path / "x.tar.gz", NAMES, mode="w:gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SourceError, match=r"the archive .*cut.tar.gz is truncated or damaged"):
        Tar(tmp_path / "cut.tar.gz")


def test_fault_034_a_damaged_header_in_the_middle_is_not_the_end(tmp_path):
    damaged = bytearray(pack(tmp_path / "x.tar", NAMES).read_bytes())
    damaged[512 + 3072 : 512 + 3072 + 20] = b"?" * 20
    (tmp_path / "bad.tar").write_bytes(damaged)
    with pytest.raises(SourceError, match=r"at or after the member 'train/b/0.jpg'"):
        Tar(tmp_path / "bad.tar")


def test_fault_034_an_archive_cut_while_it_is_read_names_the_member(tmp_path):
    path = pack(tmp_path / "x.tar", NAMES)
    source = Tar(path)
    path.write_bytes(path.read_bytes()[: 3 * 3584 + 600])
    reading = source.read(Shard("all", 0, 17))
    assert [next(reading).path for _ in range(3)] == NAMES[:3]
    with pytest.raises(
        SourceError, match=r"at or after the member 'train/a/3.jpg': 88 of its \d+ bytes are there"
    ):
        next(reading)


def test_fault_034_a_gzip_cut_while_it_is_read_names_the_member(tmp_path):
    path = pack(tmp_path / "x.tar.gz", NAMES, mode="w:gz")
    source = Tar(path)
    path.write_bytes(gzip.compress(b"short"))
    with pytest.raises(SourceError, match=r"at or after the member 'train/b/0.jpg'"):
        next(source.read(Shard("all", 0, 17)))


def test_fault_035_names_that_lead_out_links_and_devices_are_skipped(tmp_path):
    names = ["ok/1.png", "../2.png", "/etc/3.png", "ok/../../4.png"]
    kinds = {
        "l.png": tarfile.SYMTYPE,
        "h.png": tarfile.LNKTYPE,
        "sda": tarfile.BLKTYPE,
        "p.png": tarfile.FIFOTYPE,
    }
    inside = tmp_path / "inside"
    inside.mkdir()
    source = Tar(pack(inside / "x.tar", names, specials=kinds.items()))
    reasons = {path: entry.reason for path, entry in entries(source).items() if isinstance(entry, Skipped)}
    assert reasons == {
        **dict.fromkeys(["../2.png", "/etc/3.png", "ok/../../4.png"], "unsafe_name"),
        **dict.fromkeys(kinds, "not_regular"),
    }
    assert isinstance(source.find("ok/1.png"), RawImage)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "x.tar"], "nothing is extracted"


def test_fault_036_a_name_that_occurs_twice_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"x.tar holds the member 'a/1.png' twice"):
        Tar(pack(tmp_path / "x.tar", ["a/1.png", "a/2.png", "a/1.png"]))


def test_a_name_that_is_not_utf_8(tmp_path):
    source = Tar(pack(tmp_path / "x.tar", ["a/caf\udce9.png"]))
    assert list(entries(source)) == [r"a/caf\xe9.png"]


@pytest.mark.real
def test_the_validation_images_with_their_labels(shared):
    folder = shared / "imagenet1k-val725"
    source = Tar(folder / "val725.tar", labels=folder / "labels.csv")
    assert len(source) == 725
    found = source.find("val/n02951358/ILSVRC2012_val_00000347.jpg")
    assert found.label == 472
    assert source.classes[472] == "n02951358"
