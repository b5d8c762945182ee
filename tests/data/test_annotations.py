"""Boxes in CSV and XML, masks in folders: which image they belong to, which count, and what is refused."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from vitscope.data import images
from vitscope.data.annotations import foregrounds
from vitscope.data.source import Annotations, Foreground, RawImage, Skipped
from vitscope.errors import BadValue, MissingPath

XML = """<annotation><folder>n01440764</folder><filename>n01440764_18</filename>
<size><width>99</width><height>99</height><depth>3</depth></size>{}</annotation>"""
OBJECT = """<object><name>{}</name>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>
"""


def box_file(folder, text, name="boxes.csv"):
    (folder / name).write_text(text)
    return folder / name


def pixels(foreground, rows=8, columns=8):
    return np.argwhere(foreground.inside(rows, columns)).tolist()


@pytest.fixture
def photos(tmp_path):
    """Two classes of one photo each, 10 x 8 pixels."""
    for name in ("n01/n01_1.png", "n02/n02_2.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True)
        noise = np.random.default_rng(len(name)).integers(0, 256, (8, 10, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return tmp_path / "photos"


def test_a_table_of_boxes(tmp_path):
    file = box_file(tmp_path, "path,x0,y0,x1,y1\na/1.jpg,1,2,3,4\n./a/1.jpg,2,3,5,4\na/2.jpg,0,0,0,5\n")
    found = foregrounds(boxes=file)
    assert isinstance(found, Annotations)
    assert found.name == "boxes.csv"
    first = found.foreground("a/1.jpg")
    assert isinstance(first, Foreground)
    assert pixels(first) == [[2, 1], [2, 2], [3, 1], [3, 2], [3, 3], [3, 4]]
    assert pixels(found.foreground("a/2.jpg")) == []
    assert found.foreground("a/3.jpg") is None
    assert (found.covers("a/2.jpg"), found.covers("a/3.jpg")) == (True, False)


def test_corners_that_are_pixels_are_inside(tmp_path):
    file = box_file(tmp_path, "path,x0,y0,x1,y1\n1.jpg,0,0,7,7\n2.jpg,3,2,3,2\n")
    found = foregrounds(boxes=file, edges="pixels")
    assert found.foreground("1.jpg").inside(8, 8).all()
    assert pixels(found.foreground("2.jpg")) == [[2, 3]]
    assert found.fingerprint != foregrounds(boxes=file).fingerprint


def test_paths_may_begin_differently_but_not_mean_two(tmp_path):
    file = box_file(
        tmp_path, "path,x0,y0,x1,y1\nval/a/1.jpg,0,0,1,1\nval/b/2.jpg,0,0,2,1\nval/c/2.jpg,0,0,3,1\n"
    )
    found = foregrounds(boxes=file)
    assert found.covers("a/1.jpg")
    assert found.covers("1.jpg")
    assert found.covers("data/val/a/1.jpg")
    assert not found.covers("other/1.jpg")
    assert not found.covers("val/a/11.jpg")
    assert len(pixels(found.foreground("b/2.jpg"))) == 2
    with pytest.raises(
        BadValue, match=r"boxes.csv has two annotations for '2.jpg': 'val/b/2.jpg' and 'val/c/2"
    ):
        found.foreground("2.jpg")


@pytest.mark.parametrize("column", ["wnid", "label", "name"])
def test_only_boxes_of_the_image_s_class_count(tmp_path, column):
    text = f"path,x0,y0,x1,y1,{column}\n1.jpg,0,0,1,1,dog\n1.jpg,4,0,5,1,cat\n1.jpg,6,0,7,1,dog\n"
    found = foregrounds(boxes=box_file(tmp_path, text))
    assert pixels(found.foreground("1.jpg", label="dog")) == [[0, 0], [0, 6]]
    assert pixels(found.foreground("1.jpg", label="cat")) == [[0, 4]]
    assert pixels(found.foreground("1.jpg", label="cow")) == []
    assert len(pixels(found.foreground("1.jpg"))) == 3  # an image without a class
    every = foregrounds(boxes=tmp_path / "boxes.csv", objects="all")
    assert len(pixels(every.foreground("1.jpg", label="cow"))) == 3


def test_a_class_may_be_named_by_the_path(tmp_path):
    text = (
        "path,x0,y0,x1,y1,wnid\nn01/n01_1.jpg,0,0,1,1,n01\nn01/n01_1.jpg,4,0,5,1,n02\nn02_7.jpg,2,0,3,1,n02\n"
    )
    found = foregrounds(boxes=box_file(tmp_path, text))
    assert pixels(found.foreground("n01/n01_1.jpg", label="tench")) == [[0, 0]]
    assert pixels(found.foreground("n02_7.jpg", label="goldfish")) == [[0, 2]]


def test_imagenet_s_xml(tmp_path):
    folder = tmp_path / "Annotation" / "n01440764"
    folder.mkdir(parents=True)
    objects = OBJECT.format("n01440764", 1, 2, 3, 4) + OBJECT.format("n09999999", 0, 0, 8, 8)
    (folder / "n01440764_18.xml").write_text(XML.format(objects))
    (folder / "n01440764_19.xml").write_text(XML.format(""))
    found = foregrounds(boxes=tmp_path / "Annotation")
    own = found.foreground("train/n01440764/n01440764_18.JPEG", label="tench")
    assert pixels(own) == [[2, 1], [2, 2], [3, 1], [3, 2]]
    assert len(pixels(found.foreground("n01440764_18.JPEG"))) == 64
    assert pixels(found.foreground("n01440764/n01440764_19.JPEG", label="tench")) == []
    assert found.foreground("n01440764/n01440764_20.JPEG") is None


def test_masks_lie_as_their_images_do(tmp_path):
    (tmp_path / "masks" / "a").mkdir(parents=True)
    values = np.zeros((4, 4), np.uint8)
    values[1, 2], values[3, 3] = 7, 200
    Image.fromarray(values).save(tmp_path / "masks" / "a" / "1.png")
    found = foregrounds(masks=tmp_path / "masks")
    assert pixels(found.foreground("a/1.jpg"), 4, 4) == [[1, 2], [3, 3]]
    assert pixels(found.foreground("1.jpeg"), 4, 4) == [[1, 2], [3, 3]]
    things = foregrounds(masks=tmp_path / "masks", values=range(1, 92))
    assert pixels(things.foreground("a/1.jpg"), 4, 4) == [[1, 2]]
    assert things.fingerprint != found.fingerprint
    assert found.foreground("a/2.jpg") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,x0,y0,x1\n", r"has no column 'y1'; it has path, x0, y0, x1"),
        ("path,x0,y0,x1,y1\n", r"boxes\.csv has no box"),
        (
            "path,x0,y0,x1,y1\na,1,2,3,4\na,1,2,x,4\n",
            r"boxes\.csv, line 3: the corners .*'x'.* not four numbers",
        ),
        ("path,x0,y0,x1,y1\na,1,2\n", r"line 2: the corners .* are not four numbers"),
        ("path,x0,y0,x1,y1\na,5,2,3,4\n", r"line 2: the corners .* are not left <= right and top <= bottom"),
        ("path,x0,y0,x1,y1\na,nan,2,3,4\n", r"line 2: .* are not left <= right"),
        ("path,x0,y0,x1,y1\na,0,0,inf,4\n", r"line 2: .* are not left <= right"),
    ],
)
def test_damaged_tables_name_their_row(tmp_path, text, message):
    with pytest.raises(BadValue, match=message):
        foregrounds(boxes=box_file(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", r"n01_1\.xml is no XML"),
        ("x" * (2**20 + 1), r"n01_1\.xml has 1048577 bytes, above 1048576"),
        (XML.format("<object><name>n01</name></object>"), r"n01_1\.xml: the corners .* are not four numbers"),
    ],
)
def test_damaged_xml_skips_its_image_alone(tmp_path, photos, content, message):
    folder = tmp_path / "xml"
    folder.mkdir()
    (folder / "n01_1.xml").write_text(content)
    (folder / "n02_2.xml").write_text(XML.format(OBJECT.format("n02", 0, 0, 1, 1)))
    found = foregrounds(boxes=folder)
    with pytest.raises(BadValue, match=message):
        found.foreground("n01/n01_1.png")
    source = images(photos, boxes=folder)
    bad, good = source.read(source.shards()[0])
    assert (bad.path, bad.reason) == ("n01/n01_1.png", "bad_annotation")
    assert pixels(good.foreground) == [[0, 0]]


def test_what_is_not_there(tmp_path):
    with pytest.raises(MissingPath, match=r"no such file of boxes: .*nowhere\.csv"):
        foregrounds(boxes=tmp_path / "nowhere.csv")
    with pytest.raises(MissingPath, match=r"no folder of masks: .*nowhere"):
        foregrounds(masks=tmp_path / "nowhere")
    with pytest.raises(BadValue, match=r"no \*\.png in .* or below it"):
        foregrounds(masks=tmp_path)
    with pytest.raises(BadValue, match=r"no \*\.xml in .* or below it"):
        foregrounds(boxes=tmp_path)
    for both in ({}, {"boxes": tmp_path, "masks": tmp_path}):
        with pytest.raises(BadValue, match="give either boxes or masks"):
            foregrounds(**both)


def test_annotations_of_other_images_are_refused(tmp_path, photos):
    file = box_file(tmp_path, "path,x0,y0,x1,y1,wnid\nelse.png,0,0,1,1,n01\n")
    with pytest.raises(
        BadValue,
        match=r"no path of boxes.csv is in the source: it has 'else.png', the source 'n01/n01_1.png'",
    ):
        images(photos, boxes=file)
    file = box_file(tmp_path, "path,x0,y0,x1,y1,wnid\nn01/n01_1.png,0,0,1,1,bowl\n")
    with pytest.raises(
        BadValue,
        match=r"no object of boxes.csv is called like a class: it has 'bowl', the source 'n01'\. Count",
    ):
        images(photos, boxes=file)
    assert images(photos).annotated(foregrounds(boxes=file, objects="all"))


def test_a_source_with_boxes_hands_out_foregrounds(tmp_path, photos):
    file = box_file(tmp_path, "path,x0,y0,x1,y1,wnid\nn01/n01_1.png,0,0,2,1,n01\nn01/n01_1.png,5,5,6,6,n02\n")
    source = images(photos, boxes=file)
    first, second = source.read(source.shards()[0])
    assert pixels(first.foreground) == [[0, 0], [0, 1]]
    assert second.foreground is None
    assert source.find("n01/n01_1.png") == first
    assert source.name.startswith(f"folder:{photos} | boxes.csv (sha256:")
    few = source.where(foregrounds(boxes=file).covers)
    assert [entry.path for entry in few.read(few.shards()[0])] == ["n01/n01_1.png"]


def test_it_rests_on_content_and_not_on_names(tmp_path):
    one = box_file(tmp_path, "path,x0,y0,x1,y1\na,0,0,1,1\n", "one.csv")
    other = box_file(tmp_path, "path,x0,y0,x1,y1\na,0,0,1,1\n", "other.csv")
    third = box_file(tmp_path, "path,x0,y0,x1,y1\na,0,0,1,2\n", "third.csv")
    prints = [foregrounds(boxes=file).fingerprint for file in (one, other, third)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.real
def test_real_boxes_of_tiny_imagenet(shared):
    file = shared / "tiny-imagenet" / "boxes.csv"
    found = foregrounds(boxes=file, edges="pixels")
    source = images(shared / "tiny-imagenet" / "val.tar.gz").limit(64).annotated(found)
    with file.open() as lines:
        rows = {row["path"]: row for row in csv.DictReader(lines)}
    for entry in source.read(source.shards()[0]):
        assert isinstance(entry, RawImage)
        row = rows[entry.path]
        expected = np.zeros((64, 64), bool)
        expected[int(row["y0"]) : int(row["y1"]) + 1, int(row["x0"]) : int(row["x1"]) + 1] = True
        assert np.array_equal(entry.foreground.inside(64, 64), expected)


@pytest.mark.real
def test_real_masks_and_boxes_of_coco_agree(shared, tmp_path):
    import tarfile

    with tarfile.open(shared / "coco200-masks" / "coco200.tar") as archive:
        members = [one for one in archive if one.name.startswith("val2017")][:24]
        archive.extractall(tmp_path, members, filter="data")
    things = foregrounds(masks=tmp_path / "val2017/masks", values=range(1, 92))
    boxes = foregrounds(boxes=shared / "coco200-masks" / "boxes.csv")
    source = images(tmp_path / "val2017/images").annotated(things)
    for entry in source.read(source.shards()[0]):
        assert not isinstance(entry, Skipped)
        with Image.open(io.BytesIO(entry.content)) as image:
            columns, rows = image.size
        inside = entry.foreground.inside(rows, columns)
        around = boxes.foreground(entry.path)
        if around is not None:
            assert (inside & around.inside(rows, columns)).sum() > 0.9 * inside.sum()


def test_a_source_takes_how_boxes_and_masks_are_read(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "1.png")
    boxes = box_file(tmp_path, "path,x0,y0,x1,y1\n1.png,2,2,5,5\n")
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(masks / "1.png")

    def area(**settings):
        source = images(photos, **settings)
        (entry,) = source.read(source.shards()[0])
        return int(entry.foreground.inside(8, 8).sum())

    assert area(boxes=boxes) == 9
    assert area(boxes=boxes, edges="pixels") == 16
    assert area(masks=masks) == 63
    assert area(masks=masks, mask_values=(3, 7, 70)) == 2
    with pytest.raises(BadValue, match="edges says how boxes are read: give boxes too"):
        images(photos, masks=masks, edges="pixels")
