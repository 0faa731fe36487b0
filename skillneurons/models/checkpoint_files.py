"""A checkpoint's files: what Hugging Face makes of them, and what is wrong with them in one line.

Every weight of the file must have a place in the model, or be known to be of no use: what was left out without a word
would make another model of it.
"""

import json
import re
import warnings
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import transformers
from transformers import AutoConfig, PreTrainedModel
from transformers.activations import ACT2FN

from skillneurons.models.architectures import Architecture
from skillneurons.models.conversion_check import wrapped_in
from skillneurons.utilities.types import Library

# How a file begins that Git LFS has left its pointer in.
LFS = b"version https://git-lfs"
# Weights that no masked-language model has a use for: buffers, poolers, the head that tells whether sentences follow.
HARMLESS = re.compile(r"(position|token_type)_ids$|(^|\.)pooler\.|seq_relationship\.")
HEAD = re.compile(
    r"(lm_head|cls|vocab_\w+|generator_\w+|decoder|classifier|pre_classifier|qa_outputs|score|.*head|.*predictions)\b"
)
LAYER = re.compile(r"(?:^|\.)(?:(?:encoder|transformer)\.layer|(?:^|model\.)layers)\.(\d+)\.")
ENCODER = re.compile(r"(?:^|\.)(embeddings(?:_project)?|encoder|transformer|layers|final_norm)\.")
ADAPTER_FILE = "adapter_config.json"


def short(error: Exception, width: int = 200) -> str:
    """The first line of a library's message that says something, cut."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def read_config(name_or_path: str | Path, *, revision: str | None) -> tuple[Library, str]:
    """A checkpoint's configuration, and where Hugging Face finds it.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged or incomplete, or asks for remote code.
    """
    bundled = str(name_or_path) == "bundled"
    location = str(files("skillneurons") / "bundled" / "model") if bundled else str(name_or_path)
    _check_folder(Path(location))
    try:
        config = AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=False)
    except Exception as error:  # whatever transformers makes of a file that anybody may have written
        if "trust_remote_code" in str(error):
            raise ValueError(_remote_code(location)) from error
        if (Path(location) / "config.json").is_file():
            raise ValueError(
                f"The config.json in {location!r} is none that transformers {transformers.__version__} reads: "
                f"{short(error)}"
            ) from error
        raise FileNotFoundError(
            f"No checkpoint at {location!r}: it is neither a folder with a config.json nor a model of the hub. "
            "Pass 'bundled', a folder, or a hub id like 'FacebookAI/roberta-base' (needs a network or a local cache)."
        ) from error
    if getattr(config, "auto_map", None):
        raise ValueError(_remote_code(location))
    return config, location


def check_config(hf: Library, what: str, known: Architecture) -> None:
    """Raise where a configuration lacks what an encoder is made by.

    Args:
        hf: Hugging Face's configuration.
        what: Whose it is: the message's first words.
        known: What it calls the settings that it does not call as BERT does.

    Raises:
        ValueError: No padding token, an unknown activation function, or sizes that are none.
    """
    if not isinstance(hf.pad_token_id, int):
        raise ValueError(
            f"{what} needs a `pad_token_id`, by which padding is told from words, but its configuration has "
            f"{hf.pad_token_id!r}. Set it in config.json: 1 for RoBERTa and MPNet, 0 for BERT, as a rule."
        )
    settings = known.settings
    act_fn = known.act_fn or known.setting(hf, "hidden_act")
    if not isinstance(act_fn, str) or act_fn not in ACT2FN:
        raise ValueError(
            f"{what} has the activation function {act_fn!r} (`{settings.get('hidden_act', 'hidden_act')}`), which "
            "transformers does not know. It knows 'gelu', 'relu', 'gelu_new', 'silu' and others by name."
        )
    names = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size")
    narrow = ("embedding_size",) if known.projection else ()
    for name in (settings.get(name, name) for name in (*names, "max_position_embeddings", *narrow)):
        size = getattr(hf, name, None)
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{what} needs `{name}` to be 1 or more, but its configuration has {size!r}.")
    if hf.hidden_size % hf.num_attention_heads:
        raise ValueError(
            f"{what} needs a `hidden_size` that its heads share evenly, but its configuration has {hf.hidden_size} for "
            f"{hf.num_attention_heads} (`num_attention_heads`)."
        )


def read_weights(
    location: str, revision: str | None, hf_class: str
) -> tuple[PreTrainedModel, Sequence[str], Sequence[str]]:
    """The model as one of this class, the weights that the checkpoint lacks for it, and those it has no place for.

    A pooler that the checkpoint lacks is no part of a headless model.

    Raises:
        FileNotFoundError: There are no weights.
        ValueError: They are damaged, of other sizes than the configuration's, or of an adapter.
    """
    model_class = getattr(transformers, hf_class)
    try:
        model, info = model_class.from_pretrained(
            location, revision=revision, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except OSError as error:
        raise FileNotFoundError(f"No weights of a {hf_class} can be read at {location!r}: {short(error)}") from error
    except Exception as error:  # damaged files end in errors of safetensors, pickle, zip and others
        raise ValueError(
            f"The weights at {location!r} are damaged, or none of a {hf_class}: {short(error)} Copy or download them "
            "again."
        ) from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(_adapter(location))
    if other := sorted(info["mismatched_keys"]):
        name, in_file, in_model = other[0]
        raise ValueError(
            f"{len(other)} weights at {location!r} have other sizes than its config.json says: {name!r} is "
            f"{tuple(in_file)} and should be {tuple(in_model)}. Put the configuration that belongs to them beside them."
        )
    missing = {name for name in info["missing_keys"] if "position_ids" not in name}
    if hf_class.endswith("Model") and getattr(model, "pooler", None) is not None:
        pooler = {f"pooler.{name}" for name, _ in model.pooler.named_parameters()}
        if pooler <= missing:
            model.pooler, missing = None, missing - pooler
    return model, sorted(missing), sorted(info["unexpected_keys"])


def check_without_place(location: str, hf_class: str, names: Iterable[str], n_layers: int) -> None:
    """Refuse or name the weights of a checkpoint that the model it is read as has no place for.

    Args:
        location: Of the checkpoint.
        hf_class: What it is read as.
        names: Of the weights.
        n_layers: That the configuration says.

    Raises:
        ValueError: They are layers, a head, an adapter or other parts of the encoder: the model would be another.
    """
    names = [name for name in names if not HARMLESS.search(name)]
    if not names:
        return
    if found := wrapped_in(names):
        raise ValueError(
            f"{location!r} is read as a {hf_class}, but its weights are those of a model with {found[0]}, "
            f"{names[0]!r} among them. Merge or remove it, and save the model again."
        )
    layers = [int(match[1]) for name in names if (match := LAYER.search(name))]
    if beyond := [layer for layer in layers if layer >= n_layers]:
        raise ValueError(
            f"{location!r} has weights of {max(beyond) + 1} layers, but its config.json says {n_layers} "
            "(`num_hidden_layers`). Put the configuration that belongs to them beside them."
        )
    inside = [name for name in names if ENCODER.search(name)]
    if inside:
        raise ValueError(
            f"{location!r} is read as a {hf_class}, which has no place for {len(inside)} weights of its encoder, "
            f"{inside[0]!r} among them: without them it would be another model. Name its own class in config.json "
            "(`architectures`)."
        )
    heads = [name for name in names if HEAD.match(name)]
    if heads:
        raise ValueError(
            f"{location!r} is read as a {hf_class}, as its config.json says, but has {len(heads)} weights of a head "
            f"that this class is without, {heads[0]!r} among them. Name the class with this head in config.json "
            "(`architectures`), or save the model without it."
        )
    warnings.warn(
        f"{location!r} is read as a {hf_class}, which has no use for {len(names)} of its weights: "
        f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}.",
        stacklevel=4,
    )


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose files are pointers, whose configuration is no table, or that holds an adapter."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(LFS):
            raise ValueError(
                f"{str(path)!r} is a pointer of Git LFS, not the file itself. Run `git lfs pull` in its folder, or "
                "download it again."
            )
    if (folder / ADAPTER_FILE).is_file():
        raise ValueError(_adapter(str(folder)))
    path = folder / "config.json"
    if path.is_file():
        try:
            table = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{str(path)!r} is damaged: it is not JSON ({short(error)}).") from error
        if not isinstance(table, dict):
            raise ValueError(f"{str(path)!r} needs to hold a table of settings, but holds a {type(table).__name__}.")


def _adapter(location: str) -> str:
    return (
        f"{location!r} holds an adapter ({ADAPTER_FILE}), which would be loaded or left out without a word. Merge it "
        "into the model (`merge_and_unload`), or pass a folder with the model alone; `load_peft` reads prompts."
    )


def _remote_code(location: str) -> str:
    return (
        f"{location!r} asks to run code of its own, which is never done here. Use a checkpoint of an architecture that "
        "transformers carries."
    )
