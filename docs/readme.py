"""Run the README's blocks and write their outputs, its tables and its picture: `python docs/readme.py`.

Blocks marked `console` hold commands after "$ " and what they print; blocks marked `python` run in one
namespace. The test `tests/test_readme.py` runs the same and fails where the README no longer says what
happens.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def refreshed(text: str, folder: Path) -> str:
    """The README with every console block's output and every generated part as they are now."""
    names: dict[str, object] = {}

    def fresh(match: re.Match[str]) -> str:
        kind, body = match.groups()
        if kind == "console":
            return f"```console\n{''.join(_session(body, folder))}```"
        _execute(body, names, folder)
        return match.group(0)

    text = BLOCK.sub(fresh, text)
    return GENERATED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[4]}", text)


def masked(text: str) -> str:
    """The text without what may differ between machines: fractions, durations, column widths, times."""
    text = re.sub(r"\d+\.\d+(e[+-]\d+)?", "#", text)
    text = re.sub(r"\b\d+ (seconds|s|images/s)\b", r"# \1", text)
    return re.sub(r"[ ━─]+", " ", text)


def _session(body: str, folder: Path) -> Iterator[str]:
    for line in body.splitlines(keepends=True):
        if line.startswith("$ "):
            yield line
            yield _output(line[2:], folder)


def _output(command: str, folder: Path) -> str:
    environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command.strip()} ended with {done.returncode}:\n{done.stderr}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines() if line.strip())


def _execute(code: str, names: dict[str, object], folder: Path) -> None:
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(code, "README.md", "exec"), names)
    finally:
        os.chdir(before)


def _recipes() -> str:
    from vitscope.dream import RECIPES

    rows = [f"| `{name}` | {RECIPES.get(name).citation} |" for name in RECIPES]
    return "\n".join(["| recipe | from |", "|---|---|", *rows, ""])


TABLES = {"recipes": _recipes}


def main() -> None:
    """Rewrite README.md and its picture."""
    with tempfile.TemporaryDirectory() as folder:
        README.write_text(refreshed(README.read_text(), Path(folder)))
        _picture(Path(folder) / "demo.atlas", ROOT / "docs" / "dreams.png")


def _picture(atlas: Path, path: Path) -> None:
    """Dreams of the demo atlas, one row a block, from the first at the top to the last."""
    import io

    from PIL import Image

    from vitscope.atlas.read import Atlas

    opened = Atlas.open(atlas)
    rows = [[unit.dreams[0].image for unit in _dreamt(opened, site.name, count=12)] for site in opened.sites]
    size, gap = 64, 4
    sheet = Image.new("RGB", (12 * (size + gap) - gap, len(rows) * (size + gap) - gap), "white")
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            sheet.paste(Image.open(io.BytesIO(image)), (column * (size + gap), row * (size + gap)))
    sheet.save(path, optimize=True)


def _dreamt(atlas, site: str, *, count: int) -> list:  # type: ignore[no-untyped-def, type-arg]
    """The units of a site whose dreams excite them most, for their site."""
    entry = next(entry for entry in atlas.sites if entry.name == site)
    rows = [row for index in range(entry.leaves) for row in atlas.leaf(site, index).units if row.has_dream]
    units = [atlas[f"{site}:{row.unit}"] for row in rows]
    return sorted(units, key=lambda unit: -unit.dreams[0].score)[:count]


if __name__ == "__main__":
    main()
