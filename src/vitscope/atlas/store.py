"""The files of an atlas: where each lies, how it is committed, when it counts as whole. See docs/atlas.md.

    atlas.json    parts/<shard>.safetensors    parts/dreams/<site>/<unit>.safetensors    leases/
    sites/<site>/0004.{units.parquet,exemplars.parquet,pack,sprite.webp,ok}    runs/<id>.json
    sites/<site>/0004.{samples.parquet,alike.parquet,samples.ok}    sample.json    dreams.json
    images/ab/<id>.webp

A leaf without a valid `.ok` does not exist. Whatever is written is immutable: the same bytes again are a
success, other bytes an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from vitscope.atlas.commit import check_writable as check_writable
from vitscope.atlas.commit import sweep, write
from vitscope.atlas.leaf import LEAF, SAMPLED, Bundle, digest, ok_bytes
from vitscope.atlas.manifest import FILE, Manifest, SiteLayout
from vitscope.errors import AtlasError, BadValue, NotBuilt, UnknownSite, suggestion

ABSENT = "not built yet"
"""The fault of a leaf that nobody has committed."""
_IMAGE = re.compile(r"[0-9a-f]{32}")
_FACTS = "facts"
_PLAIN = re.compile(r"\w[\w-]{0,99}")

Arrays = dict[str, NDArray[Any]]


class Store:
    """The files of one atlas. Reading never writes, so a read-only medium will do.

    Args:
        root: the folder.
        manifest: what its `atlas.json` says.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest
        self.sites = {site.name: site for site in manifest.sites}
        self._folders = manifest.folders

    @classmethod
    def open(cls, root: str | Path) -> Store:
        """Open for reading.

        Raises:
            AtlasError: there is no atlas, or its manifest is damaged or newer.
        """
        root = Path(root)
        path = root / FILE
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AtlasError(f"{root} is not an atlas: cannot read {path}: {_reason(error)}") from error
        return cls(root, Manifest.from_json(text, path=path))

    @classmethod
    def prepare(cls, root: str | Path, manifest: Manifest) -> Store:
        """Open for writing: a new atlas, or one with the same settings to go on with.

        Raises:
            NotWritable: the folder cannot be written.
            AtlasError: an atlas with other settings is there (each difference is named), or other files are.
        """
        root = Path(root)
        check_writable(root)
        if not (root / FILE).exists():
            _refuse_foreign(root)
            write(root / FILE, manifest.to_json().encode(), onto="nothing")
        store = cls.open(root)
        if differences := store.manifest.differences(manifest):
            lines = "\n".join(f"  {line}" for line in differences)
            raise AtlasError(f"{root} was made with other settings:\n{lines}\nChoose another output folder.")
        sweep(root)
        return store

    def layout(self, site: str) -> SiteLayout:
        """The layout of a site. Raises UnknownSite, naming the nearest."""
        if site not in self.sites:
            raise UnknownSite(
                f"no site {site!r} in {self.root.name} ({len(self.sites)} sites)."
                f"{suggestion(site, self.sites)}"
                f" There are: {', '.join(self.sites)}"
            )
        return self.sites[site]

    def leaves(self) -> Iterator[tuple[SiteLayout, int]]:
        """Every leaf that a complete atlas has."""
        return ((site, leaf) for site in self.manifest.sites for leaf in range(site.leaves))

    # leaves

    def leaf_file(self, site: str, leaf: int, part: str) -> Path:
        """The path of one file of a leaf; `part` is one of a bundle's parts, or its marker."""
        return self.root / "sites" / self._folders[self.layout(site).name] / f"{leaf:04d}.{part}"

    def commit_leaf(self, site: str, leaf: int, files: Mapping[str, bytes], *, of: Bundle = LEAF) -> None:
        """Write a leaf, its marker last. A damaged leaf of that number is replaced, a whole one never.

        Raises:
            AtlasError: a whole leaf with other contents is there already; the disk is full.
        """
        marker = ok_bytes(files)
        fault = self.fault(site, leaf, read=True, of=of)
        if fault is None:
            if self.leaf_file(site, leaf, of.marker).read_bytes() != marker:
                raise AtlasError(
                    f"{self.leaf_name(site, leaf)} is there already, with other contents: "
                    "leaves are immutable"
                )
            return
        if fault != ABSENT:
            self.leaf_file(site, leaf, of.marker).unlink(missing_ok=True)
        for part, content in files.items():
            write(self.leaf_file(site, leaf, part), content)
        write(self.leaf_file(site, leaf, of.marker), marker)

    def discard_leaf(self, site: str, leaf: int) -> None:
        """Take the marker off a damaged leaf: from now on it is not built yet."""
        self.leaf_file(site, leaf, "ok").unlink(missing_ok=True)

    def leaf_name(self, site: str, leaf: int) -> str:
        """How people are told about a leaf: "blocks.6.ffn units 256 to 511 (leaf 0001)"."""
        units = self.layout(site).members(leaf)
        return f"{site} units {units.start} to {units.stop - 1} (leaf {leaf:04d})"

    def fault(self, site: str, leaf: int, *, read: bool = False, of: Bundle = LEAF) -> str | None:
        """What is wrong with a leaf: None, `ABSENT`, or the damage in words.

        Args:
            site, leaf: which one.
            read: whether the contents are read and hashed; otherwise only the marker and the sizes are
                looked at.
            of: which of its files.
        """
        try:
            facts = self._marker(site, leaf, of)
            if facts is None:
                return ABSENT
            for part in of.parts:
                path = self.leaf_file(site, leaf, part)
                if path.stat().st_size != facts[part]["size"]:
                    return f"{path.name} has {path.stat().st_size} bytes, not {facts[part]['size']}"
                if read and digest(path.read_bytes()) != facts[part]["sha256"]:
                    return f"{path.name} has other bytes than were written"
        except AtlasError as error:
            return str(error)
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except OSError as error:
            return _reason(error)
        return None

    def _marker(self, site: str, leaf: int, of: Bundle) -> dict[str, Any] | None:
        path = self.leaf_file(site, leaf, of.marker)
        try:
            facts = json.loads(path.read_bytes())
            return {
                part: {"size": int(facts[part]["size"]), "sha256": facts[part]["sha256"]} for part in of.parts
            }
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise AtlasError(f"{path.name} is damaged") from error

    def read_leaf(self, site: str, leaf: int, part: str) -> bytes:
        """One whole file of a leaf, checked.

        Raises:
            NotBuilt, AtlasError: the leaf is not built yet, or damaged; the message names it.
        """
        name = self.leaf_name(site, leaf)
        of = SAMPLED if part in SAMPLED.parts else LEAF
        if fault := self.fault(site, leaf, of=of):
            if fault == ABSENT:
                raise NotBuilt(f"{name} is {fault}")
            raise AtlasError(f"{name} is damaged: {fault}")
        content = self.leaf_file(site, leaf, part).read_bytes()
        facts = self._marker(site, leaf, of)
        if facts is None or digest(content) != facts[part]["sha256"]:
            raise AtlasError(f"{name} is damaged: {leaf:04d}.{part} has other bytes than were written")
        return content

    # parts of work that is not folded into leaves yet

    def part_file(self, shard: str) -> Path:
        """Where the finished part of a shard lies."""
        name = shard if _PLAIN.fullmatch(shard) else digest(shard.encode())[:32]
        return self.root / "parts" / f"{name}.safetensors"

    def dream_file(self, site: str, unit: int, way: int = 0) -> Path:
        """Where a finished dream lies until its leaf is written; a unit has one for each way of dreaming."""
        name = f"{unit:06d}{f'-{way}' if way else ''}.safetensors"
        return self.root / "parts" / "dreams" / self._folders[site] / name

    def drop_dreams(self, site: str, leaf: int) -> None:
        """Remove the dreams that a finished leaf holds now."""
        for unit in self.layout(site).members(leaf):
            for way in range(self.manifest.ways):
                self.dream_file(site, unit, way).unlink(missing_ok=True)
        for folder in (self.root / "parts/dreams" / self._folders[site], self.root / "parts/dreams"):
            with suppress(OSError):  # other dreams are still in it, or it never was
                folder.rmdir()

    # what processes agree on

    def agreed(self, file: str, propose: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What the first process to ask wrote into a JSON file; the others follow it, or two of them would
        not compute the same bytes."""
        path = self.root / file
        if not path.exists():
            write(path, (json.dumps(propose(), indent=1) + "\n").encode(), onto="nothing")
        try:
            facts: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise AtlasError(f"{path.name} is damaged: delete it and run the same command again") from error
        return facts

    def sample(self) -> tuple[tuple[str, str, str | None], ...]:
        """The images of the sample: identity, path, class; none where the atlas has no sample.

        Raises:
            AtlasError: the file that tells them is damaged.
        """
        try:
            facts = json.loads((self.root / "sample.json").read_bytes())
            return tuple((image["image"], image["path"], image["label"]) for image in facts["images"])
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AtlasError(f"{self.root.name} is damaged: sample.json cannot be read: {error}") from error

    # thumbnails

    def thumbnail_file(self, image: str) -> Path:
        """Where the thumbnail of an image lies. An id is looked at before it becomes a path.

        Raises:
            BadValue: not 32 hexadecimal digits.
        """
        if not _IMAGE.fullmatch(image):
            raise BadValue(f"not an image id: {image[:80]!r}: expected 32 hexadecimal digits")
        return self.root / "images" / image[:2] / f"{image}.webp"

    def why_no_thumbnail(self, image: str) -> str | None:
        """The reason for which an image has no thumbnail, where one is on record."""
        try:
            facts = json.loads(self.thumbnail_file(image).with_suffix(".skipped").read_bytes())
            return f"{facts['path']}: {facts['reason']}"
        except (OSError, ValueError, KeyError, TypeError):
            return None


def write_arrays(path: Path, arrays: Arrays, *, facts: Mapping[str, Any]) -> None:
    """Commit named arrays and JSON facts as one safetensors file that knows its own hash."""
    text = np.frombuffer(json.dumps(facts, sort_keys=True).encode(), np.uint8)
    whole = {name: np.ascontiguousarray(array) for name, array in {**arrays, _FACTS: text}.items()}
    write(path, save_arrays(whole, metadata={"sha256": _digest_of(whole)}))


def read_arrays(path: Path) -> tuple[Arrays, dict[str, Any]] | None:
    """The inverse of `write_arrays`; None where the file is missing or damaged, so that it is made again."""
    try:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        expected = json.loads(content[8 : 8 + length])["__metadata__"]["sha256"]
        arrays: Arrays = load_arrays(content)
        if _digest_of(arrays) != expected:
            return None
        facts: dict[str, Any] = json.loads(arrays.pop(_FACTS).tobytes())
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    return arrays, facts


def _digest_of(arrays: Arrays) -> str:
    hashed = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        hashed.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        hashed.update(array.data if array.size else b"")
    return hashed.hexdigest()


def _refuse_foreign(root: Path) -> None:
    if not root.exists():
        return
    if (root / "sites").exists() or (root / "parts").exists():
        raise AtlasError(
            f"{root} holds parts of an atlas but no {FILE}: "
            "the manifest is missing, and vitscope does not guess"
        )
    foreign = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if foreign:
        raise AtlasError(
            f"{root} is not empty and not an atlas (it holds {foreign[0]!r}): choose another output folder"
        )


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
