"""Results of studies by name, looked up and never opened by a path from outside."""

import json
import shutil

import pytest

from vitscope.errors import BadValue, MissingPath, UnknownName
from vitscope.viewer.results import Results


def test_results_are_found_in_a_folder_and_one_below_it(result):
    assert list(Results([result])) == ["odd_one"]
    assert list(Results([result.parent])) == ["odd_one"]
    assert list(Results([result, result.parent])) == ["odd_one", "odd_one-2"]
    assert Results([result]).summary("odd_one").study == "frequency"


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(MissingPath, match=r"no result of a study in .*: no result.json in it or below"):
        Results([tmp_path])


def test_an_unknown_name_is_told_with_the_nearest(result):
    with pytest.raises(UnknownName, match=r"no result 'odd_on' here\. Nearest: 'odd_one'"):
        Results([result]).page("odd_on")
    with pytest.raises(UnknownName):
        Results([result]).page("../odd one")


def test_what_its_study_cannot_draw_is_an_error_and_not_a_crash(result, tmp_path):
    shutil.copytree(result, tmp_path / "hurt")
    path = tmp_path / "hurt/result.json"
    document = json.loads(path.read_text())
    document["table"] = [{"model": document["models"][0], "filter": "disk"}]
    path.write_text(json.dumps(document))
    with pytest.raises(BadValue, match="hurt is not a result that its study can draw"):
        Results([path.parent]).page("hurt")
