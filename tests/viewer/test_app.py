"""The pages: what they show, where their links lead, and how they are served."""

import io
import re
import socket

import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient
from tests.viewer.conftest import UNIT

from vitscope.errors import BadValue
from vitscope.viewer.app import find_port, serve
from vitscope.viewer.pages import FOREVER


def sources(html):
    return [link.replace("&amp;", "&") for link in re.findall(r'<img[^>]* src="([^"]+)"', html)]


def test_home_of_one_atlas_is_that_atlas(client):
    answer = client.get("/", follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["location"] == "/a/tiny"


def test_home_of_several_lists_them_and_of_none_says_so(client_of, make_atlas, atlas):
    page = client_of(atlas, make_atlas()).get("/").text
    assert 'href="/a/tiny"' in page
    assert 'href="/a/own"' in page
    assert "No atlas is open" in client_of().get("/").text


def test_the_atlas_page_shows_its_sites_and_their_dead(client):
    page = client.get("/a/tiny").text
    assert 'href="/a/tiny/site/blocks.0.ffn"' in page
    assert "300 units" in page
    assert "0.3 % dead" in page
    assert "complete" in page
    assert "sha256:11" in page


def test_dreams_stand_above_the_units_of_their_site_and_on_the_page_of_the_atlas(client):
    for path in ("/a/tiny", "/a/tiny/site/blocks.0.ffn"):
        strip = client.get(path).text.partition('class="strip"')[2].partition("</ul>")[0]
        (address,) = re.findall(r'href="/a/tiny/unit/([^"]+)"', strip)
        (picture,) = re.findall(r'src="([^"]+)"', strip)
        assert f'alt="dream of {address}"' in strip
        assert client.get(picture).headers["content-type"] == "image/webp"
    assert 'class="strip"' not in client.get("/a/tiny/site/blocks.0.ffn?page=2").text


def test_a_grid_has_a_tile_for_every_unit_and_no_more(client):
    first, second = (
        client.get("/a/tiny/site/blocks.0.ffn").text,
        client.get("/a/tiny/site/blocks.0.ffn?page=2").text,
    )
    units = [
        int(unit)
        for page in (first, second)
        for unit in re.findall(
            r'href="/a/tiny/unit/blocks\.0\.ffn:(\d+)"', page.partition('class="tiles"')[2]
        )
    ]
    assert units == list(range(300))
    assert "1 dead" in first
    assert 'alt="unit 1, dead"' in first


def test_tiles_look_at_their_own_part_of_the_sprite(client):
    page = client.get("/a/tiny/site/blocks.0.ffn?page=2").text
    tiles = re.findall(r'id="u(\d+)".*?class="c(\d+) r(\d+)"', page)
    assert [(int(column), int(row)) for _, column, row in tiles] == [(n % 16, n // 16) for n in range(44)]


def test_a_unit_page_shows_dream_exemplars_maps_and_numbers(client):
    page = client.get(UNIT).text
    shown = sources(page)
    assert sum("/dream/" in link for link in shown) == 1
    assert sum("/thumbnail/" in link for link in shown) == 3
    assert sum("/map/" in link for link in shown) == 3
    for text in (
        "5.25",
        "ghiasi_2022",
        "seed 7",
        "robust",
        "3.50",
        "@0,1",
        "share of zeros",
        "believe it as far as",
    ):
        assert text in page
    assert 'title="1 to 2' not in page
    assert "<title>0 to 1: 100</title>" in page
    assert page.count('class="mark"') == 3


def test_the_best_image_by_mean_stands_beside_the_dreams_score(client):
    assert re.search(r"best image</dt><dd>1\.75</dd>", client.get(UNIT).text)


def test_the_other_ranking_is_a_link_and_keeps_its_way(client):
    page = client.get(f"{UNIT}?by=mean").text
    assert "1.75" in page
    assert 'href="/a/tiny/unit/blocks.0.ffn:1?by=mean"' in page
    assert "/map/blocks.0.ffn:0/mean/0" in page


def test_a_dead_unit_says_so_and_has_no_exemplars(client):
    page = client.get("/a/tiny/unit/blocks.0.ffn:1").text
    assert "This unit never responded" in page
    assert "/thumbnail/" not in page


def test_a_unit_without_a_dream_tells_how_to_make_one(client):
    page = client.get("/a/tiny/unit/logits:3").text
    assert "/dream/" not in page
    assert re.search(r"vitscope dream test:.* logits:3</code>", page)


def test_a_site_without_a_grid_has_no_maps(client):
    page = client.get("/a/tiny/unit/logits:3").text
    assert "/thumbnail/" in page
    assert "/map/" not in page
    assert "heat map" not in page.split("<dialog")[0]


def test_neighbours_cross_from_one_site_to_the_next(client):
    page = client.get("/a/tiny/unit/blocks.0.ffn:299").text
    assert 'href="/a/tiny/unit/logits:0"' in page
    assert 'rel="prev"' not in client.get(UNIT).text


@pytest.mark.parametrize("page", ["/a/tiny", "/a/tiny/site/logits", UNIT, f"{UNIT}?by=mean"])
def test_every_link_and_picture_of_a_page_leads_somewhere(client, page):
    html = client.get(page).text
    links = {link for link in re.findall(r'(?:href|src)="([^"]+)"', html) if not link.startswith("#")}
    assert all(link.startswith("/") and not link.startswith("//") for link in links)
    for link in sorted(links)[:40]:
        answer = client.get(link.replace("&amp;", "&"))
        assert answer.status_code == 200, link


def test_every_picture_says_what_it_is_and_how_large(client):
    for tag in re.findall(r"<img[^>]*>", client.get(UNIT).text):
        assert re.search(r' width="\d+" height="\d+"', tag)
        assert " alt=" in tag


def test_a_map_is_the_grid_of_its_site(client):
    answer = client.get("/a/tiny/map/blocks.0.ffn:0/max/0")
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as picture:
        layer = np.asarray(picture)
    assert layer.shape == (4, 4, 4)
    assert layer[3, 3, 3] == layer[..., 3].max()


def test_pictures_are_kept_for_ever_only_under_the_name_of_their_version(client):
    link = next(link for link in sources(client.get(UNIT).text) if "/dream/" in link)
    assert client.get(link).headers["cache-control"] == FOREVER
    bare = client.get(link.split("?")[0])
    assert bare.headers["cache-control"] == "no-cache"
    again = client.get(link.split("?")[0], headers={"if-none-match": bare.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""


def test_json_is_what_show_prints(client, atlas):
    answer = client.get("/api/tiny/blocks.0.ffn:0").json()
    assert answer == atlas["blocks.0.ffn:0"].describe()
    assert answer["statistics"]["variance"] is None
    assert client.get("/api/tiny").json()["sites"][0] == {
        "name": "blocks.0.ffn",
        "units": 300,
        "leaves": 2,
        "finished": 2,
    }


def test_a_typed_address_leads_to_its_page(client):
    assert (
        client.get("/a/tiny/go", params={"address": " blocks.0.ffn:7@1,1 "}).url.path
        == "/a/tiny/unit/blocks.0.ffn:7@1,1"
    )
    assert client.get("/a/tiny/go", params={"address": "logits"}).url.path == "/a/tiny/site/logits"
    lost = client.get("/a/tiny/go", params={"address": "blocks.0.fn:7"})
    assert lost.status_code == 404
    assert "Nearest: &#39;blocks.0.ffn&#39;" in lost.text


def test_any_unit_is_a_unit(client):
    answer = client.get("/a/tiny/random", follow_redirects=False)
    assert client.get(answer.headers["location"]).status_code == 200


def test_fault_089_pages_read_well_without_scripts(client):
    page = client.get(UNIT).text
    assert page.count("<figure>") == 4  # a dream and three exemplars, all in the page as sent
    assert page.count("<script") == 1


def test_fault_087_a_port_in_use_gives_the_next_free_one():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = find_port("127.0.0.1", port)
    assert port < found < port + 100
    assert find_port("127.0.0.1", 0) > 0


def test_a_host_that_is_not_ours_is_told():
    with pytest.raises(BadValue, match=r"cannot listen on 203\.0\.113\.1 at port 8000"):
        find_port("203.0.113.1", 8000)


def test_serving_to_other_machines_needs_their_names(atlas):
    with pytest.raises(BadValue, match="name the hosts that browsers will use in allowed_hosts"):
        serve(atlas, host="0.0.0.0")


def test_serve_listens_before_it_says_where(atlas, monkeypatch):
    """The server itself is uvicorn's; what we hand it is an open socket and our application."""
    seen = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda server, sockets: seen.append((server.config, sockets[0]))
    )
    serve(atlas, port=0, opened=seen.append)
    url, (config, listening) = seen
    with listening:
        assert url == f"http://127.0.0.1:{listening.getsockname()[1]}/"
        socket.create_connection(listening.getsockname()).close()
    assert config.server_header is False
    assert TestClient(config.app, base_url=url).get("/a/tiny").status_code == 200
