"""A `HookedEncoder` in a folder: weights, configuration and tokenizer, whatever the widths of its layers.

Hugging Face's layout has one MLP width for all layers; this one holds what pruning makes as well. Knows names and
shapes, no modules of ours. Costs one copy of the weights.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from skillneurons.models.config import EncoderConfig
from skillneurons.models.tokenization import read_tokenizer
from skillneurons.utilities import store
from skillneurons.utilities.types import Library, Tokenizer

KIND = "HookedEncoder"
STEM = "encoder"
UNUSED = "unused:"
# Where the weights and the tokenizer lie belongs to the machine, and what is looked at to a session.
LEFT_OUT = ("device", "tokenizer_name", "use_attn_in", "use_attn_result", "use_hook_mlp_in", "use_split_qkv_input")


def is_saved_encoder(name_or_path: str | Path) -> bool:
    """Whether this is a folder that `write_encoder` wrote."""
    return (Path(name_or_path) / f"{STEM}.json").is_file()


def write_encoder(
    folder: str | Path,
    cfg: EncoderConfig,
    weights: Mapping[str, Tensor],
    unused: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
) -> Path:
    """Write `encoder.safetensors`, `encoder.json` and the tokenizer's files; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    settings = {f.name: getattr(cfg, f.name) for f in fields(cfg) if f.name not in LEFT_OUT}
    settings["dtype"] = str(cfg.dtype).removeprefix("torch.")
    # A folder of the machine that the checkpoint was read on would mean nothing elsewhere.
    settings["hf_config"] = {key: value for key, value in cfg.hf_config.items() if key != "_name_or_path"}
    tensors = dict(weights) | {UNUSED + name: tensor for name, tensor in unused.items()}
    store.save(folder / STEM, KIND, tensors, {"cfg": settings, "tokenizer": tokenizer is not None})
    return folder


def read_encoder(folder: str | Path) -> tuple[EncoderConfig, dict[str, Tensor], dict[str, Tensor], Tokenizer | None]:
    """Configuration, weights, weights without a use, and tokenizer of a folder that `write_encoder` wrote.

    Raises:
        StoreError: The files are damaged, do not belong together, or hold something else.
    """
    folder = Path(folder)
    tensors, meta = store.load(folder / STEM, KIND)
    settings = meta["cfg"]
    if unknown := sorted(set(settings) - {f.name for f in fields(EncoderConfig)}):
        raise store.StoreError(
            f"{folder / STEM}.json describes an encoder with {unknown[0]!r}, which this release does not know. "
            "Install the release that wrote it, named under 'versions' there, or a later one."
        )
    # JSON has no tuples.
    settings: Library = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    settings |= {"dtype": getattr(torch, settings["dtype"]), "device": "cpu"}
    cfg = EncoderConfig(**settings)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED)}
    unused = {name.removeprefix(UNUSED): tensor for name, tensor in tensors.items() if name.startswith(UNUSED)}
    tokenizer = read_tokenizer(str(folder), None, cfg.pad_token_id) if meta["tokenizer"] else None
    return cfg, weights, unused, tokenizer
