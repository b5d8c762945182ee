"""What is importable is what is exported, every registered name resolves, and torch is not imported early."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import vitscope
from vitscope.registry import Registry

REGISTRIES = [
    ("vitscope.models", "MODELS"),
    ("vitscope.data", "SOURCES"),
    ("vitscope.dream", "RECIPES"),
    ("vitscope.meters", "METERS"),
    ("vitscope.engine", "ENGINES"),
    ("vitscope.studies", "STUDIES"),
]


@pytest.mark.parametrize("name", vitscope.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(vitscope, name)
    assert value.__doc__, f"vitscope.{name} has no docstring"
    assert value.__name__.split(".")[-1] == name


def test_type_checkers_see_the_same_names_as_users():
    tree = ast.parse(Path(vitscope.__file__).read_text())
    seen = {
        alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen - {None, "annotations"} == set(vitscope.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'vitscope' has no attribute 'dreem'"):
        vitscope.dreem  # noqa: B018


@pytest.mark.parametrize(("module", "registry"), REGISTRIES)
def test_every_entry_of_every_registry_resolves(module, registry):
    table = getattr(importlib.import_module(module), registry)
    assert isinstance(table, Registry)
    assert table.names()
    for name in table:
        assert table.get(name) is not None


@pytest.mark.parametrize(
    ("code", "late"),
    [
        ("from vitscope.cli import app", {"torch", "numpy"}),
        ("import vitscope.viewer.app, vitscope.viewer.export", {"torch", "matplotlib"}),
    ],
)
def test_torch_is_not_imported_before_it_is_needed(code, late):
    subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nassert not {late} & set(sys.modules)"], check=True
    )


def test_a_verb_stays_a_verb_when_its_module_was_imported():
    code = """
import inspect, vitscope
import vitscope.dream.recipes as recipes, vitscope.scan
assert recipes.GHIASI_2022.steps == 400
for verb, home in (("dream", "vitscope.dream"), ("scan", "vitscope.scan")):
    front, plain = getattr(vitscope, verb), getattr(__import__("sys").modules[home], verb)
    assert callable(front) and inspect.signature(front) == inspect.signature(plain), verb
try:
    vitscope.dream(None, [], recipe="no such recipe")
except vitscope.errors.UnknownName:
    pass
"""
    subprocess.run([sys.executable, "-c", code], check=True)
