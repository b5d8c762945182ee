"""The grammar of addresses: what is accepted is printed back unchanged, the rest is refused with a caret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitscope.address import Address
from vitscope.errors import BadAddress

ACCEPTED = {
    "blocks.6.ffn:412": Address("blocks.6.ffn", 412),
    "blocks.6.ffn": Address("blocks.6.ffn"),
    "layer4.2.relu~3:17@7,9": Address("layer4.2.relu~3", 17, "7,9"),
    "blocks.11:0@cls": Address("blocks.11", 0, "cls"),
    "visual.resblocks.3.mlp.gelu:1000@center": Address("visual.resblocks.3.mlp.gelu", 1000, "center"),
    "logits:207": Address("logits", 207),
    "0.1:3": Address("0.1", 3),
    "encoder.layer.3.output:5@42": Address("encoder.layer.3.output", 5, "42"),
    "blocks.6.attn@cls": Address("blocks.6.attn", None, "cls"),
}
REFUSED = [
    "", ":3", "blocks.6:", "blocks.6:-1", "blocks..6:1", "blocks.6:1@", "blocks.6:1@7,", "blocks.6:1 ",
    "blocks/6:1", "layer4.2.relu~0:1", "a~1~2:3", "blocks.6:1:2", "blocks.6@1:2", "blocks.6:x",
]  # fmt: skip


@pytest.mark.parametrize(("text", "address"), ACCEPTED.items())
def test_parsing_and_printing_are_inverse(text, address):
    assert Address.parse(text) == address
    assert str(address) == text
    assert Address.parse(address) is address


@pytest.mark.parametrize("text", REFUSED)
def test_other_text_is_refused(text):
    with pytest.raises(BadAddress, match="not an address"):
        Address.parse(text)


def test_the_caret_stands_under_the_first_wrong_character():
    with pytest.raises(BadAddress) as caught:
        Address.parse("blocks.6:x")
    first, second = str(caught.value).splitlines()
    assert first[second.index("^")] == ":"


names = st.lists(st.from_regex(r"[a-z0-9_]{1,6}", fullmatch=True), min_size=1, max_size=4).map(".".join)
places = st.one_of(st.none(), st.sampled_from(["cls", "center"]), st.integers(0, 99).map(str))


@given(names, st.none() | st.integers(0, 10**6), places)
def test_every_address_survives_printing(site, unit, place):
    address = Address(site, unit, place)
    assert Address.parse(str(address)) == address


def test_addresses_sort_as_people_count():
    texts = ["blocks.10:3", "blocks.2:11", "blocks.2:9", "blocks.2", "blocks.2.ffn:1"]
    ordered = sorted(map(Address.parse, texts), key=lambda address: address.sort_key)
    assert [str(address) for address in ordered] == [
        "blocks.2",
        "blocks.2:9",
        "blocks.2:11",
        "blocks.2.ffn:1",
        "blocks.10:3",
    ]
