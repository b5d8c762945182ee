"""The table of families in docs/sites.md is what the finder says of these models today."""

import importlib.util
from pathlib import Path

import pytest
import timm

HERE = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("docs_sites", HERE / "sites.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "family", ["PiT", "Swin", "CoaT-Lite", "PoolFormer", "ConvNeXt", "ViT (torchvision)"]
)
def test_a_row_is_as_found(script, family):
    row = script.row(family, script.FAMILIES[family])
    assert row in (HERE / "sites.md").read_text().splitlines()


def test_every_family_has_a_row_and_a_model(script):
    page = (HERE / "sites.md").read_text()
    known = set(timm.list_models())
    for family, name in script.FAMILIES.items():
        assert page.count(f"\n| {family} | `{name}` |") == 1
        assert ":" in name or name in known


def test_writing_the_table_changes_nothing_else(script):
    page = (HERE / "sites.md").read_text()
    new = script.written(page, "TABLE")
    before, after = page.split("<!-- families -->")[0], page.split("<!-- end -->")[1]
    assert new == f"{before}<!-- families -->\nTABLE\n<!-- end -->{after}"
