"""The server: headers, redirects, ports, and that it sends the files of `files.py`."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import pytest
import uvicorn
from starlette.testclient import TestClient
from tests.viewer.conftest import UNIT, served

from vitscope.errors import BadValue
from vitscope.viewer import app
from vitscope.viewer.app import FOREVER, READERS, create_app, find_port, serve
from vitscope.viewer.library import Answer


def test_home_is_the_same_page_under_both_its_names(client):
    assert client.get("/").content == client.get("/index.html").content
    assert 'href="a/tiny/index.html"' in client.get("/").text
    assert client.get("/a/tiny", follow_redirects=False).headers["location"] == "/a/tiny/index.html"


@pytest.mark.parametrize("path", ["/a/tiny/sprite/blocks.0.ffn/1.webp", "/static/viewer.css"])
def test_files_are_kept_for_ever_only_under_the_name_of_their_version(client, path):
    page = client.get("/a/tiny/site/blocks.0.ffn/1.html").text
    link = next(part for part in page.split('"') if path in part)
    named = f"{path}?{link.partition('?')[2]}"
    assert client.get(named).headers["cache-control"] == FOREVER
    bare = client.get(path)
    assert bare.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"if-none-match": bare.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""


def test_json_is_what_show_prints(client, atlas):
    answer = client.get("/api/tiny/blocks.0.ffn:0").json()
    assert answer == atlas["blocks.0.ffn:0"].describe()
    assert answer["statistics"]["variance"] is None
    assert client.get("/a/tiny/data/blocks.0.ffn/1.json").json()[0] == answer
    assert client.get("/api/tiny").json()["sites"][0] == {
        "name": "blocks.0.ffn",
        "units": 300,
        "leaves": 2,
        "finished": 2,
    }


def test_a_typed_address_leads_to_its_page(client):
    for typed, page in ((" blocks.0.ffn:7@1,1 ", "unit/blocks.0.ffn/7"), ("logits", "site/logits/1")):
        assert client.get("/a/tiny/go", params={"address": typed}).url.path == f"/a/tiny/{page}.html"
    lost = client.get("/a/tiny/go", params={"address": "blocks.0.fn:7"})
    assert lost.status_code == 404
    assert "Nearest: &#39;blocks.0.ffn&#39;" in lost.text


def test_so_many_pages_are_made_at_once_and_others_wait(atlas, monkeypatch):
    """Each that is being made holds what it read, so the memory of a server depends on how many there are."""
    inside, most, lock = 0, 0, threading.Lock()

    def slow(library, path):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1
        return Answer(path.encode(), "text/plain")

    monkeypatch.setattr(app, "answer", slow)
    with served(create_app([atlas])) as port, ThreadPoolExecutor(4 * READERS) as readers:
        urls = [f"http://127.0.0.1:{port}/{number}" for number in range(4 * READERS)]
        answers = list(readers.map(lambda url: urlopen(url).read().decode(), urls))
    assert answers == [str(number) for number in range(4 * READERS)]
    assert most == READERS


def test_any_unit_is_a_unit(client):
    answer = client.get("/a/tiny/random", follow_redirects=False)
    assert client.get(answer.headers["location"]).status_code == 200


def test_fault_089_pages_read_well_without_scripts(client):
    page = client.get(UNIT).text
    assert page.count("<figure>") == 1 + 4 * 3  # a dream and all kinds of images, all in the page as sent
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
    assert TestClient(config.app, base_url=url).get("/a/tiny/index.html").status_code == 200
