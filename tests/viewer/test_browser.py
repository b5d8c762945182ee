"""The pages in a real browser, headless: hostile names stay text, keys work, nothing asks another host."""

import re
import shutil
import socket
import subprocess
import threading

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from vitscope.viewer.app import create_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: the browser tests of the viewer are skipped"
)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=3000",
)  # fmt: skip

PROBE = """<!doctype html><script type="module">
const text = await (await fetch("/a/tiny/unit/blocks.0.ffn:3")).text();
const sent = new DOMParser().parseFromString(text, "text/html");
document.body.replaceChildren(...sent.body.children);
const clicked = [];
document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (link) { event.preventDefault(); clicked.push(link.getAttribute("href")); }
});
await import("/static/viewer.js");
const press = (key) => {
  document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
};
for (const key of ["j", "ArrowRight", "k", "g", "m", "x"]) press(key);
const root = document.documentElement.classList;
press("h"); const hidden = root.contains("no-heat");
press("h"); const shown = !root.contains("no-heat");
press("/"); const typing = document.activeElement.name;
press("?"); const open = document.querySelector("dialog").open;
document.body.textContent = JSON.stringify({clicked, hidden, shown, typing, open}).replaceAll('"', "'");
</script>"""


@pytest.fixture
def browse(tmp_path):
    """Opens an address and gives the page as it stands after its scripts have run."""

    def dump(url, *flags):
        command = [CHROMIUM, *QUIET, *flags, f"--user-data-dir={tmp_path}", "--dump-dom", url]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    return dump


@pytest.mark.parametrize("path", ["/a/tiny/unit/blocks.0.ffn:3", "/a/tiny"])
def test_fault_081_hostile_names_do_not_run_and_089_no_other_host_is_asked(browse, port, path):
    page = browse(f"http://localhost:{port}{path}")
    assert 'class="js' in page  # our own module did run
    title = re.search(r"<title>(.*?)</title>", page).group(1)
    assert "tiny" in title
    assert "owned" not in title
    assert "&lt;script&gt;" in page  # the name is there, as text
    assert len(re.findall(r"<script", page)) == 1
    links = re.findall(r'\s(?:src|href|action|srcset)="([^"]*)"', page)
    assert links
    assert all(re.match(r"/(?!/)|#", link) for link in links)


def test_keys_lead_where_the_help_says(browse, atlas):
    viewer = create_app([atlas])
    app = Starlette(routes=[Route("/probe", lambda _: HTMLResponse(PROBE)), Mount("/", viewer)])
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        page = browse(f"http://localhost:{listening.getsockname()[1]}/probe")
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
    following, previous = "/a/tiny/unit/blocks.0.ffn:4", "/a/tiny/unit/blocks.0.ffn:2"
    clicked = [
        following,
        following,
        previous,
        "/a/tiny/site/blocks.0.ffn#u3",
        "/a/tiny/unit/blocks.0.ffn:3?by=mean",
    ]
    assert f"'clicked':{clicked!r}".replace(" ", "") in page
    assert "'hidden':true,'shown':true,'typing':'address','open':true" in page
