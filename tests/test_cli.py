"""The command line: exit codes, one clear line for every mistake, JSON and nothing else, the defaults."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

import vitscope
from vitscope import cli
from vitscope.commands import console
from vitscope.notebook import printable


def building(source: object, out: object) -> list[str]:
    """The arguments that build a small atlas."""
    model = ["vitscope:vit_mini", str(source), "--weights", "random"]
    return ["build", *model, "--sites", "blocks.1.ffn", "--out", str(out)]


def run(*arguments: object, capsys) -> tuple[int, str, str]:
    code = cli._run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(12):
        image = Image.effect_noise((80, 70), 20 + 5 * index).convert("RGB")
        image.save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def atlas(photos, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("atlas") / "noise.atlas"
    assert cli._run([*building(f"folder:{photos}", path), "--json"]) == 0
    return path


@pytest.fixture(autouse=True)
def plain_streams(monkeypatch):
    """Rich keeps the stream it first met; pytest gives each test its own."""
    monkeypatch.setattr(console, "out", Console(width=200, markup=False, highlight=False))
    monkeypatch.setattr(console, "err", Console(stderr=True, width=200, markup=False, highlight=False))


def test_help_comes_quickly_and_without_torch():
    started = time.process_time()
    done = subprocess.run(
        [sys.executable, "-m", "vitscope", "--help"], capture_output=True, text=True, check=True
    )
    assert "A microscope for vision models" in done.stdout
    assert time.process_time() - started < 1


def test_every_command_says_what_it_does():
    for command in cli.app.registered_commands:
        assert inspect.getdoc(command.callback).endswith("."), command.callback.__name__


@pytest.mark.parametrize("verb", ["build", "compare", "dream", "export", "look", "serve"])
def test_defaults_are_the_librarys(verb):
    ours = inspect.signature(getattr(cli, verb)).parameters
    theirs = inspect.signature(getattr(vitscope, verb)).parameters
    shared = [name for name in ours if name in theirs and theirs[name].default is not inspect.Parameter.empty]
    assert shared
    for name in shared:
        assert str(ours[name].default) == str(theirs[name].default), name


def test_fault_054_no_arguments(capsys):
    code, out, _ = run(capsys=capsys)
    assert code == 2
    assert "Commands" in out


@pytest.mark.parametrize(
    "wrong", [("--k", "0"), ("--k", "abc"), ("--batch-size", "-3"), ("--dreams", "some"), ("--max-skip", "7")]
)
def test_fault_055_values_out_of_range(wrong, photos, tmp_path, capsys):
    code, out, err = run(
        "build", "vitscope:vit_mini", f"folder:{photos}", "--out", tmp_path / "a", *wrong, capsys=capsys
    )
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert wrong[0] in err
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has a GPU")
def test_fault_056_a_device_that_is_not_there(tmp_path, capsys):
    code, _, err = run(
        "dream", "vitscope:vit_mini", "logits:3", "--device", "cuda", "-o", tmp_path, capsys=capsys
    )
    assert code == 1
    assert "DeviceError" in err
    assert "auto" in err


def test_fault_057_an_atlas_made_with_other_settings(atlas, photos, capsys):
    code, _, err = run(*building(f"folder:{photos}", atlas), "--k", 4, capsys=capsys)
    assert code == 1
    assert "AtlasError" in err
    assert "k" in err
    assert "9" in err
    assert "4" in err


@pytest.mark.slow
def test_fault_058_an_interrupt_is_quiet_and_resumable(photos, tmp_path):
    """After the scan of a few pictures, which is soon done, and before the end of dreams, which take long."""
    command = [sys.executable, "-m", "vitscope", *building(f"folder:{photos}", "a"), "--dreams", "8"]
    child = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit "ignored"
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("a/parts/*")) and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "interrupted; run the same command again" in err
    assert "Traceback" not in err


def test_fault_059_the_reader_has_seen_enough():
    command = f"{sys.executable} -m vitscope recipes --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0


def test_fault_060_no_control_codes_outside_a_terminal(photos, tmp_path):
    command = [sys.executable, "-m", "vitscope", *building(f"folder:{photos}", tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "NO_COLOR": "1"}, check=True)
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"a" in done.stdout


def test_fault_061_an_output_that_cannot_be_written(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vitscope.models.load", lambda *_, **__: pytest.fail("the model was loaded first"))
    (tmp_path / "file").write_text("in the way")
    code, _, err = run(
        "build", "vitscope:vit_mini", f"folder:{photos}", "--out", tmp_path / "file" / "a", capsys=capsys
    )
    assert code == 2
    assert "NotWritable" in err


def test_sites_as_json(capsys):
    code, out, _ = run("sites", "vitscope:vit_mini", "--filter", "blocks.*.ffn", "--json", capsys=capsys)
    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows] == [f"blocks.{index}.ffn" for index in range(len(rows))]
    facts = {"name", "axes", "units", "grid", "prefix_tokens", "path", "function", "recomputed"}
    assert set(rows[0]) == facts
    assert (rows[0]["function"], rows[0]["recomputed"]) == (None, False)
    assert rows[0]["axes"] == "image token unit"
    assert (rows[0]["grid"], rows[0]["prefix_tokens"]) == ([8, 8], 1)


def test_dream_as_json(tmp_path, capsys):
    command = [
        "dream",
        "vitscope:vit_mini",
        "blocks.0.ffn:3",
        "blocks.0.ffn:4",
        "--recipe",
        "olah_2017:short",
    ]
    code, out, _ = run(*command, "--weights", "random", "-o", tmp_path, "--json", capsys=capsys)
    rows = json.loads(out)
    assert code == 0
    assert [set(row) for row in rows] == [{"address", "recipe", "seed", "score", "trust", "path"}] * 2
    for row in rows:
        with Image.open(row["path"]) as picture:
            assert picture.size == (64, 64)
        assert vitscope.explain(row["path"]).settings["address"] == row["address"]


def test_build_show_verify_and_explain_as_json(atlas, photos, capsys):
    code, out, _ = run(*building(f"folder:{photos}", atlas), "--json", capsys=capsys)
    built = json.loads(out)
    assert code == 0
    assert set(built) == {"atlas", "images", "skipped", "units", "dreams", "seconds"}
    assert (built["images"], built["skipped"], built["dreams"]) == (12, 0, 0)

    code, out, _ = run("show", atlas, "blocks.1.ffn:40", "--json", capsys=capsys)
    unit = json.loads(out)
    assert code == 0
    assert set(unit) == {"address", "status", "statistics", "exemplars", "dreams", "sampled"}
    assert [exemplar["rank"] for exemplar in unit["exemplars"]] == list(range(9))
    assert set(unit["exemplars"][0]) == {"rank", "image", "path", "value", "place"}

    code, out, _ = run("verify", atlas, "--json", capsys=capsys)
    assert (code, json.loads(out)["ok"], json.loads(out)["damaged"]) == (0, True, [])

    code, out, _ = run("explain", atlas, "--json", capsys=capsys)
    assert (code, json.loads(out)["model"]) == (0, "vitscope:vit_mini")


def test_verify_exits_1_on_damage(atlas, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(atlas, tmp_path / "copy.atlas")
    victim = next(copy.glob("sites/*/*.units.parquet"))
    victim.write_bytes(victim.read_bytes()[:-10])
    code, out, _ = run("verify", copy, "--json", capsys=capsys)
    assert code == 1
    assert json.loads(out)["damaged"]


def test_a_wrong_address_names_the_nearest(atlas, capsys):
    code, out, err = run("show", atlas, "block.1.ffn:40", capsys=capsys)
    assert (code, out) == (2, "")
    assert "Nearest: 'blocks.1.ffn'" in err


def test_doctor_finds_this_machine_sound(capsys):
    code, out, _ = run("doctor", "--json", capsys=capsys)
    assert code == 0
    assert json.loads(out)["ok"] is True


def test_models_are_found_by_part_of_a_name(capsys):
    code, out, _ = run("models", "vit_tiny_patch16_224", "--json", capsys=capsys)
    assert code == 0
    assert "timm:vit_tiny_patch16_224" in json.loads(out)


def test_names_with_control_characters_are_shown_and_not_obeyed():
    assert printable("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
