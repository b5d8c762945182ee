"""Web pages that are one file each: templates filled in, with the style inside."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def rendered(template: str, *, styles: tuple[str, ...] = ("report.css",), **values: Any) -> bytes:
    """A page of one of the templates.

    Args:
        template: its file.
        styles: the style sheets that go inside, in order.
        values: what the template shows; text is escaped.
    """
    folder = files("vitscope").joinpath("templates")
    css = "\n".join(folder.joinpath(style).read_text(encoding="utf-8") for style in styles)
    page = _templates().get_template(template)
    return page.render(css=Markup(css), version=version("vitscope"), **values).encode()


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("vitscope"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
