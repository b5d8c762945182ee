"""Folders of images: classes, labels, odd names, links, pipes, and files that vanish while they are read."""

import json
import os
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from vitscope.data.folder import Folder
from vitscope.data.source import RawImage, Shard, Skipped
from vitscope.data.stream import stream
from vitscope.errors import BadValue, MissingPath, SourceError
from vitscope.models.vision_model import Preprocessing
from vitscope.testing import SourceContract


def picture(colour: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (4, 4), (colour % 256, 7, 7)).save(file, "PNG")
    return file.getvalue()


def put(root: Path, *paths: str) -> Path:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(picture(number))
    return root


def entries(folder: Folder) -> dict[str, RawImage | Skipped]:
    return {entry.path: entry for entry in folder.read(Shard("all", 0, len(folder)))}


def reasons(folder: Folder) -> dict[str, str]:
    return {path: entry.reason for path, entry in entries(folder).items() if isinstance(entry, Skipped)}


class TestFlat(SourceContract):
    @pytest.fixture
    def source(self, tmp_path):
        return Folder(put(tmp_path, *(f"{i}.png" for i in range(11))))


class TestTreeWithTrouble(SourceContract):
    @pytest.fixture
    def source(self, tmp_path):
        put(tmp_path, *(f"{'abc'[i % 3]}/{i}.png" for i in range(20)))
        (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
        (tmp_path / "b" / "loop").symlink_to(tmp_path)
        return Folder(tmp_path)


def test_order_is_by_the_bytes_of_the_path_and_only_images_are_listed(tmp_path):
    put(
        tmp_path,
        "b.JPG",
        "B.jpeg",
        "a/z.Tiff",
        "a.webp",
        "ä.png",
        "notes.txt",
        "x.bmp",
        "y.gif",
        "z.tif",
        "c.svg",
    )
    found = list(entries(Folder(tmp_path)))
    assert found == ["B.jpeg", "a.webp", "a/z.Tiff", "b.JPG", "x.bmp", "y.gif", "z.tif", "ä.png"]


def test_a_tree_has_the_classes_of_its_first_folders_in_sorted_order(tmp_path):
    folder = Folder(put(tmp_path, "dog/1.png", "cat/deep/er/2.png", "Zebra/3.png"))
    assert folder.classes == ("Zebra", "cat", "dog")
    assert {path: entry.label for path, entry in entries(folder).items()} == {
        "dog/1.png": 2,
        "cat/deep/er/2.png": 1,
        "Zebra/3.png": 0,
    }


def test_one_image_in_the_root_makes_it_flat(tmp_path):
    folder = Folder(put(tmp_path, "dog/1.png", "2.png"))
    assert folder.classes is None
    assert {entry.label for entry in entries(folder).values()} == {None}


def test_a_broken_link_in_the_root_does_not_make_a_tree_flat(tmp_path):
    put(tmp_path, "dog/1.png")
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    assert Folder(tmp_path).classes == ("dog",)


def test_classes_csv_gives_index_and_name(tmp_path):
    put(tmp_path, "n02/1.png", "n09/2.png")
    (tmp_path / "classes.csv").write_text('index,wnid,name\n0,n09,"jay, bird"\n2,n02,tench\n')
    folder = Folder(tmp_path)
    assert folder.classes == ("jay, bird", "1", "tench")
    assert [entry.label for entry in entries(folder).values()] == [2, 0]


def test_classes_csv_that_misses_a_folder_names_it_and_the_nearest(tmp_path):
    put(tmp_path, "n021/1.png")
    (tmp_path / "classes.csv").write_text("index,wnid\n0,n022\n")
    with pytest.raises(BadValue, match=r"classes.csv does not name the folder 'n021'. Nearest: 'n022'."):
        Folder(tmp_path)


def test_labels_by_name(tmp_path):
    put(tmp_path, "1.png", "sub/2.png", "3.png")
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n./1.png,dog\nsub/2.png,cat\n")
    folder = Folder(tmp_path, labels=table)
    assert folder.classes == ("cat", "dog")
    assert [entry.label for entry in entries(folder).values()] == [1, None, 0]


def test_labels_by_index_keep_their_numbers(tmp_path):
    put(tmp_path, "1.png", "2.png")
    table = tmp_path / "labels.csv"
    table.write_text("path,index,wnid\n1.png,3,n07\n2.png,1,n05\n")
    folder = Folder(tmp_path, labels=table)
    assert folder.classes == ("0", "n05", "2", "n07")
    assert [entry.label for entry in entries(folder).values()] == [3, 1]
    table.write_text("path,label\n1.png,10\n2.png,9\n")
    assert [entry.label for entry in entries(Folder(tmp_path, labels=table)).values()] == [10, 9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n1.png,a\n", "labels.csv has no column 'path'; it has file, label"),
        ("path,kind\n1.png,a\n", "labels.csv has no column 'label' or 'index'; it has path, kind"),
        ("path,index\n1.png,-1\n", "labels.csv: index '-1' is not a number from 0 up"),
        (
            "path,label\nelse/9.png,a\n",
            "no path of .*labels.csv is in the source: it has 'else/9.png', the source '1.png'",
        ),
    ],
)
def test_labels_that_do_not_fit_say_why(tmp_path, text, message):
    table = put(tmp_path, "1.png") / "labels.csv"
    table.write_text(text)
    with pytest.raises(BadValue, match=message):
        Folder(tmp_path, labels=table)


def test_labels_that_are_not_there(tmp_path):
    with pytest.raises(MissingPath, match=r"no such file: .*absent.csv"):
        Folder(put(tmp_path, "1.png"), labels=tmp_path / "absent.csv")


def test_fault_021_empty_folder(tmp_path):
    (tmp_path / "readme.txt").write_text("no image here")
    with pytest.raises(SourceError) as caught:
        Folder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "*.jpg, *.jpeg, *.png, *.webp, *.bmp, *.gif, *.tif, *.tiff" in str(caught.value)
    assert caught.value.exit_code == 1


def test_fault_022_missing_folder(tmp_path):
    with pytest.raises(
        MissingPath, match=r"no folder '.*nowhere' to read images from: it does not exist"
    ) as caught:
        Folder(tmp_path / "nowhere")
    assert caught.value.exit_code == 2
    with pytest.raises(MissingPath, match="it is not a folder"):
        Folder(put(tmp_path, "1.png") / "1.png")


def test_fault_023_no_permission(tmp_path, monkeypatch):
    folder = Folder(put(tmp_path, "closed.png", "open.png"))
    opened = os.open

    def guarded(path, *rest, **named):  # root may read everything, so the refusal is staged
        if b"closed" in os.fsencode(path):
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest, **named)

    monkeypatch.setattr(os, "open", guarded)
    assert folder.find("closed.png") == Skipped("closed.png", "no_permission", "Permission denied")
    assert reasons(folder) == {"closed.png": "no_permission"}


def test_fault_023_no_permission_on_a_sub_folder(tmp_path, monkeypatch):
    put(tmp_path, "closed/1.png", "open/2.png")
    scanned = os.scandir

    def guarded(path):
        if b"closed" in path:
            raise PermissionError(13, "Permission denied")
        return scanned(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert reasons(Folder(tmp_path)) == {"closed": "no_permission"}


def test_fault_024_a_pipe_named_jpg_is_never_opened(tmp_path):
    put(tmp_path, "1.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    assert reasons(Folder(tmp_path)) == {"pipe.jpg": "not_regular", "link.jpg": "not_regular"}


def test_fault_024_a_file_that_becomes_a_pipe_does_not_block(tmp_path):
    folder = Folder(put(tmp_path, "1.png"))
    (tmp_path / "1.png").unlink()
    os.mkfifo(tmp_path / "1.png")
    assert reasons(folder) == {"1.png": "not_regular"}


def test_fault_025_link_loops(tmp_path):
    put(tmp_path, "a/1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "x.png").symlink_to("y.png")
    (tmp_path / "y.png").symlink_to("x.png")
    folder = Folder(tmp_path)
    assert reasons(folder) == {"a/up": "link_loop", "x.png": "link_loop", "y.png": "link_loop"}
    assert "a/1.png" in entries(folder)


def test_fault_025_links_within_the_root_are_followed_once(tmp_path):
    put(tmp_path, "real/1.png")
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "two").symlink_to("real")
    (tmp_path / "real" / "again.png").symlink_to("1.png")
    folder = Folder(tmp_path)
    good = [path for path, entry in entries(folder).items() if isinstance(entry, RawImage)]
    assert good == ["one/1.png", "one/again.png", "real/1.png", "real/again.png"]
    assert len({entry.id for entry in entries(folder).values() if isinstance(entry, RawImage)}) == 1
    assert reasons(folder) == {"two": "link_repeated"}


def test_fault_026_links_out_of_the_root_need_leave(tmp_path):
    put(tmp_path, "root/1.png", "elsewhere/2.png", "root-not/3.png")
    root = tmp_path / "root"
    (root / "file.png").symlink_to("../elsewhere/2.png")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "near.png").symlink_to("../root-not/3.png")
    outside = dict.fromkeys(["file.png", "folder", "near.png"], "link_outside")
    assert reasons(Folder(root)) == outside
    followed = Folder(root, links_followed=True)
    assert reasons(followed) == {}
    assert list(entries(followed)) == ["1.png", "file.png", "folder/2.png", "near.png"]


def test_fault_027_a_name_that_is_not_utf_8(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(picture(1))
    put(tmp_path, "café.png", r"caf\xe9.png")
    folder = Folder(tmp_path)
    assert list(entries(folder)) == [r"caf\x5cxe9.png", "café.png", r"caf\xe9.png"]
    assert folder.find(r"caf\xe9.png").content == picture(1)
    assert json.loads(json.dumps(list(entries(folder)), ensure_ascii=False).encode()) == list(entries(folder))


@pytest.mark.parametrize(
    "name", ["two\nlines.png", "quo\"te'.png", "<img src=x onerror=alert(1)>.png", " .png"]
)
def test_fault_028_awkward_names_are_text_and_nothing_else(tmp_path, name):
    folder = Folder(put(tmp_path, name))
    assert folder.find(name).path == name


def test_fault_029_the_same_bytes_have_one_identity(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    found = entries(Folder(tmp_path))
    assert found["a.png"].id == found["b.png"].id
    assert len(found) == 2


def test_fault_031_a_file_deleted_mid_run(tmp_path):
    folder = Folder(put(tmp_path, "1.png", "2.png", "3.png"))
    reading = folder.read(Shard("all", 0, 3))
    next(reading)
    (tmp_path / "2.png").unlink()
    assert next(reading) == Skipped("2.png", "missing", "No such file or directory")
    assert next(reading).path == "3.png"


def test_a_file_too_large_to_be_an_image_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("vitscope.data.folder.MAX_BYTES", 10)
    assert reasons(Folder(put(tmp_path, "1.png"))) == {"1.png": "too_large"}


def test_the_fingerprint_is_that_of_names_and_sizes_and_not_of_the_folder(tmp_path):
    one, two = (Folder(put(tmp_path / name, "a/1.png", "a/2.png")).fingerprint for name in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "a" / "1.png").write_bytes(b"shorter")
    changed = Folder(tmp_path / "two").fingerprint
    (tmp_path / "one" / "a" / "1.png").rename(tmp_path / "one" / "a" / "0.png")
    renamed = Folder(tmp_path / "one").fingerprint
    assert len({one, changed, renamed}) == 3


@pytest.mark.real
def test_the_imagenet_sample_has_a_thousand_named_classes(shared):
    folder = Folder(shared / "imagenet1k-sample")
    assert len(folder) == 1000
    assert len(folder.classes) == 1000
    assert folder.classes[:2] == ("tench", "goldfish")
    found = next(iter(folder.read(Shard("", 207, 208))))
    assert found.path.startswith("n02099601/")
    assert folder.classes[found.label] == "golden retriever"


def test_cut_jpegs_are_accepted_where_the_source_says_so(tmp_path):
    file = BytesIO()
    Image.effect_noise((64, 48), 60).convert("RGB").save(file, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(file.getvalue()[:-2])
    strict, lenient = Folder(tmp_path), Folder(tmp_path, accept_truncated=True)
    assert strict.fingerprint != lenient.fingerprint
    preprocessing = Preprocessing((32, 32), 32)
    skipped: list[Skipped] = []
    for source, images in ((strict, 0), (lenient, 1)):
        shard = source.shards()[0]
        batches = list(stream(source, shard, preprocessing, batch_size=4, on_skip=skipped.append))
        assert sum(map(len, batches)) == images
    assert [(entry.path, entry.reason) for entry in skipped] == [("cut.jpg", "truncated")]
