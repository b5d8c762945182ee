"""Looking at a picture and dreaming, on the server: what is told, kept and refused."""

import io
import json

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from starlette.testclient import TestClient
from tests.atlas.conftest import model, opened, paint, tree
from tests.conftest import state_of

from vitscope.atlas import build
from vitscope.atlas.read import Atlas
from vitscope.data.decode import decode, view
from vitscope.dream import dream
from vitscope.dream.recipes import OLAH_2017
from vitscope.errors import NotCached
from vitscope.models.vision_model import VisionModel
from vitscope.provenance import explain
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit
from vitscope.viewer import behind, kept, live
from vitscope.viewer.app import create_app, serve
from vitscope.viewer.behind import Behind, Wanted
from vitscope.viewer.live import Live
from vitscope.viewer.pictures import fact

SITE = "blocks.1.ffn"
QUICK = OLAH_2017.replace(name="quick", steps=6)
OURS = {"origin": "http://localhost:8000"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`photos`, and an atlas over them with two sites that have a grid."""
    made = tmp_path_factory.mktemp("live")
    paint(made / "photos")
    build(model(), opened(made / "photos"), out=made / "val.atlas", sites=SITE, k=2, batch_size=4)
    return made


@pytest.fixture
def loaded(monkeypatch):
    """Loads our tiny model whatever is asked for; the names and settings that were asked for."""
    asked = []

    def load(name, **settings) -> VisionModel:
        asked.append((name, settings))
        return model()

    monkeypatch.setattr(behind, "load", load)
    monkeypatch.setattr(live, "recipe_named", lambda name: {"vitscope": QUICK, "quick": QUICK}[name])
    return asked


@pytest.fixture
def client(folder, loaded):
    return TestClient(create_app([Atlas.open(folder / "val.atlas")], live=Live()), base_url=OURS["origin"])


def told(answer):
    """The events of an answer."""
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    parts = [part.split("\n") for part in answer.text.removesuffix("\n\n").split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def a_photo(folder):
    return (folder / "photos" / "a" / "00.png").read_bytes()


def test_a_dropped_picture_says_which_units_fire_and_where(client, folder, loaded):
    before = state_of(model().module)
    events = told(client.post("/live/val/look", content=a_photo(folder), headers=OURS))
    assert [name for name, _ in events] == ["waiting", "loading", "seen"]
    seen = events[-1][1]
    ((site, units),) = [(site["name"], site["units"]) for site in seen["sites"]]
    assert site == SITE
    assert [name for name, _ in loaded] == [Atlas.open(folder / "val.atlas").model]
    shown = view(decode(a_photo(folder)).image, model().preprocessing)
    pixels = torch.from_numpy(np.moveaxis(np.array(shown, np.float32), -1, 0)[None] / 255)
    values = read(model(), pixels, [model().site(SITE)])
    peaks = values[SITE][0, 1:].max(dim=0).values.tolist()
    atlas = Atlas.open(folder / "val.atlas")
    for unit in units:
        number = int(unit["address"].rpartition(":")[2])
        assert unit["value"] == pytest.approx(peaks[number], rel=1e-4)
        counts = np.array(atlas[unit["address"]].histogram.counts)
        at = int(np.searchsorted(atlas[unit["address"]].histogram.edges, peaks[number], side="right"))
        share = 100 * (counts[:at].sum() + counts[at] / 2) / counts.sum()
        assert unit["percentile"] == pytest.approx(share)
        assert unit["heat"].startswith("data:image/png;base64,")
        assert (
            client.get(f"/{unit['link']}").status_code == client.get(f"/{unit['sprite']}").status_code == 200
        )
    assert [unit["percentile"] for unit in units] == sorted((u["percentile"] for u in units), reverse=True)
    assert state_of(model().module) == before


def test_a_dream_forms_step_by_step_and_is_the_one_that_the_command_makes(client, loaded):
    events = told(client.post(f"/live/val/dream/{SITE}:7?seed=3", headers=OURS))
    names = [name for name, _ in events]
    assert names[:4] == ["waiting", "loading", "planned", "step"]
    assert names[-1] == "done"
    assert set(names[3:-1]) == {"step"}
    steps = [facts for name, facts in events if name == "step"]
    assert [facts["step"] for facts in steps] == sorted({facts["step"] for facts in steps})
    assert steps[0]["step"] == 1
    assert all(facts["steps"] == QUICK.steps for facts in steps)
    assert all(facts["image"].startswith("data:image/jpeg;base64,") for facts in steps)
    expected = dream(model(), f"{SITE}:7", recipe=QUICK, seed=3)
    done = events[-1][1]
    assert (done["score"], done["seed"]) == (expected.score, 3)
    assert done["trust"]["robust"] == expected.trust["robust"]
    for facts in steps:
        assert facts["score"] == pytest.approx(expected.trace[facts["step"] - 1].item())
    told(client.post(f"/live/val/dream/{SITE}:7", headers=OURS))
    assert len(loaded) == 1  # the model is loaded once


def test_a_dream_is_kept_beside_the_atlas_and_never_in_it(client, folder):
    before = tree(folder / "val.atlas")
    done = told(client.post(f"/live/val/dream/{SITE}:7", headers=OURS))[-1][1]
    assert not (folder / "val.dreams").exists()
    kept = client.post(f"/live/val/keep/{done['number']}", headers=OURS).json()["path"]
    assert kept == str(folder / "val.dreams" / "blocks.1.ffn_7.quick.0.png")
    assert explain(kept).settings["address"] == f"{SITE}:7"
    with Image.open(kept) as picture:
        assert picture.size == (32, 32)
    assert tree(folder / "val.atlas") == before
    page = client.get(f"/a/val/unit/{SITE}/7.html").text.partition('class="dreams"')[2]
    assert "kept by you" in page
    assert f"<dt>robust</dt><dd>{fact(done['trust']['robust'])}</dd>" in page


def test_old_dreams_are_forgotten(client, monkeypatch):
    monkeypatch.setattr(live, "DONE_KEPT", 1)
    first, second = (
        told(client.post(f"/live/val/dream/{SITE}:{unit}", headers=OURS))[-1][1]["number"] for unit in (7, 8)
    )
    assert client.post(f"/live/val/keep/{second}", headers=OURS).status_code == 200
    answer = client.post(f"/live/val/keep/{first}", headers=OURS)
    assert (answer.status_code, answer.json()) == (404, {"error": "This dream is forgotten: dream it again."})


def test_a_folder_that_cannot_be_written_is_told(client, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(kept, "kept_in", lambda _: tmp_path / "file" / "below")
    number = told(client.post(f"/live/val/dream/{SITE}:7", headers=OURS))[-1][1]["number"]
    answer = client.post(f"/live/val/keep/{number}", headers=OURS)
    assert answer.status_code == 500
    assert "cannot write" in answer.json()["error"]


REFUSED = {
    f"/live/val/dream/{SITE}:99999": "it has 96 units",
    f"/live/val/dream/{SITE}": "names no unit",
    "/live/val/dream/blocks.9.fn:1": "no site",
    "/live/other/dream/blocks.1.ffn:1": "There is no atlas of that name here.",
    f"/live/val/dream/{SITE}:1?seed=-1": "a seed is a whole number from 0 to 999999999, not '-1'",
    f"/live/val/dream/{SITE}:1?seed=1e30": "a seed is a whole number",
    "/live/val/keep/9": "This dream is forgotten",
    "/live/other/look": "There is no atlas of that name here.",
}


@pytest.mark.parametrize("path", REFUSED)
def test_fault_084_what_is_not_there_is_told_before_any_work(client, loaded, path):
    answer = client.post(path, headers=OURS)
    assert answer.status_code == 404
    assert REFUSED[path] in answer.json()["error"]
    assert loaded == []


@pytest.mark.parametrize(
    "odd", ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "a%5cb", "%00", "%ff", "~", ":", "@"]
)
def test_fault_076_odd_names_are_not_found_in_live_routes(client, odd):
    for path in (f"/live/{odd}/look", f"/live/val/dream/{odd}", f"/live/val/keep/{odd}"):
        assert client.post(path, headers=OURS).status_code in (404, 405)


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://localhost:8001", "http://localhost"]
)
def test_fault_078_only_our_own_pages_may_ask_for_work(client, loaded, origin):
    headers = {} if origin is None else {"origin": origin}
    for path in ("/live/val/look", f"/live/val/dream/{SITE}:7", "/live/val/keep/1"):
        answer = client.post(path, headers=headers)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        assert client.get(path).status_code in (404, 405)  # a link begins nothing
    assert loaded == []


def test_what_is_no_picture_is_told(client):
    events = told(client.post("/live/val/look", content=b"<svg onload='alert(1)'/>", headers=OURS))
    assert events[-1][0] == "failed"
    assert "refused_format: SVG" in events[-1][1]["message"]


def test_a_picture_that_is_too_large_is_refused_unread(client, monkeypatch, folder):
    monkeypatch.setattr(live, "LARGEST_UPLOAD", 100)
    answer = client.post("/live/val/look", content=a_photo(folder), headers=OURS)
    assert answer.status_code == 413
    assert "Pictures have at most" in answer.json()["error"]


def test_a_picture_of_too_many_pixels_is_told(client):
    sink = io.BytesIO()
    Image.new("1", (9000, 9000)).save(sink, "PNG")
    events = told(client.post("/live/val/look", content=sink.getvalue(), headers=OURS))
    assert "too_large" in events[-1][1]["message"]


def test_a_model_that_is_another_or_cannot_be_loaded_is_told(client, monkeypatch):
    monkeypatch.setattr(behind, "load", lambda *_, **__: tiny_vit(seed=1))
    events = told(client.post(f"/live/val/dream/{SITE}:7", headers=OURS))
    assert "with other weights" in events[-1][1]["message"]

    def offline(name, **_):
        raise NotCached(f"the weights of {name} are not on this machine")

    monkeypatch.setattr(behind, "load", offline)
    other = Behind(Wanted("timm:other"))
    with pytest.raises(
        behind.BadValue, match=r"the weights of timm:other are not.*\n.*--live MODEL --weights"
    ):
        other.of(client.app.state.library.volume("val").atlas, on_load=lambda _: None)


def test_one_model_is_kept_and_its_settings_are_those_asked_for(monkeypatch, folder):
    asked = []
    monkeypatch.setattr(behind, "load", lambda name, **settings: asked.append((name, settings)) or model())
    atlas, kept = Atlas.open(folder / "val.atlas"), Behind(Wanted(None, "w.pt", "cpu"))
    names = []
    for _ in range(2):
        assert kept.of(atlas, on_load=names.append) is model()
    assert names == [atlas.model]
    assert asked == [(atlas.model, {"weights": "w.pt", "device": "cpu"})]


def test_pages_offer_live_work_only_where_there_is_a_model(client, folder):
    off = TestClient(create_app([Atlas.open(folder / "val.atlas")]), base_url=OURS["origin"])
    for path, words in (("/a/val/index.html", "Drop a picture"), (f"/a/val/unit/{SITE}/7.html", "Dream now")):
        assert words in client.get(path).text
        assert "static/live.js" in client.get(path).text
        assert words not in off.get(path).text
        assert "static/live.js" not in off.get(path).text
    assert off.post(f"/live/val/dream/{SITE}:7", headers=OURS).status_code in (404, 405)
    page = client.get(f"/a/val/unit/{SITE}/7.html").text
    assert all(f"<option>{name}</option>" in page for name in Live().recipes)
    assert Live().recipes[0] == "vitscope"


def test_other_families_dream_too(monkeypatch, folder, tmp_path):
    cnn = tiny_cnn()
    build(cnn, opened(folder / "photos"), out=tmp_path / "cnn.atlas", sites="stages.1.0", k=2, batch_size=4)
    monkeypatch.setattr(behind, "load", lambda *_, **__: cnn)
    monkeypatch.setattr(live, "recipe_named", lambda _: QUICK)
    client = TestClient(
        create_app([Atlas.open(tmp_path / "cnn.atlas")], live=Live()), base_url=OURS["origin"]
    )
    assert told(client.post("/live/cnn/dream/stages.1.0:1", headers=OURS))[-1][0] == "done"
    assert told(client.post("/live/cnn/look", content=a_photo(folder), headers=OURS))[-1][0] == "seen"


@pytest.mark.parametrize(
    ("settings", "is_live"),
    [({}, True), ({"live": "off"}, False), ({"host": "0.0.0.0", "allowed_hosts": ["lab.example"]}, False)],
)
def test_only_readers_on_this_machine_get_the_model(folder, monkeypatch, settings, is_live):
    seen = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: seen.append((server.config, sockets)))
    serve(Atlas.open(folder / "val.atlas"), port=0, **settings)
    ((config, sockets),) = seen
    for listening in sockets:
        listening.close()
    assert (config.app.state.library.live is not None) == is_live
