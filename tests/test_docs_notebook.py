"""The example notebook has the cells of its script, small outputs from nowhere else, and still runs."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load_script():
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()
TEXT = script.NOTEBOOK.read_text(encoding="utf-8")
CELLS = json.loads(TEXT)["cells"]


def outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


def test_the_notebook_has_the_cells_of_its_script():
    bare = [
        {**cell, "execution_count": None, "outputs": []} if cell["cell_type"] == "code" else cell
        for cell in CELLS
    ]
    assert bare == script.cells(), "run `just notebook`"
    assert script.notebook(CELLS) == TEXT


def test_its_outputs_are_small_whole_and_from_nowhere_else():
    assert len(TEXT.encode()) < 1_000_000
    shown = ["".join(output["data"]["text/html"]) for output in outputs(CELLS)]
    assert len(shown) == 6
    for html in shown:
        assert not re.search(r"<(script|style|iframe|link)", html)
        assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', html))
    assert not re.search(r"/(tmp|home|work|root|Users)/", TEXT)


FEWER = {"range(24)": "range(3)", 'sites="blocks.*.ffn"': 'sites="blocks.3.ffn"', "limit(48)": "limit(4)"}


@pytest.mark.slow
def test_its_cells_run_and_show_the_same_kinds_of_things(tmp_path, monkeypatch):
    cells = script.CELLS
    for whole, part in FEWER.items():  # as quick as it can be
        assert cells.count(whole) == 1
        cells = cells.replace(whole, part)
    monkeypatch.setattr(script, "CELLS", cells)
    again = script.executed(tmp_path)
    kinds = [
        [re.sub(r"\d+(\.\d+)?", "#", output["data"]["text/plain"][0][:20]) for output in outputs(cells)]
        for cells in (again, CELLS)
    ]
    assert kinds[0] == kinds[1]


def test_a_cell_shows_its_last_expression_and_a_statement_shows_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(script, "CELLS", "# %%\nx = 6\n# %% markdown\n*x*\n# %%\nx = x + 1\nx\n")
    first, text, last = script.executed(tmp_path)
    assert first["outputs"] == []
    assert text["source"] == ["*x*"]
    assert last["outputs"][0]["data"] == {"text/plain": ["7"]}
    assert (first["execution_count"], last["execution_count"]) == (1, 2)
