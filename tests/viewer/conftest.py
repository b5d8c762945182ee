"""A tiny atlas with hostile names, written through the store; the viewer over it, in process and served."""

import contextlib
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.applications import Starlette
from starlette.testclient import TestClient

from vitscope.atlas.commit import write
from vitscope.atlas.leaf import (
    SAMPLED,
    AlikeRow,
    DreamRow,
    ExemplarRow,
    UnitRow,
    digest,
    sprite,
    table_bytes,
    webp,
)
from vitscope.atlas.manifest import Manifest, SiteLayout
from vitscope.atlas.read import Atlas
from vitscope.atlas.store import Store
from vitscope.provenance import Provenance
from vitscope.studies.result import Result
from vitscope.viewer.app import create_app
from vitscope.viewer.export import export

HOSTILE = '"><script>document.title="owned"</script><img src=x onerror=document.title="owned">'
SITES = (
    SiteLayout("blocks.0.ffn", "image token unit", 300, (4, 4), 1),
    SiteLayout("logits", "image unit", 10),
)
EDGES = (-1.0, 0.0, 1.0, 2.0, 4.0)
HUNG_UP = 0
"""In place of a status: the server closed the connection on a request that it would not read."""
UNIT = "/a/tiny/unit/blocks.0.ffn/0.html"
"""The page of a unit with a dream."""
IMAGES = [f"{number:032x}" for number in range(1, 4)]


def picture(shade: int) -> bytes:
    return webp(np.full((32, 32, 3), shade, np.uint8), quality=80)


def exemplars(site: SiteLayout, unit: int, rankings=("maximum", "mean")) -> Iterator[ExemplarRow]:
    for ranking in rankings:
        for rank, image in enumerate(IMAGES):
            place = f"{rank},{rank + 1}" if site.grid and ranking != "mean" else ""
            levels = bytes(range(0, 256, 16)) if site.grid else None
            value = (3.5 - rank) * {"maximum": 1, "mean": 0.5, "middle": 0.1, "random": 0.01}[ranking]
            yield ExemplarRow(
                unit,
                ranking,
                rank,
                image,
                f"dir/{HOSTILE}{rank}.png",
                HOSTILE,
                value,
                place,
                0.0,
                3.5 - rank,
                levels,
            )


def unit_row(unit: int, dreams: tuple[DreamRow, ...]) -> UnitRow:
    status = {1: "dead", 2: "nan"}.get(unit, "ok")
    return UnitRow(
        unit, status, 48, 0.5, float("nan"), -0.5, 3.5, 0.25, 0, 0, (0, 5, 100, 0, 3, 0), (), dreams
    )


def write_leaf(store: Store, site: SiteLayout, leaf: int, *, dream: bytes = b"") -> None:
    dream = dream or picture(200)
    trust = json.dumps({"status": "ok", "robust": 2.0, "start": 0.1, "retried": False})
    stored = DreamRow("ghiasi_2022", 7, 5.25, 2.0, trust, "ok", 0, len(dream), digest(dream))
    units = [unit_row(unit, (stored,) if unit == 0 else ()) for unit in site.members(leaf)]
    found = [
        row for unit in site.members(leaf) if unit % 256 < 8 and unit != 1 for row in exemplars(site, unit)
    ]
    files = {
        "units.parquet": table_bytes(units, of=UnitRow),
        "exemplars.parquet": table_bytes(found, of=ExemplarRow),
        "pack": dream,
        "sprite.webp": sprite({0: picture(120)}),
    }
    store.commit_leaf(site.name, leaf, files)


def write_sample(store: Store, site: SiteLayout, leaf: int) -> None:
    """Unit 0 is like 3 and 2 by activation and like 5 by weight; the others like none."""
    kinds = ("middle", "random")
    found = [
        row for unit in site.members(leaf) if unit % 256 in (0, 2, 3) for row in exemplars(site, unit, kinds)
    ]
    likes = [("activation", 0, 3, 0.91), ("activation", 1, 2, 0.5), ("weight", 0, 5, 0.25)]
    alike = [AlikeRow(0, *like) for like in likes if leaf == 0]
    files = {
        "samples.parquet": table_bytes(found, of=ExemplarRow),
        "alike.parquet": table_bytes(alike, of=AlikeRow),
    }
    store.commit_leaf(site.name, leaf, files, of=SAMPLED)


def keep_dream(folder: Path, address: str, *, weights: str = "sha256:00", seed: int = 0, **told) -> None:
    """A dream as `Dream.save` writes it, and what the viewer writes beside it."""
    text = PngInfo()
    settings = {"address": address, "recipe": {"name": "olah_2017"}, "seed": seed}
    text.add_text("vitscope", Provenance("dream", "test", weights, {}, settings=settings).to_json())
    folder.mkdir(exist_ok=True)
    path = folder / f"{address.replace(':', '_')}.olah_2017.{seed}.png"
    Image.new("RGB", (32, 32), (40 * seed, 90, 30)).save(path, pnginfo=text)
    if told:
        path.with_suffix(".json").write_text(json.dumps({"recipe": "olah_2017", "seed": seed, **told}))


def write_atlas(folder: Path, *, sites: tuple[SiteLayout, ...] = SITES) -> Path:
    """An atlas with every leaf of some sites: three of all."""
    seen = {"size": [32, 32], "interpolation": "bicubic"}
    provenance = Provenance("atlas", f"test:{HOSTILE}", "sha256:00", seen, source="sha256:11")
    source = {"name": f"folder:{HOSTILE}", "licence": None}
    dreams = {"count": 1, "recipe": "ghiasi_2022", "seed": 7}
    manifest = Manifest(provenance, source, sites, 3, ("TopK", "Moments"), EDGES, dreams, 512, 3)
    store = Store.prepare(folder, manifest)
    for number, image in enumerate(IMAGES):
        write(store.thumbnail_file(image), picture(60 * number + 20))
    for site, leaf in store.leaves():
        write_leaf(store, site, leaf)
        if site.grid:  # the others are as an older vitscope built them
            write_sample(store, site, leaf)
    drawn = [{"image": image, "path": f"dir/{HOSTILE}.png", "label": HOSTILE} for image in IMAGES]
    (folder / "sample.json").write_text(json.dumps({"images": drawn}))
    return folder


@pytest.fixture(scope="session")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """A whole atlas: blocks.0.ffn with two leaves, logits with one, two dreams kept of blocks.0.ffn:3. Do not
    damage it."""
    folder = tmp_path_factory.mktemp("viewer")
    for seed in (0, 1):
        trust = {"status": "ok", "robust": 1.5 + seed}
        keep_dream(folder / "tiny.dreams", "blocks.0.ffn:3", seed=seed, score=2.5, trust=trust)
    return Atlas.open(write_atlas(folder / "tiny.atlas"))


@pytest.fixture
def make_atlas(tmp_path: Path, atlas: Atlas) -> Callable[..., Atlas]:
    """Copies the atlas, to damage it; `without` are the markers of leaves that are not built yet."""

    def make(name: str = "own.atlas", *, without: tuple[str, ...] = (), model: str = HOSTILE) -> Atlas:
        shutil.copytree(atlas.path, tmp_path / name)
        for marker in without:
            (tmp_path / name / "sites" / marker).unlink()
        manifest = tmp_path / name / "atlas.json"
        manifest.write_text(manifest.read_text().replace(json.dumps(HOSTILE)[1:-1], json.dumps(model)[1:-1]))
        return Atlas.open(tmp_path / name)

    return make


@pytest.fixture(scope="session")
def client_of() -> Callable[..., TestClient]:
    """Makes a client, in process, for given atlases. Our errors become answers, as they do in a server."""

    def make(*atlases: Atlas) -> TestClient:
        return TestClient(
            create_app(atlases), base_url="http://localhost:8000", raise_server_exceptions=False
        )

    return make


@pytest.fixture
def client(atlas: Atlas, client_of: Callable[..., TestClient]) -> TestClient:
    """The viewer over the tiny atlas."""
    return client_of(atlas)


@contextlib.contextmanager
def served(app: Starlette) -> Iterator[int]:
    """An application on a port of loopback, behind a real HTTP parser."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def static_host(folder: Path) -> Iterator[int]:
    """`python -m http.server` over a folder: no ranges, no redirects of its own making."""
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(10)


class QuietHandler(SimpleHTTPRequestHandler):
    """Says nothing on standard error."""

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved result of a study, with a hostile name of a model."""
    folder = tmp_path_factory.mktemp("results") / "odd one"
    shared = {"model": HOSTILE, "filter": "disk", "direction": "low"}
    names = ("top1", "top1_low", "top1_high", "relative_top1", "relative_top1_low", "relative_top1_high")
    rows = tuple(
        {**shared, "radius": radius, **dict.fromkeys(names, 71.5 + radius)} for radius in (4.0, 16.0)
    )
    made = Provenance("study", HOSTILE, "sha256:00", {}, settings={"study": "frequency"})
    folder.mkdir()
    document = Result("frequency", (HOSTILE,), rows, {}, (), made).describe()
    (folder / "result.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="session")
def port(atlas: Atlas, result: Path) -> Iterator[int]:
    """The viewer on a port of loopback."""
    with served(create_app([atlas], studies=[result])) as number:
        yield number


@pytest.fixture(scope="session")
def exported(atlas: Atlas, result: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same viewer as files, below a folder of its host."""
    out = tmp_path_factory.mktemp("host") / "below" / "site"
    export(atlas, out=out, studies=[result])
    return out


@pytest.fixture(scope="session")
def raw(port: int) -> Callable[..., tuple[int, bytes]]:
    """Sends a request target byte for byte, as no well-behaved client would; gives status and answer."""

    def ask(target: bytes, *, host: bytes = b"localhost") -> tuple[int, bytes]:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (target, host))
            answer = b""
            with contextlib.suppress(ConnectionResetError):  # hung up on, before all was sent
                while received := connection.recv(65536):
                    answer += received
        return int(answer.split(b" ", 2)[1]) if answer else HUNG_UP, answer

    return ask
