"""Optional libraries: imported on use, and named with what to install where they are not."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from vitscope import extras
from vitscope.doctor import checkup
from vitscope.errors import MissingExtra


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_a_missing_extra_says_what_to_install(monkeypatch, extra):
    module, package = extras.EXTRAS[extra]
    monkeypatch.setitem(sys.modules, module, None)
    assert not extras.is_installed(extra)
    with pytest.raises(
        MissingExtra, match=rf"the thing needs {package}, .* pip install 'vitscope\[{extra}\]'"
    ):
        extras.require(extra, wanted="the thing")


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_an_installed_extra_is_imported(extra):
    assert extras.is_installed(extra)
    assert extras.require(extra, wanted="the thing").__name__ == extras.EXTRAS[extra][0]


def test_the_doctor_reports_the_extras(monkeypatch):
    assert checkup()["extras"]["clip"].startswith("open_clip_torch ")

    def missing(_):
        raise PackageNotFoundError

    monkeypatch.setattr(extras, "version", missing)
    assert extras.versions()["hf"] == "not installed: pip install 'vitscope[hf]'"


def test_every_extra_is_in_the_project_file():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    offered = project["optional-dependencies"]
    for extra, (_, package) in extras.EXTRAS.items():
        assert any(line.startswith(package) for line in offered[extra])
        assert extra in offered["all"][0]
    assert "vitscope[all]" in offered["dev"]
