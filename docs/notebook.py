"""Run the cells below and write them, with outputs, to examples/first_look.ipynb: `python docs/notebook.py`.

Outputs are what the last expression of a cell shows in a notebook. No kernel is needed. The test
`tests/test_docs_notebook.py` fails where the notebook no longer has these cells, or where they no longer run.
"""

from __future__ import annotations

import ast
import json
import os
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_look.ipynb"
CELLS = """\
# %% markdown
# A first look with vitscope

A small vision transformer that comes with vitscope, and pictures that this notebook draws itself: nothing is
downloaded, and it runs on a laptop in under a minute.
# %%
import vitscope as vs

model = vs.load("vitscope:vit_mini")
model.sites("blocks.*.ffn")
# %% markdown
A *site* is a named place where the model can be read. `blocks.3.ffn` is the hidden layer of the fourth
block's MLP; each of its units is a "neuron".
# %%
model.sites.named("blocks.3.ffn")
# %% markdown
## What does a unit look for?

A *dream* is a picture made from noise to excite one unit. Its numbers say how far to believe it: `robust` is
the score of moved and recoloured copies, `start` that of the noise.
# %%
vs.dream(model, "blocks.3.ffn:5", recipe="olah_2017:short", seed=0)
# %% markdown
## And which pictures excite it?

Four kinds of drawings, 24 of each, in folders named for them: any folder of photographs will do as well.
# %%
from pathlib import Path

import numpy as np
from PIL import Image

rows, columns = np.mgrid[0:64, 0:64]


def drawing(kind, draw):
    angle, size, (ink, paper) = draw.uniform(0, np.pi), draw.integers(6, 20), draw.integers(0, 256, (2, 3))
    across = columns * np.cos(angle) + rows * np.sin(angle)
    along = rows * np.cos(angle) - columns * np.sin(angle)
    mask = {
        "stripes": np.sin(2 * np.pi * across / size),
        "checks": np.sin(2 * np.pi * across / size) * np.sin(2 * np.pi * along / size),
        "discs": size - np.hypot(columns - draw.integers(16, 48), rows - draw.integers(16, 48)),
        "slopes": across - across.mean(),
    }[kind]
    share = 1 / (1 + np.exp(-np.clip(mask / (np.abs(mask).max() / 6), -30, 30)))[..., None]
    return Image.fromarray((share * ink + (1 - share) * paper).astype(np.uint8))


draw = np.random.default_rng(0)
for kind in ("stripes", "checks", "discs", "slopes"):
    Path("drawings", kind).mkdir(parents=True)
    for number in range(24):
        drawing(kind, draw).save(f"drawings/{kind}/{number:02d}.png")
# %% markdown
An *atlas* holds, for every unit of the sites you name, the images that excite it most and where in them.
Building it again goes on where it stopped.
# %%
images = vs.images("folder:drawings")
vs.build(model, images, sites="blocks.*.ffn", k=6, out="drawings.atlas")
atlas = vs.Atlas.open("drawings.atlas")
atlas
# %%
atlas["blocks.3.ffn:5"]
# %% markdown
`vs.serve(atlas)`, or `vitscope serve drawings.atlas`, opens it in your browser, where you can watch dreams
form and drop pictures of your own.

## How does the model work?

A *study* asks one question of a paper. Here: how far do the heads of each block look?
# %%
vs.study("attention_distance", model, images.limit(48))
"""


def cells() -> list[dict[str, Any]]:
    """The cells as nbformat 4.5 writes them, without outputs."""
    made: list[dict[str, Any]] = []
    for number, part in enumerate(CELLS.split("# %%")[1:]):
        kind, _, text = part.partition("\n")
        facts = {
            "id": f"cell-{number}",
            "metadata": {},
            "source": text.rstrip("\n").splitlines(keepends=True),
        }
        if kind.strip() == "markdown":
            made.append({"cell_type": "markdown", **facts})
        else:
            made.append({"cell_type": "code", "execution_count": None, "outputs": [], **facts})
    return made


def executed(folder: Path) -> list[dict[str, Any]]:
    """The cells with what they show when they are run in a folder, one after another in one namespace."""
    made, names, count = cells(), dict[str, Any](), 0
    before = Path.cwd()
    os.chdir(folder)
    try:
        for cell in made:
            if cell["cell_type"] == "code":
                count += 1
                shown = _run("".join(cell["source"]), names)
                cell["execution_count"] = count
                cell["outputs"] = [] if shown is None else [_output(shown, count)]
    finally:
        os.chdir(before)
    return made


def _run(code: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, where that is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def _output(value: Any, count: int) -> dict[str, Any]:
    data = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_html_"):
        data["text/html"] = value._repr_html_().splitlines(keepends=True)
    return {"output_type": "execute_result", "execution_count": count, "data": data, "metadata": {}}


def notebook(made: list[dict[str, Any]]) -> str:
    """The file."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Rewrite the notebook."""
    with tempfile.TemporaryDirectory() as folder:
        NOTEBOOK.parent.mkdir(exist_ok=True)
        NOTEBOOK.write_text(notebook(executed(Path(folder))), encoding="utf-8")


if __name__ == "__main__":
    main()
