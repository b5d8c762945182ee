"""What every adapter must produce: a module, its sites, its preprocessing, a fingerprint of its weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float, Int
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn

from vitscope.address import Address
from vitscope.arrays import Pixels
from vitscope.errors import UnknownAddress, UnknownSite, suggestion
from vitscope.notebook import card, sentence, table

TOKENS = "image token unit"
MAP = "image unit row column"
MAP_LAST = "image row column unit"
VECTOR = "image unit"
PATTERN = "image head query key"
LAYOUTS = {
    TOKENS: "image token unit -> image token unit",
    MAP: "image unit row column -> image (row column) unit",
    MAP_LAST: "image row column unit -> image (row column) unit",
    VECTOR: "image unit -> image 1 unit",
    PATTERN: "image head query key -> image query (head key)",
}
"""The axes a site may have -> the einops pattern that makes them "image place unit"."""


@dataclass(frozen=True)
class Preprocessing:
    """What the weights want to be shown. It comes from the model and is never assumed.

    Attributes:
        size: rows and columns of the input, in pixels.
        resize: length of the shorter side before the central crop, in pixels; None squashes to `size`.
        interpolation: "bicubic", "bilinear", "nearest" or "lanczos", as Pillow names them.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
    """

    size: tuple[int, int]
    resize: int | None
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def describe(self) -> dict[str, Any]:
        """The facts as plain JSON values, for provenance."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    def normalise(self, pixels: Pixels) -> Float[Tensor, "image rgb row column"]:
        """From [0, 1] to what the first layer wants."""
        mean = pixels.new_tensor(self.mean).view(3, 1, 1)
        std = pixels.new_tensor(self.std).view(3, 1, 1)
        return (pixels - mean).div_(std)


@dataclass(frozen=True)
class Keys:
    """What the keys of attention weights are, where places are those of the queries.

    Attributes:
        grid: rows and columns of the keys; smaller than the queries' where keys are sub-sampled.
        prefix_tokens: keys that come before the grid.
        table: of every query, the place of each of its keys (prefix tokens first, then the grid in raster
            order), -1 for padding; None where every query sees all of them in order. Windows have a table.
    """

    grid: tuple[int, int]
    prefix_tokens: int = 0
    table: Int[Tensor, "query key"] | None = field(default=None, compare=False, repr=False)

    @property
    def count(self) -> int:
        """How many keys every query has."""
        whole = self.prefix_tokens + self.grid[0] * self.grid[1]
        return whole if self.table is None else self.table.shape[1]

    @property
    def prefix(self) -> Bool[Tensor, "query key"] | Bool[Tensor, "key"]:
        """Which keys are prefix tokens: of every query, or of all alike."""
        if self.table is None:
            return torch.arange(self.count) < self.prefix_tokens
        return (self.table >= 0) & (self.table < self.prefix_tokens)


@dataclass(frozen=True)
class Site:
    """A named place where a tensor can be read.

    Attributes:
        name: "blocks.6.ffn", or a raw module path, with "~n" for the n-th of a module's several calls.
        path: the module whose input or output is read.
        axes: the left side of an einops pattern; one of `LAYOUTS`.
        units: length of the unit axis; of an attention pattern, heads x keys (unit = head * keys + key).
        grid: rows and columns of the places that lie on the image; None where places are not a grid.
        prefix_tokens: places that come before the grid (CLS, distillation, registers).
        side: whether the module's first input or its output is read.
        call: which call of the module in one forward pass, from 1.
        calls: how often the module runs in one forward pass.
        function: where the site lies inside the module: the torch function whose arguments ("input") or
            result ("output") are read, such as "scaled_dot_product_attention"; "" for the module's own.
        turn: which call of that function while the module runs, from 1.
        derive: from the module's tensor to the site's, where they differ (q, k, v, patterns); from
            `(args, kwargs)` where the arguments of a function are read.
        keys: of attention weights: what the keys are; None for anything else.
        recomputed: whether the values are computed again from what a fused function is given, because it
            does not hand them out; False where they are read as the model computes them.
        before: name of the raw site that holds the same units before their activation function, if there is
            one.
        semantic: named by a rule, in the words all families share, and not by its module path.
    """

    name: str
    path: str
    axes: str
    units: int
    grid: tuple[int, int] | None = None
    prefix_tokens: int = 0
    side: Literal["input", "output"] = "output"
    call: int = 1
    calls: int = 1
    function: str = ""
    turn: int = 1
    derive: Callable[[Any], Tensor] | None = field(default=None, compare=False, repr=False)
    keys: Keys | None = None
    recomputed: bool = False
    before: str | None = field(default=None, compare=False, repr=False)
    semantic: bool = True

    @property
    def places(self) -> int:
        """How many places the site has: prefix tokens and grid, or 1."""
        rows, columns = self.grid or (1, 1)
        return self.prefix_tokens + rows * columns if self.grid else max(1, self.prefix_tokens)

    @property
    def heads(self) -> int:
        """Of attention weights: how many heads; 0 for anything else."""
        return self.units // self.keys.count if self.keys else 0

    @property
    def whereabouts(self) -> str:
        """What is read, in words: the path of a module, and the function inside it if it lies there."""
        at = self.path or "(model)"
        if self.function:
            at += f": {'recomputed from ' if self.recomputed else ''}{self.function}"
        return at

    def describe(self) -> dict[str, Any]:
        """One row of `vitscope sites --json`."""
        return {
            "name": self.name,
            "axes": self.axes,
            "units": self.units,
            "grid": list(self.grid) if self.grid else None,
            "prefix_tokens": self.prefix_tokens,
            "path": self.path,
            "function": self.function or None,
            "recomputed": self.recomputed,
        }

    def _repr_html_(self) -> str:
        return card(self.name, sentence({**self.describe(), "name": None, "path": self.whereabouts}))

    def place_index(self, place: str) -> int:
        """The index among the places that an address's place names.

        `cls` is the first prefix token, `center` the grid cell (rows // 2, columns // 2), `row,column` a grid
        cell, and a single number counts grid cells in raster order.

        Raises:
            UnknownAddress: this site has no such place.
        """
        rows, columns = self.grid or (1, 1)
        if place == "cls":
            if self.prefix_tokens == 0:
                raise UnknownAddress(f"{self.name} has no cls place: it has no prefix tokens")
            return 0
        if place == "center":
            return self.prefix_tokens + (rows // 2) * columns + columns // 2
        row, _, column = place.partition(",")
        index = int(row) * columns + int(column) if column else int(row)
        inside = (int(row) < rows and int(column) < columns) if column else index < rows * columns
        if not inside:
            raise UnknownAddress(f"no place {place!r} at {self.name}: its grid is {rows} x {columns}")
        return self.prefix_tokens + index


@dataclass(frozen=True)
class Bare:
    """What an adapter hands to the shelf: a model whose sites have not been looked for.

    Attributes:
        module: in eval mode, float32, on the CPU.
        name: the full name, such as "tv:resnet18/IMAGENET1K_V1".
        preprocessing: what the weights want to be shown.
        classes: names of the logits, where known.
        notes: what could not be taken over from the model's own library.
        output: what the model's output vector is called: "logits" or "embedding".
    """

    module: nn.Module
    name: str
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    output: Literal["logits", "embedding"] = "logits"


class Sites(Sequence[Site]):
    """The sites of a model in the order the pass reaches them; a table in a terminal and in a notebook.

    Calling it selects by a glob in which `*` stands for one name and `**` for any number of them.
    `notes` says which semantic sites this model does not have, and why.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        raw: Sequence[Site] = (),
        model: str = "this model",
        notes: tuple[str, ...] = (),
    ) -> None:
        self.notes = notes
        self._sites = tuple(sites)
        self._raw = {site.name: site for site in raw}
        self._by_name = {**self._raw, **{site.name: site for site in sites}}
        self._model = model

    def __call__(self, pattern: str = "**") -> Sites:
        """The sites whose names match, semantic ones first choice, raw ones where no semantic one matches.

        Raises:
            UnknownSite: nothing matches.
        """
        rule = _glob(pattern)
        found = [site for site in self._sites if rule.fullmatch(site.name)]
        found = found or [site for site in self._raw.values() if rule.fullmatch(site.name)]
        if not found:
            raise UnknownSite(self._missing(pattern))
        return Sites(found, raw=tuple(self._raw.values()), model=self._model, notes=self.notes)

    def named(self, name: str) -> Site:
        """The one site of that name.

        Raises:
            UnknownSite: there is none; the message names the nearest.
        """
        if name not in self._by_name:
            calls = [other for other in self._by_name if other.startswith(f"{name}~")]
            if calls:
                raise UnknownSite(
                    f"{name!r} runs {len(calls)} times in {self._model}: say which, {', '.join(calls)}"
                )
            raise UnknownSite(self._missing(name))
        return self._by_name[name]

    def _missing(self, asked: str) -> str:
        known = [site.name for site in self._sites]
        near = suggestion(asked, self._by_name)
        count = f"{len(known)} sites"
        return (
            f"no site {asked!r} in {self._model} ({count}).{near}"
            f" List them: vitscope sites {self._model}" + "".join(f"\nNote: {note}" for note in self.notes)
        )

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Site]: ...
    def __getitem__(self, index: int | slice) -> Site | Sequence[Site]:
        return self._sites[index]

    def __len__(self) -> int:
        return len(self._sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __rich__(self) -> Table:
        table = Table(box=SIMPLE_HEAD, title=f"sites of {self._model}", title_justify="left")
        for name in ("name", "axes", "units", "grid", "prefix tokens", "path"):
            table.add_column(name, overflow="fold", no_wrap=name in ("name", "axes"))
        for site in self:
            grid = " x ".join(map(str, site.grid)) if site.grid else ""
            table.add_row(
                site.name, site.axes, str(site.units), grid, str(site.prefix_tokens), site.whereabouts
            )
        return table

    def _repr_html_(self) -> str:
        columns = ("name", "axes", "units", "grid", "prefix", "path")
        rows = ([*list(site.describe().values())[:5], site.whereabouts] for site in self)
        return card(f"{len(self)} sites of {self._model}", table(columns, rows))

    def __repr__(self) -> str:
        return f"<{len(self)} sites of {self._model}: {', '.join(site.name for site in self)}>"


def _glob(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    rules = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    return re.compile("".join(rules.get(part) or re.escape(part) for part in parts))


class VisionModel:
    """A module with its sites, its preprocessing and a fingerprint of its weights.

    Args:
        module: any image classifier or feature extractor that takes "image rgb row column".
        name: how users ask for it, such as "timm:vit_tiny_patch16_224".
        preprocessing: what the weights want to be shown.
        sites: semantic sites in forward order.
        raw: one site for every call of every module.
        classes: names of the logits, where known.
        notes: which semantic sites are missing, and why.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        *,
        preprocessing: Preprocessing,
        sites: Sequence[Site],
        raw: Sequence[Site] = (),
        classes: tuple[str, ...] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.module = module
        self.name = name
        self.preprocessing = preprocessing
        self.sites = Sites(sites, raw=raw, model=name, notes=notes)
        self.classes = classes

    @cached_property
    def fingerprint(self) -> str:
        """ "sha256:" and the hash of every weight's name, shape, type and bytes, in name order."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return f"sha256:{digest.hexdigest()}"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((weight.device for weight in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next((weight.dtype for weight in self.module.parameters()), torch.float32)

    def preprocess(self, pixels: Pixels) -> Float[Tensor, "image rgb row column"]:
        """From images in [0, 1] at `preprocessing.size` to the module's input, differentiable."""
        return self.preprocessing.normalise(pixels.to(self.device)).to(self.dtype)

    def site(self, address: str | Address) -> Site:
        """The site that an address names, after checking its unit and place.

        Raises:
            BadAddress: the text is not an address.
            UnknownSite: the model has no such site; the nearest is named.
            UnknownAddress: the site has no such unit or place.
        """
        address = Address.parse(address)
        site = self.sites.named(address.site)
        if address.unit is not None and address.unit >= site.units:
            raise UnknownAddress(
                f"no unit {address.unit} at {site.name}: it has {site.units} units (0..{site.units - 1})"
            )
        if address.place is not None:
            site.place_index(address.place)
        return site

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> VisionModel:
        """The same model, moved. The fingerprint stays that of the weights as loaded."""
        _ = self.fingerprint
        self.module.to(device=device, dtype=dtype)
        return self

    def __repr__(self) -> str:
        return f"<VisionModel {self.name}: {len(self.sites)} sites, {self.fingerprint[:19]}>"
