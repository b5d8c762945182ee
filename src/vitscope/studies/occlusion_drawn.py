"""The figures of the study `occlusion`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitscope.atlas.commit import file_name
from vitscope.studies.appearance import from_text
from vitscope.studies.depth import DEPTH, along, column
from vitscope.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vitscope.plots import Line

AMONG = {"random": "all", "salient": "foreground", "non_salient": "background"}
"""What is dropped, in the paper's words and in those of `drop_patches`."""
PLAIN = "none"
VIEWS = {
    "views": (("image", "cls"), "cosine", "cosine with the whole"),
    "views_object": (("object",), "auc_gain", "AUC less turned AUC"),
    "views_dropped": (("cls",), "from_dropped", "came from black (%)"),
}
"""Figure -> the tokens whose views it shows, the column, and what that is called."""
CERTAIN = 1.96
"""Standard errors to each side of an interval of 95 %."""
SHOWN = (-0.5, 1.5)
"""Of areas in the figure: those of units that hardly respond lie far beyond."""


def draw(result: Result) -> dict[str, Figure]:
    """Answers against how much is dropped, a panel for each model; and areas of deletion and insertion."""
    from vitscope.plots import Line, lines

    titles = {"agreement": "same answer", "relative_top1": "right answers kept"}
    panels: dict[str, list[Line]] = {}
    for name, title in titles.items():
        for model in result.models:
            series = [_curve(result, model, among, name) for among in AMONG]
            if any(np.isfinite(line.y).any() for line in series):
                panels[f"{model}\n{title}"] = series
    figures = {
        "answers": lines(
            panels, x_label="patches dropped, of all (%)", y_label="images (%)", y_range=(0, None)
        )
    }
    kinds: dict[str, list[Line]] = {}
    for kind, better in (("deletion", "lower is better"), ("insertion", "higher is better")):
        for model in result.models:
            rows = result.rows(model=model, part="maps")
            for name, label in ((kind, model), (f"{kind}_random", f"{model}, random order")):
                if rows:
                    line = Line(label, along(len(rows)), column(rows, name))
                    kinds.setdefault(f"{kind.capitalize()}: {better}", []).append(line)
    if kinds:
        label = "area under the curve, median"
        figures["maps"] = lines(kinds, x_label=DEPTH, y_label=label, y_range=SHOWN)
    return {**figures, **_views(result)}


def _views(result: Result) -> dict[str, Figure]:
    """Views against how much is dropped, a panel for each level; and the views of one picture."""
    from vitscope.plots import lines

    made: dict[str, Figure] = {}
    for name, (tokens, measure, label) in VIEWS.items():
        panels = {
            f"{model}\nlevel {level}": [_view(result, model, level, token, among, measure) for among in AMONG]
            for model in result.models
            for level, token in _levels(result, model, tokens)
        }
        if panels:
            made[name] = lines(panels, x_label="patches dropped, of all (%)", y_label=label)
    for model, texts in result.by_model("pictures").items() if made else ():
        stem = "pictures" if len(result.models) == 1 else f"pictures.{file_name(model)}"
        made[stem] = _pictures(result, model, texts)
    return made


def _levels(result: Result, model: str, tokens: tuple[str, ...]) -> list[tuple[int, str]]:
    """The levels at which one of the tokens has views, and which."""
    rows = result.rows(model=model, part="views")
    return list(dict.fromkeys((row["level"], row["token"]) for row in rows if row["token"] in tokens))


def _view(result: Result, model: str, level: int, token: str, among: str, name: str) -> Line:
    from vitscope.plots import Line

    found = result.rows(model=model, part="views", level=level, token=token)
    rows = [row for kind in (PLAIN, among) for row in found if row["among"] == kind]
    values = column(rows, name)
    errors = CERTAIN * column(rows, f"{name}_error")
    ends = (values - errors, values + errors) if np.isfinite(errors).any() else (None, None)
    return Line(among.replace("_", "-"), column(rows, "dropped"), values, *ends)


def _pictures(result: Result, model: str, texts: np.ndarray) -> Figure:
    """One picture, more and more of it dropped, and its views at some levels, each kind of drop in turn."""
    from vitscope.plots import pictures

    levels = sorted({row["level"] for row in result.rows(model=model, part="views")})
    count = texts.shape[2] - 1
    named = ["picture", *(f"level {level}" for level in levels[-count:])]
    rows = {
        f"{among.replace('_', '-')}\n{name}": [from_text(text) for text in texts[kind, :, place].tolist()]
        for kind, among in enumerate(AMONG)
        for place, name in enumerate(named)
    }
    asked = sorted({row["share"] for row in result.rows(model=model, part="views")})
    return pictures(rows, columns=[f"{100 * share:g} % dropped" for share in asked])


def _curve(result: Result, model: str, among: str, name: str) -> Line:
    from vitscope.plots import Line

    rows = [row for kind in (PLAIN, among) for row in result.rows(model=model, part="answers", among=kind)]
    ends = [column(rows, f"{name}_{end}") for end in ("low", "high")]
    return Line(among.replace("_", "-"), column(rows, "dropped"), column(rows, name), *ends)
