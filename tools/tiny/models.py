"""The networks of the tiny checkpoint, and how they are written as a folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tools.tiny.words import END, MAX_TOKENS, START, known_words, make_tokenizers

# Diffusers publishes no types, and its names are resolved lazily.
_DIFFUSERS: Any = diffusers

LATENT_SIDE = 16
SCALING = 0.13025
TEXT_WIDTH = 64
POOLED_WIDTH = 128
TIME_ID_WIDTH = 32


def make_vae() -> Any:
    """Return SDXL's autoencoder, narrow: 128 pixels to 16x16x4 latents."""
    return _DIFFUSERS.AutoencoderKL(
        block_out_channels=(16, 32, 48, 48),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=SCALING,
        sample_size=128,
        force_upcast=False,
    )


def make_text_encoders(tokenizer: Any) -> tuple[Any, Any]:
    """Return the two text encoders, both of the same small CLIP shape."""
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "projection_dim": POOLED_WIDTH,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.convert_tokens_to_ids(START),
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
    }
    encoder = CLIPTextModel(
        CLIPTextConfig(**common, pad_token_id=common["eos_token_id"])
    )
    encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**common, pad_token_id=0))
    for model in (encoder, encoder_2):
        embeddings: Any = model.get_input_embeddings()
        nn.init.normal_(embeddings.weight, std=0.08)
    return encoder, encoder_2


def make_unet(channels: tuple[int, ...], heads: int, cross: int, time_ids: int) -> Any:
    """Return a UNet of SDXL's kind.

    Args:
        channels: The width of each level.
        heads: Channels of one attention head.
        cross: Width of the text that it attends to.
        time_ids: How many numbers of micro-conditioning it takes.
    """
    return _DIFFUSERS.UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        block_out_channels=channels,
        down_block_types=(
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
        ),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 1),
        # Diffusers' name for it; what it takes is the number of heads.
        attention_head_dim=tuple(width // heads for width in channels),
        cross_attention_dim=cross,
        use_linear_projection=True,
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=time_ids * TIME_ID_WIDTH + POOLED_WIDTH,
    )


def make_base() -> Any:
    """Return the base UNet."""
    return make_unet((48, 64, 64), 16, 2 * TEXT_WIDTH, 6)


def make_refiner() -> Any:
    """Return the refiner UNet, which sees the second text encoder only."""
    return make_unet((32, 40, 40), 8, TEXT_WIDTH, 5)


def make_scheduler() -> Any:
    """Return SDXL's scheduler, for networks that predict v.

    ``clip_sample`` and ``set_alpha_to_one`` are not Euler's own: a DDIM scheduler
    made from this configuration would otherwise clip the latents.
    """
    scheduler = _DIFFUSERS.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
    )
    scheduler.register_to_config(clip_sample=False, set_alpha_to_one=False)
    return scheduler


@dataclass
class Networks:
    """All that the checkpoint is made of."""

    tokenizer: Any
    tokenizer_2: Any
    encoder: Any
    encoder_2: Any
    vae: Any
    base: Any
    refiner: Any


def make_networks(seed: int) -> Networks:
    """Return untrained networks, the same for the same seed."""
    tokenizer, tokenizer_2 = make_tokenizers()
    torch.manual_seed(seed)
    encoder, encoder_2 = make_text_encoders(tokenizer)
    return Networks(
        tokenizer, tokenizer_2, encoder, encoder_2,
        make_vae(), make_base(), make_refiner(),
    )  # fmt: skip


def write_checkpoint(networks: Networks, folder: Path) -> int:
    """Write the networks as diffusers folders in fp16 and return the size in bytes.

    The refiner's folder leaves out what it shares with the base. The whole is made
    beside ``folder`` and put in its place by renaming, so a reader finds the old one
    or the new one. The model card is carried over, and ``words.txt`` lists the words
    that the model knows.
    """
    base = _DIFFUSERS.StableDiffusionXLPipeline(
        networks.vae,
        networks.encoder,
        networks.encoder_2,
        networks.tokenizer,
        networks.tokenizer_2,
        networks.base,
        make_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    refiner = _DIFFUSERS.StableDiffusionXLImg2ImgPipeline(
        networks.vae,
        None,
        networks.encoder_2,
        None,
        networks.tokenizer_2,
        networks.refiner,
        make_scheduler(),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    new = folder.with_name(f".{folder.name}-new")
    old = folder.with_name(f".{folder.name}-old")
    for stale in (new, old):
        shutil.rmtree(stale, ignore_errors=True)
    base.to(torch.float16).save_pretrained(new)
    refiner.to(torch.float16).save_pretrained(new / "refiner")
    for shared in ("vae", "text_encoder_2", "tokenizer_2"):
        shutil.rmtree(new / "refiner" / shared)
    for path in new.rglob("*"):
        # Safetensors writes files that only their owner may read.
        path.chmod(0o755 if path.is_dir() else 0o644)
    (new / "words.txt").write_text("\n".join(known_words()) + "\n")
    card = folder / "MODEL_CARD.md"
    if card.is_file():
        shutil.copyfile(card, new / card.name)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
