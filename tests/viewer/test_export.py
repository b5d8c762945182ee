"""The export: the same files, every one of them, in a folder that was free."""

import json
from dataclasses import fields

import pytest
from tests.viewer.conftest import SITES, write_atlas

import vitscope
from vitscope import cli
from vitscope.atlas.manifest import SiteLayout
from vitscope.atlas.read import Atlas
from vitscope.errors import Failure, MissingPath, NotWritable
from vitscope.viewer.export import RECORD, Exported, export
from vitscope.viewer.files import answer, every_path
from vitscope.viewer.library import Library
from vitscope.viewer.results import Results
from vitscope.viewer.shelf import Shelf


def test_an_export_is_every_file_and_nothing_else(exported, atlas, result):
    library = Library(Shelf([atlas]), Results([result]), served=False)
    paths = set(every_path(library))
    written = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert written == paths | {RECORD}
    for path in sorted(paths)[::29]:
        assert (exported / path).read_bytes() == answer(library, path).content
    record = json.loads((exported / RECORD).read_text())
    assert record["finished"] is True
    assert record["files"] == len(paths)
    assert record["bytes"] == sum((exported / path).stat().st_size for path in paths)


def test_the_files_are_the_units_the_images_and_few_more(exported, atlas):
    files = sum(path.is_file() for path in exported.rglob("*"))
    units, images = sum(entry.units for entry in atlas.sites), 3
    assert files < units + images + 35


def test_what_cannot_be_read_is_told_and_the_rest_is_written(tmp_path):
    other = SiteLayout("head", "image unit", 4)
    hurt = Atlas.open(write_atlas(tmp_path / "own.atlas", sites=(SITES[1], other)))
    (hurt.path / "sites/logits/0000.pack").write_bytes(b"")
    (hurt.path / f"images/00/{1:032x}.webp").unlink()
    done = export(hurt, out=tmp_path / "site")
    assert "a/own/unit/logits/3.html" in done.damaged
    assert f"a/own/thumbnail/{1:032x}.webp" in done.damaged
    assert "is damaged" in (tmp_path / "site/a/own/unit/logits/3.html").read_text()
    assert not (tmp_path / f"site/a/own/thumbnail/{1:032x}.webp").exists()
    assert (tmp_path / "site/a/own/unit/head/3.html").exists()
    assert "could not be read" in done.sentence()
    assert done.describe()["damaged"] == list(done.damaged)
    seen = []
    export(hurt, out=tmp_path / "site", on_progress=lambda *told: seen.append(told))  # its own folder is free
    assert seen[-1] == ("files", len(seen), len(seen))


def test_the_command_is_the_function_of_the_same_name(tmp_path, capsys):
    write_atlas(tmp_path / "own.atlas", sites=(SITES[1],))
    assert cli._run(["export", str(tmp_path / "own.atlas"), "--out", str(tmp_path / "site"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {field.name for field in fields(Exported)}
    assert told["files"] == sum(path.is_file() for path in (tmp_path / "site").rglob("*")) - 1  # the record
    assert vitscope.export is export


def test_a_folder_with_other_files_is_left_alone(atlas, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(NotWritable, match="holds other files and no export of the viewer"):
        export(atlas, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_results_that_are_not_there_are_told_before_any_file_is_written(atlas, tmp_path):
    with pytest.raises(MissingPath, match="no result of a study in"):
        export(atlas, out=tmp_path / "site", studies=[tmp_path])
    assert not (tmp_path / "site").exists()


def test_a_disk_that_refuses_is_told(atlas, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / RECORD).write_text("{}")
    (tmp_path / "site" / "index.html").mkdir()
    with pytest.raises(Failure, match=r"index\.html cannot be written"):
        export(atlas, out=tmp_path / "site")
