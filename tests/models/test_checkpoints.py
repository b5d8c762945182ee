"""Weights files: what fits is loaded, everything else is refused by name, and no code is run."""

import json
import pickle
import socket
import struct
import threading
import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vitscope.errors import MissingPath, NotCached, WeightsError
from vitscope.models import checkpoints, load


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def saved(path, state):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("half", [True, False])
def test_weights_go_in_as_float32(tmp_path, suffix, half):
    given = checkpoints.seeded(small, seed=7)
    if half:
        given.half()
    module = small()
    checkpoints.fill(module, saved(tmp_path / f"w{suffix}", given.state_dict()))
    for key, value in module.state_dict().items():
        assert torch.equal(value, given.state_dict()[key].to(value.dtype))
        assert value.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_the_checkpoint_of_a_training_script_is_understood(tmp_path, key):
    given = checkpoints.seeded(small, seed=7).state_dict()
    module = small()
    checkpoints.fill(module, saved(tmp_path / "w.pt", {key: given, "epoch": 3}))
    assert torch.equal(module.state_dict()["0.weight"], given["0.weight"])


def test_fault_045_a_pickle_that_wants_code_is_refused_and_not_run(tmp_path):
    path, proof = tmp_path / "evil.pt", tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(proof), "w"))

    torch.save({"0.weight": Evil()}, path)
    with pytest.raises(WeightsError, match=r"refused .*evil\.pt.*wants to run code, and was not executed"):
        checkpoints.fill(small(), path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match=r"evil\.pt"):
        checkpoints.fill(small(), path)
    assert not proof.exists()


def damaged(kind, whole):
    return {
        "truncated": whole[:-7],
        "header only": whole[:8],
        "huge header": struct.pack("<Q", 2**62) + whole[8:],
        "empty": b"",
        "bad json": whole[:8] + b"}" * struct.unpack("<Q", whole[:8])[0] + b"\0" * 64,
        "offsets": struct.pack("<Q", len(lie := json.dumps(LIE).encode())) + lie,
    }[kind]


LIE = {"0.weight": {"dtype": "F32", "shape": [4, 3, 3, 3], "data_offsets": [0, 1 << 40]}}


@pytest.mark.parametrize("kind", ["truncated", "header only", "huge header", "empty", "bad json", "offsets"])
def test_fault_046_a_damaged_safetensors_file_is_named(tmp_path, kind):
    whole = saved(tmp_path / "whole.safetensors", small().state_dict()).read_bytes()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(damaged(kind, whole))
    with pytest.raises(WeightsError, match=r"cannot read the weights .*bad\.safetensors: \S+"):
        checkpoints.fill(small(), path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 half a zip"])
def test_fault_046_a_damaged_pt_file_is_named(tmp_path, content):
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"bad\.pt"):
        checkpoints.fill(small(), path)


def test_a_file_without_named_tensors_is_refused(tmp_path):
    path = saved(tmp_path / "w.pt", [torch.zeros(2)])
    with pytest.raises(WeightsError, match=r"w\.pt holds list, not named tensors"):
        checkpoints.fill(small(), path)


def test_fault_047_keys_are_strict_and_the_first_ten_are_listed(tmp_path):
    state = {f"extra.{i:02}": torch.zeros(1) for i in range(12)}
    path = saved(tmp_path / "w.safetensors", state)
    with pytest.raises(WeightsError) as caught:
        checkpoints.fill(small(), path)
    message = str(caught.value)
    assert "does not fit Sequential: 7 missing (0.weight, 0.bias, 1.weight," in message
    assert "12 unexpected (extra.00, extra.01," in message
    assert "extra.09, ...)" in message
    assert "extra.10" not in message


def test_fault_047_other_shapes_are_listed(tmp_path):
    state = small().state_dict() | {"0.bias": torch.zeros(5)}
    path = saved(tmp_path / "w.safetensors", state)
    with pytest.raises(WeightsError, match=r"1 other shapes \(0\.bias \(5,\) for \(4,\)\)"):
        checkpoints.fill(small(), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_fault_048_weights_that_are_not_finite_stop_before_the_run(value):
    module = small()
    module[1].bias.data[2] = value
    with pytest.raises(WeightsError, match=r"Sequential are not finite: 1\.bias holds NaN or infinity"):
        load(module, sample=(8, 8), device="cpu")


def test_a_missing_file_says_what_weights_may_be(tmp_path):
    with pytest.raises(
        MissingPath, match=r"no weights file .*pretraind: weights are 'pretrained', 'random' or"
    ):
        checkpoints.fill(small(), tmp_path / "pretraind")


def test_random_weights_follow_the_seed_and_leave_the_global_generator():
    before = torch.get_rng_state()
    one, same, other = (checkpoints.seeded(small, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one[0].weight, same[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_fault_043_a_host_that_refuses_is_noticed(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(
        NotCached, match=r"weights of m are not on this machine, and a\.org does not answer.*FILE"
    ):
        checkpoints.require_online("https://a.org/x", wanted="m")


def test_fault_043_a_host_that_hangs_is_given_up_within_two_seconds(monkeypatch):
    released = threading.Event()

    def hang(*_, **__):
        released.wait(5)
        raise OSError("timed out")

    monkeypatch.setattr(socket, "create_connection", hang)
    start = time.monotonic()
    with pytest.raises(NotCached):
        checkpoints.require_online("https://a.org/x", wanted="m")
    assert time.monotonic() - start < 2
    released.set()


def test_a_host_that_answers_is_online_and_a_proxy_stands_for_it(monkeypatch):
    asked = []

    def answer(address, timeout):
        asked.append(address)
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", answer)
    monkeypatch.setattr(checkpoints, "getproxies", dict)
    checkpoints.require_online("https://a.org/x", wanted="m")
    monkeypatch.setattr(checkpoints, "getproxies", lambda: {"https": "http://proxy.org:3128"})
    checkpoints.require_online("https://a.org/x", wanted="m")
    assert asked == [("a.org", 443), ("proxy.org", 3128)]
