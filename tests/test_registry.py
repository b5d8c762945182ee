"""Registries: late import, taken names, near names, entry points."""

from importlib.metadata import EntryPoint

import pytest

from vitscope import registry
from vitscope.errors import BadValue, UnknownModel
from vitscope.registry import Registry


def table() -> Registry:
    return Registry(
        "recipe", {"olah": "vitscope.address:Address", "fel": "no.such.module:thing"}, error=UnknownModel
    )


def test_a_name_is_imported_on_first_use_only():
    from vitscope.address import Address

    assert table().get("olah") is Address
    assert "fel" in table()
    with pytest.raises(ModuleNotFoundError):
        table().get("fel")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UnknownModel, match=r"no recipe 'olaf'\. Nearest: 'olah'\. There are: olah, fel\."):
        table().get("olaf")


def test_a_taken_name_is_an_error():
    recipes = table()
    recipes.add("mine", 3)
    assert recipes.get("mine") == 3
    with pytest.raises(BadValue, match="the recipe 'mine' is registered already, as 3"):
        recipes.add("mine", 4)


def test_plugins_join_by_entry_point(monkeypatch):
    point = EntryPoint("theirs", "vitscope.address:Address", "vitscope.recipe")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "vitscope.recipe" else [])
    assert list(table()) == ["olah", "fel", "theirs"]
