"""``nbgen pull``, run as a person runs it, against a hub on this machine."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbgen.generation.checkpoints import SDXL_BASE, SDXL_REFINER, SDXL_VAE, TINY_FOLDER
from tests.generation.hub import COMMIT, Hub

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """Return a running hub with one model, which may be changed."""
    model = shutil.copytree(TINY_FOLDER, tmp_path / "model")
    with Hub({"owner/name": model}) as hub:
        yield hub


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a person who has downloaded nothing yet."""
    return {
        **os.environ,
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "NO_PROXY": "127.0.0.1",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
    }


def nbgen(
    environment: dict[str, str], *arguments: str, **options: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nbgen", *arguments],
        env={**environment, **options},
        capture_output=True,
        text=True,
        timeout=100,
    )


def downloads(hub: Hub) -> list[str]:
    """Return the files whose bodies were asked for, and from where on."""
    return [
        asked.split("/", 5)[-1]
        for asked in hub.requests
        if asked.startswith("GET ") and "/resolve/" in asked
    ]


def test_a_model_is_downloaded_once_and_said_to_lie_where_it_does(
    hub: Hub, environment: dict[str, str]
) -> None:
    (hub.models["owner/name"] / "unet" / "pickled.bin").touch()
    done = nbgen(environment, "pull", "owner/name")
    assert done.returncode == 0
    found = re.search(r"^owner/name is in (.+)$", done.stdout, re.MULTILINE)
    assert found is not None
    assert "Use it with: nbgen generate … --checkpoint owner/name" in done.stdout
    folder = Path(found[1])
    assert (folder / UNET).read_bytes() == (TINY_FOLDER / UNET).read_bytes()
    assert not (folder / "unet" / "pickled.bin").exists()
    assert UNET in downloads(hub)
    hub.requests.clear()
    again = nbgen(environment, "pull", "owner/name@v1")
    assert (again.returncode, downloads(hub)) == (0, [])


def test_a_bar_shows_how_far_it_is(hub: Hub, environment: dict[str, str]) -> None:
    """On a terminal, which is where bars are shown."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (25, 100))
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-m", "nbgen", "pull", "owner/name"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # of a terminal that nobody writes to
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
    assert process.returncode == 0
    wanted = [path for path in hub.models["owner/name"].rglob("*") if path.is_file()]
    wanted = [path for path in wanted if path.suffix != ".md"]
    assert f"Fetching {len(wanted)} files: 100%".encode() in shown


def test_a_cut_connection_is_taken_up_where_it_broke(
    hub: Hub, environment: dict[str, str]
) -> None:
    # The library writes 10 MiB at a time.
    written = 10 * 2**20
    body = bytes(range(256)) * (11 * 2**20 // 256)
    (hub.models["owner/name"] / UNET).write_bytes(body)
    hub.break_after = {UNET: written + 1000}
    done = nbgen(environment, "pull", "owner/name")
    assert done.returncode == 0
    assert downloads(hub)[-1] == f"{UNET} bytes={written}-"
    folder = find_folder(environment)
    assert (folder / UNET).read_bytes() == body


def test_a_download_that_fails_is_said_and_goes_on_later(
    hub: Hub, environment: dict[str, str]
) -> None:
    body = bytes(11 * 2**20)
    (hub.models["owner/name"] / UNET).write_bytes(body)
    hub.break_after, hub.refuse_ranges = {UNET: 10 * 2**20 + 1}, True
    failed = nbgen(environment, "pull", "owner/name")
    assert failed.returncode == 1
    [said] = [line for line in failed.stderr.splitlines() if line.startswith("Error")]
    assert "owner/name could not be downloaded: Server error" in said
    assert "run nbgen pull owner/name again; files that are whole are kept." in said
    # Half a model is none.
    refused = nbgen(environment, "generate", "a cat", "--checkpoint", "owner/name")
    assert "with: nbgen pull owner/name" in refused.stderr
    hub.refuse_ranges = False
    hub.requests.clear()
    assert nbgen(environment, "pull", "owner/name").returncode == 0
    assert UNET in downloads(hub)
    assert "vae/diffusion_pytorch_model.safetensors" not in downloads(hub)
    assert (find_folder(environment) / UNET).read_bytes() == body


def find_folder(environment: dict[str, str]) -> Path:
    held = Path(environment["HF_HOME"]) / "hub" / "models--owner--name"
    return held / "snapshots" / COMMIT


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("owner/other", {}, "The hub has no model 'owner/other' for you. Check its"),
        ("owner/name@v2", {}, "The hub has no model 'owner/name@v2' for you."),
        (
            "owner/name",
            {"HF_ENDPOINT": "http://127.0.0.1:1"},
            "Connection refused. Check the network and run nbgen pull owner/name",
        ),
        ("sdxl", {"HF_HUB_OFFLINE": "1"}, "sdxl could not be downloaded: "),
        ("a--b/c..d", {}, "a--b/c..d could not be downloaded: "),
    ],
)
def test_what_cannot_be_downloaded_says_what_to_do(
    hub: Hub,
    environment: dict[str, str],
    name: str,
    options: dict[str, str],
    said: str,
) -> None:
    done = nbgen(environment, "pull", name, **options)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert downloads(hub) == []


def test_a_model_of_another_kind_is_said(hub: Hub, environment: dict[str, str]) -> None:
    (hub.models["owner/name"] / "model_index.json").unlink()
    done = nbgen(environment, "pull", "owner/name")
    assert (done.returncode, "has no model_index.json" in done.stderr) == (1, True)


def test_sdxl_is_pulled_in_16_bit_and_without_what_it_does_not_need(
    hub: Hub, environment: dict[str, str], tmp_path: Path
) -> None:
    base = shutil.copytree(TINY_FOLDER, tmp_path / "base")
    refiner = Path(shutil.move(base / "refiner", tmp_path / "refiner"))
    for folder in (base, refiner):
        for weights in folder.rglob("*.safetensors"):
            shutil.copy(weights, weights.with_suffix(".fp16.safetensors"))
    (base / "sd_xl_base_1.0.safetensors").touch()
    hub.models = {
        SDXL_BASE.repository: base,
        SDXL_REFINER.repository: refiner,
        SDXL_VAE.repository: TINY_FOLDER / "vae",
    }
    done = nbgen(environment, "pull", "sdxl")  # and there are no previews
    assert done.returncode == 0
    fetched = [path for path in downloads(hub) if path.endswith(".safetensors")]
    assert sorted(fetched) == [
        "diffusion_pytorch_model.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ]
