"""Who may ask, and what every answer says about itself."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitscope.viewer.guard import HEADERS, LOOPBACK, host_of

GOOD = {
    "localhost": "localhost",
    "localhost:8000": "localhost",
    "LocalHost:65535": "localhost",
    "127.0.0.1": "127.0.0.1",
    "127.0.0.1:1": "127.0.0.1",
    "[::1]": "[::1]",
    "[::1]:8000": "[::1]",
}
BAD = [
    "", "localhost:", "localhost:x", "localhost:80:80", "::1", "[::1", "::1]:8000", "[::1]evil.example",
    "evil.example@localhost", "localhost@evil.example", "localhost evil.example", "localhost/x",
    "localhost,evil.example", "localhost:800000", "localhost:8000#evil.example", "[localhost]",
    "localhost\\evil.example",
]  # fmt: skip


@pytest.mark.parametrize("header", GOOD)
def test_fault_077_every_form_of_loopback_is_understood(header):
    assert host_of(header) == GOOD[header]
    assert host_of(header) in LOOPBACK


@pytest.mark.parametrize("header", BAD)
def test_fault_077_what_is_no_host_is_not_allowed(header):
    assert host_of(header) not in LOOPBACK


PIECES = ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", ":", "8000", "@", ".", "evil", "[", "]", " ", "/"]


@given(st.lists(st.sampled_from(PIECES), max_size=4).map("".join))
def test_nothing_but_a_name_of_loopback_passes_for_one(header):
    passes = host_of(header) in LOOPBACK
    name = re.sub(r":[0-9]{1,5}$", "", header.lower())
    assert passes == (name in LOOPBACK)


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:8000",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"0.0.0.0",
        b"",
    ],
)
def test_fault_077_a_foreign_host_is_refused(raw, host):
    status, answer = raw(b"/", host=host)
    assert status == 400
    assert b"vit" not in answer


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:9", b"127.0.0.1:8000", b"[::1]", b"[::1]:8000"])
def test_fault_077_our_own_names_with_any_port_are_served(raw, host):
    assert raw(b"/a/tiny/index.html", host=host)[0] == 200


def test_fault_077_two_hosts_are_refused(raw):
    assert raw(b"/a/tiny", host=b"localhost\r\nHost: evil.example")[0] == 400


@pytest.mark.parametrize("path", ["/a/tiny", "/nowhere", "/static/viewer.css", "/api/tiny"])
def test_every_answer_carries_the_headers(client, path):
    headers = client.get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "access-control-allow-origin" not in headers


def test_a_refusal_carries_the_headers_too(client):
    answer = client.get("/", headers={"host": "evil.example"})
    assert answer.status_code == 400
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_fault_080_no_page_lets_itself_be_framed(client):
    headers = client.get("/a/tiny").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"


def test_the_policy_allows_no_inline_script_and_no_other_host():
    policy = HEADERS["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_fault_082_endless_addresses_are_refused_unread(client, raw):
    assert client.get("/a/tiny/go", params={"address": "x" * 10_000}).status_code == 414
    assert client.get("/a/tiny/unit/blocks.0.ffn/" + "9" * 5_000).status_code == 414
    hung_up = 0
    assert raw(b"/a/tiny/go?address=" + b"x" * 1_000_000)[0] in (400, 414, 431, hung_up)
