"""Finds the model that a name stands for, and downloads it. Imports no torch.

Nothing but ``pull`` ever uses the network: what is not on this machine is an error that
says how to get it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from nbgen.errors import CheckpointNotFound, InvalidRequest
from nbgen.schema.checks import SIZE_MULTIPLE

TINY_FOLDER = Path(__file__).parent / "tiny"
REFINER_SHARES = ("text_encoder_2", "tokenizer_2", "vae")
"""What a refiner may leave out, since it is the base's."""

_SINGLE_FILE_SIZE = (1024, 1024)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_UNSAFE = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
# Weights in 16 bit where there are any, and no other framework's.
_FILES = ("*.json", "*.txt", "*/*.json", "*/*.txt")


class HubModel(NamedTuple):
    """A folder on the model hub, at one revision.

    Attributes:
        repository: Its id, such as ``stabilityai/stable-diffusion-xl-base-1.0``.
        revision: A commit, so that the files never change; or a branch or tag.
        weights: Patterns of the files with the weights.
    """

    repository: str
    revision: str | None = None
    weights: tuple[str, ...] = ("*.safetensors", "*/*.safetensors")

    def folder(self) -> Path | None:
        """Return where it lies on this machine, or None if it is not here."""
        # Slow to import, and needed only by those who use the hub.
        import huggingface_hub

        try:
            found = huggingface_hub.snapshot_download(
                self.repository,
                revision=self.revision,
                allow_patterns=[*_FILES, *self.weights],
                local_files_only=True,
            )
        except (huggingface_hub.errors.LocalEntryNotFoundError, ValueError):
            return None
        return Path(found)

    def pull(self) -> Path:
        """Download what is missing, with a progress bar; return where it lies."""
        import huggingface_hub

        return Path(
            huggingface_hub.snapshot_download(
                self.repository,
                revision=self.revision,
                allow_patterns=[*_FILES, *self.weights],
            )
        )


SDXL_BASE = HubModel(
    "stabilityai/stable-diffusion-xl-base-1.0",
    "462165984030d82259a11f4367a4eed129e94a7b",
    (
        "unet/*.fp16.safetensors",
        "text_encoder/*.fp16.safetensors",
        "text_encoder_2/*.fp16.safetensors",
    ),
)
SDXL_REFINER = HubModel(
    "stabilityai/stable-diffusion-xl-refiner-1.0",
    "5d4cfe854c9a9a87939ff3653551c2b3c99a4356",
    ("unet/*.fp16.safetensors",),
)
SDXL_VAE = HubModel(
    # SDXL's own VAE overflows in float16; this one does not.
    "madebyollin/sdxl-vae-fp16-fix",
    "207b116dae70ace3637169f1ddd2434b91b3a8cd",
    ("diffusion_pytorch_model.safetensors",),
)
SDXL_PREVIEWS = HubModel("madebyollin/taesdxl")
SDXL_DOWNLOAD = "about 12 GB"
"""Base 5.1 + 1.6, refiner 4.5 and VAE 0.3 GB, in 16 bit."""


class Checkpoint(msgspec.Struct, frozen=True):
    """A model on this machine.

    Attributes:
        name: What it is called in a recipe; never a path.
        base: The folder of the base model in diffusers' layout, or a single
            ``.safetensors`` file.
        default_size: Width and height in pixels that the base was trained on.
        refiner: The folder of the refiner, or None. It may leave out what it shares
            with the base: ``text_encoder_2``, ``tokenizer_2`` and ``vae``.
        vae: The folder of a VAE to use instead of the base's, or None.
        previews: The folder of a TAESD for sharper previews, or None.
        words: The words that it knows, commonest first; None for all the world's.
    """

    name: str
    base: Path
    default_size: tuple[int, int]
    refiner: Path | None = None
    vae: Path | None = None
    previews: Path | None = None
    words: tuple[str, ...] | None = None

    def config_folder(self) -> Path | None:
        """Return the folder with its JSON files; None if that is not on this machine.

        A single file has the configuration of SDXL, which comes with SDXL's weights.
        """
        return SDXL_BASE.folder() if self.base.is_file() else self.base

    def weights_bytes(self) -> int:
        """Return the size of the weights on disk."""
        folders = [path for path in (self.base, self.refiner, self.vae) if path]
        # A set, since the refiner may lie inside the base's folder.
        files = {
            file
            for path in folders
            for file in ([path] if path.is_file() else path.rglob("*.safetensors"))
        }
        return sum(file.stat().st_size for file in files)


def find_checkpoint(name: str | Path, *, gpu: bool = False) -> Checkpoint:
    """Return the checkpoint that a name stands for.

    Args:
        name: ``"tiny"``, the one that nbgen ships; ``"sdxl"``, Stable Diffusion XL
            1.0 with its refiner and a VAE that is safe in 16 bit; ``"auto"``,
            ``"sdxl"`` if it is on this machine and there is a GPU, else ``"tiny"``;
            the path of a folder that ``save_pretrained`` wrote, with the refiner's in
            a folder ``refiner`` inside it; the path of a single ``.safetensors``
            file; or a model's id on the hub, with ``@revision`` behind it if wanted.
        gpu: Whether there is a GPU, for ``"auto"``.

    Raises:
        CheckpointNotFound: There is no such model here, or it is broken or unsafe;
            the message says what to do.
    """
    if name == "auto":
        sdxl = _find_sdxl() if gpu else None
        return sdxl or find_checkpoint("tiny")
    if name == "tiny":
        words = (TINY_FOLDER / "words.txt").read_text().split()
        return msgspec.structs.replace(
            _find_folder("tiny", TINY_FOLDER), words=tuple(words)
        )
    if name == "sdxl":
        found = _find_sdxl()
        if found is None:
            raise CheckpointNotFound(
                "The weights of SDXL are not on this machine. Download them "
                f"({SDXL_DOWNLOAD}) with: nbgen pull sdxl"
            )
        return found
    path = Path(name)
    if path.suffix.lower() in _UNSAFE:
        raise CheckpointNotFound(_unsafe(path.name))
    with contextlib.suppress(OSError):  # a name too long, or a place not to be seen
        if path.is_file():
            return _find_file(path)
        if path.is_dir():
            return _find_folder(path.absolute().name, path)
    if isinstance(name, str) and _HUB_ID.fullmatch(name):
        folder = _hub_model(name).folder()
        if folder is None:
            raise CheckpointNotFound(
                f"There is neither a folder {name!r} nor a model of that id on this "
                f"machine. Download it from the hub with: nbgen pull {name}"
            )
        return _find_folder(name, folder)
    raise CheckpointNotFound(
        f"There is no checkpoint {str(name)!r}. Use 'auto', 'tiny' or 'sdxl', the path "
        "of a folder in diffusers' layout (with a model_index.json) or of a "
        ".safetensors file, or a model's id on the hub."
    )


def pull(name: str) -> Path:
    """Download what is missing of a model from the hub, with progress bars.

    Args:
        name: ``"sdxl"``, or a model's id on the hub, with ``@revision`` if wanted.

    Returns:
        The folder of the (base) model.

    Raises:
        InvalidRequest: The name is neither.
        CheckpointNotFound: The hub cannot be reached, or has no such model.
    """
    if name != "sdxl" and not _HUB_ID.fullmatch(name):
        allowed = "'sdxl' or a model's id on the hub, such as 'owner/name@revision'"
        raise InvalidRequest("name", name, allowed)
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        if name != "sdxl":
            return _hub_model(name).pull()
        folder = SDXL_BASE.pull()
        SDXL_REFINER.pull()
        SDXL_VAE.pull()
        # Good to have, and not worth a failure.
        with contextlib.suppress(Exception):
            SDXL_PREVIEWS.pull()
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise CheckpointNotFound(
            f"The hub has no model {name!r} for you. Check its name and revision; if "
            "it is private or gated, ask for access there and run hf auth login."
        ) from error
    except Exception as error:  # the HTTP library's own errors share no other base
        raise CheckpointNotFound(
            f"{name} could not be downloaded: {_first_line(error)}. Check the network "
            f"and run nbgen pull {name} again; files that are whole are kept."
        ) from error
    return folder


def _hub_model(name: str) -> HubModel:
    repository, _, revision = name.partition("@")
    return HubModel(repository, revision or None)


def _find_sdxl() -> Checkpoint | None:
    base, refiner, vae = SDXL_BASE.folder(), SDXL_REFINER.folder(), SDXL_VAE.folder()
    if base is None or refiner is None or vae is None:
        return None
    found = msgspec.structs.replace(
        _find_folder("sdxl", base, brought=("vae",)),
        refiner=refiner,
        vae=vae,
        previews=SDXL_PREVIEWS.folder(),
    )
    _check_weights("sdxl", refiner, brought=REFINER_SHARES)
    return found


def _find_file(path: Path) -> Checkpoint:
    if path.suffix.lower() != ".safetensors":
        raise CheckpointNotFound(
            f"The file {path.name!r} is not a checkpoint: a single file must be in "
            "the safetensors format."
        )
    return Checkpoint(path.name, path, _SINGLE_FILE_SIZE)


def _find_folder(
    name: str, folder: Path, *, brought: tuple[str, ...] = ()
) -> Checkpoint:
    _check_weights(name, folder, brought=brought)
    refiner = folder / "refiner"
    if refiner.is_dir():
        _check_weights(f"{name}/refiner", refiner, brought=REFINER_SHARES)
    try:
        unet = json.loads((folder / "unet" / "config.json").read_text())
        side = int(unet["sample_size"]) * SIZE_MULTIPLE
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointNotFound(
            f"The checkpoint {name!r} is broken: unet/config.json cannot be "
            f"read ({error}). Save or copy it again."
        ) from error
    return Checkpoint(name, folder, (side, side), refiner if refiner.is_dir() else None)


def _check_weights(name: str, folder: Path, *, brought: tuple[str, ...]) -> None:
    """Raise unless each part of a pipeline has weights that are safe to load.

    Args:
        name: What the checkpoint is called.
        folder: Where ``model_index.json`` should lie.
        brought: Parts that come from elsewhere.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except OSError:
        raise CheckpointNotFound(
            f"The folder {name!r} is not a checkpoint: it has no model_index.json. "
            "Save one with StableDiffusionXLPipeline.save_pretrained(folder)."
        ) from None
    except ValueError as error:
        raise CheckpointNotFound(
            f"The checkpoint {name!r} is broken: model_index.json cannot be read "
            f"({error}). Save or copy it again."
        ) from error
    if not isinstance(index, dict) or not index.keys() >= {"unet", "text_encoder_2"}:
        raise CheckpointNotFound(
            f"The folder {name!r} holds no SDXL model: its model_index.json names no "
            "unet or no text_encoder_2. nbgen draws with models of SDXL's kind only."
        )
    for part in _parts_with_weights(index):
        held = folder / part
        if part in brought or any(held.glob("*.safetensors")):
            continue
        unsafe = [file for file in held.glob("*") if file.suffix in _UNSAFE]
        if unsafe:
            raise CheckpointNotFound(_unsafe(f"{name}/{part}/{unsafe[0].name}"))
        raise CheckpointNotFound(
            f"The checkpoint {name!r} is not whole: {part} has no .safetensors file. "
            "Save, copy or pull it again."
        )


def _parts_with_weights(index: dict[str, object]) -> Iterator[str]:
    for part, kind in index.items():
        if part in ("unet", "vae", "text_encoder", "text_encoder_2") and (
            isinstance(kind, list) and kind[:1] != [None]
        ):
            yield part


def _unsafe(name: str) -> str:
    return (
        f"{name!r} is refused: a pickle file can run any program when it is loaded. "
        "Get the model as .safetensors, or convert it where that is safe."
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
