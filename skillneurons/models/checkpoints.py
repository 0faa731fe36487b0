"""Hugging Face checkpoints to and from a `HookedEncoder`'s configuration and weights.

Knows names and shapes, no modules of ours: `convert` and `export` are each other's inverse. Costs one copy of the
weights.
"""

import inspect
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from skillneurons.models.architectures import ARCHITECTURES, HEADS, IMPLIED, UNTIED_BIAS, Architecture, what_is_taken
from skillneurons.models.checkpoint_files import check_config, check_without_place, read_config, read_weights
from skillneurons.models.config import N_BUCKETS, EncoderConfig
from skillneurons.models.conversion_check import check_names
from skillneurons.models.tokenization import read_tokenizer
from skillneurons.utilities.types import Json, Library, Tokenizer


def weight_names(cfg: EncoderConfig) -> dict[str, str]:
    """Our parameter name -> Hugging Face's, for every parameter a model of this configuration has."""
    known = ARCHITECTURES[cfg.hf_class]
    shared = dict(known.encoder)
    if cfg.d_embed != cfg.d_model:
        shared["embed.project"] = str(known.projection)
    has = {
        "embed.ln": cfg.embed_norm,
        "distances.ln": cfg.distance_norm,
        "distances.rows.weight": bool(cfg.disentangled),
    }
    has |= {"embed.position.weight": cfg.absolute_positions, "embed.token_type.weight": bool(cfg.d_token_types)}
    shared = {ours: theirs for ours, theirs in shared.items() if has.get(ours, True)}
    table = {ours: known.prefix + theirs for ours, theirs in shared.items()}
    for layer in range(cfg.n_layers):
        inside = f"{known.prefix}{known.layers}.{layer}"
        table |= {f"blocks.{layer}.{ours}": f"{inside}.{theirs}" for ours, theirs in known.block.items()}
    if known.head is not None:
        table |= known.head if cfg.hf_config.get("legacy", True) else known.not_legacy or known.head
        if cfg.tied_embeddings:
            table.pop("read_out.weight", None)
        else:
            if not known.keeps_bias:
                table["read_out.bias"] = UNTIED_BIAS.get(table["read_out.bias"], table["read_out.bias"])
    if not cfg.first_norm:
        del table["blocks.0.ln1"]
    own = () if cfg.shared_projections else cfg.disentangled
    for kind, name in (("c2p", "key"), ("p2c", "query")):
        if kind not in own:
            table = {ours: theirs for ours, theirs in table.items() if f"disentangled.{name}" not in ours}
    names = {}
    for ours, theirs in table.items():
        if ours.endswith(("weight", "bias")):
            names[ours] = theirs
        else:
            names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}
    return names


def read_checkpoint(name_or_path: str | Path, *, revision: str | None) -> tuple[PreTrainedModel, Tokenizer | None, str]:
    """The Hugging Face model, its tokenizer and its name, of the bundled model, a folder or a hub id."""
    config, location = read_config(name_or_path, revision=revision)
    named = (getattr(config, "architectures", None) or ["(none)"])[0]
    if named not in ARCHITECTURES:
        raise ValueError(
            f"{location!r} holds a {named}. {what_is_taken(named)} `load_model` makes a TransformerBridge of language "
            "models that only it takes, GPT-2 and T5 among them."
        )
    check_config(config, f"{location!r}, a {named},", ARCHITECTURES[named])
    read_as = named
    model, missing, without_place = read_weights(location, revision, named)
    headless = ARCHITECTURES[named].headless
    head = {name for name, _ in model.named_parameters() if name.startswith(HEADS) and name not in IMPLIED}
    if head and head <= set(missing) and all(name.startswith(HEADS) for name in missing):
        # Many sentence encoders name the class that they were pretrained as.
        warnings.warn(
            f"{location!r} says it is a {named} but has no weights of its head. It is read as a {headless}: logits "
            "are the final residual times the word embeddings (`cfg.read_out` is 'tied').",
            stacklevel=3,
        )
        read_as = headless
        model, missing, without_place = read_weights(location, revision, headless)
    check_without_place(location, read_as, without_place, config.num_hidden_layers)
    if missing:
        raise ValueError(
            f"{location!r} says it is a {named} but lacks {len(missing)} of its weights, {missing[0]!r} among them."
        )
    return model, read_tokenizer(location, revision, config.pad_token_id), str(name_or_path)


def convert(hf_model: PreTrainedModel) -> tuple[EncoderConfig, dict[str, Tensor], dict[str, Tensor]]:
    """Configuration, weights under our names, and the weights a `HookedEncoder` has no use for (a pooler, say)."""
    hf_class, hf = type(hf_model).__name__, hf_model.config
    if hf_class not in ARCHITECTURES:
        raise ValueError(f"`hf_model` is a {hf_class}. {what_is_taken(hf_class)}")
    if getattr(hf, "position_embedding_type", None) not in (None, "absolute"):
        raise ValueError(f"Positions must be absolute, but this model's are {hf.position_embedding_type!r}.")
    if getattr(hf, "is_decoder", False):
        raise ValueError("`hf_model` is configured as a decoder (`is_decoder=True`); a HookedEncoder is not causal.")
    known = ARCHITECTURES[hf_class]
    check_config(hf, f"`hf_model`, a {hf_class},", known)
    _check_parts(hf, hf_class)
    offset = hf.pad_token_id + 1 if known.counts_from_padding else 0
    has_head = known.head is not None
    relative = "relative_bias.weight" in known.encoder
    if relative:
        _check_mpnet(hf)
    shape: Library = {"head_act_fn": known.head_act_fn} | known.shape(hf) | ({} if has_head else {"head_act_fn": None})
    cfg = EncoderConfig(
        d_model=hf.hidden_size,
        d_embed=hf.embedding_size if known.projection else hf.hidden_size,
        d_head=hf.hidden_size // hf.num_attention_heads,
        n_heads=hf.num_attention_heads,
        n_layers=hf.num_hidden_layers,
        n_ctx=hf.max_position_embeddings - offset,
        d_mlp=known.setting(hf, "intermediate_size"),
        d_vocab=hf.vocab_size,
        d_token_types=hf.type_vocab_size if "embed.token_type.weight" in known.encoder else 0,
        relative_positions=relative,
        pad_token_id=hf.pad_token_id,
        position_offset=offset,
        eps=known.eps or known.setting(hf, "layer_norm_eps"),
        act_fn=known.act_fn or known.setting(hf, "hidden_act"),
        dtype=hf_model.dtype,
        device=str(hf_model.device),
        read_out="mlm" if has_head else "tied",
        tied_embeddings=bool(hf.tie_word_embeddings) or not has_head or not getattr(hf, "legacy", True),
        source=hf.name_or_path or "in-memory model",
        revision=getattr(hf, "_commit_hash", None),
        hf_class=hf_class,
        hf_config=hf.to_dict(),
        **shape,
    )
    state = hf_model.state_dict()
    names = weight_names(cfg)
    left_out = _left_out(known, hf.to_dict(), names.values())
    check_names(hf_class, [name for name in names.values() if name not in left_out], state)
    weights = _split(names, state, cfg)
    bad = [names[name] for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise ValueError(f"The checkpoint has weights that are NaN or infinite: {', '.join(bad[:3])}.")
    unused = {k: v.clone() for k, v in state.items() if k not in set(names.values()) | IMPLIED}
    return cfg, weights, unused


def _left_out(known: Architecture, hf_config: Mapping[str, Json], names: Iterable[str]) -> set[str]:
    """Those of Hugging Face's names that a configuration leaves out."""
    patterns = [pattern for setting, pattern in known.biases.items() if not hf_config.get(setting)]
    return {name for name in names if any(re.search(pattern, name) for pattern in patterns)}


def _split(names: Mapping[str, str], state: Mapping[str, Tensor], cfg: EncoderConfig) -> dict[str, Tensor]:
    """Our weights of Hugging Face's: parts where ours share one of theirs, zeros where it has none."""
    shared: dict[str, list[str]] = {}
    for ours, theirs in names.items():
        shared.setdefault(theirs, []).append(ours)
    weights = {}
    for theirs, parts in shared.items():
        if theirs in state:
            weights |= zip(parts, state[theirs].chunk(len(parts)), strict=True)
    for ours in names:
        if ours not in weights:
            beside = weights.get(f"{ours.removesuffix('bias')}weight", weights["embed.word.weight"])
            weights[ours] = beside.new_zeros(len(beside))
    return {ours: weights[ours] for ours in names}


def _joined(names: Mapping[str, str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `_split`, with the zeros."""
    shared: dict[str, list[Tensor]] = {}
    for ours, theirs in names.items():
        shared.setdefault(theirs, []).append(weights[ours])
    return {theirs: torch.cat(parts) if len(parts) > 1 else parts[0] for theirs, parts in shared.items()}


def _check_parts(hf: Library, hf_class: str) -> None:
    """Refuse parts that a configuration asks for and no `HookedEncoder` has."""
    if getattr(hf, "use_task_id", False):
        raise ValueError(
            f"`hf_model` is a {hf_class} that adds a task's vector to each embedding (`use_task_id`), which a "
            "HookedEncoder has no place for. Ernie without `use_task_id` is taken."
        )


def _check_mpnet(hf: Library) -> None:
    """Refuse what Hugging Face's MPNet itself computes otherwise than its configuration says."""
    if hf.pad_token_id != 1:
        raise ValueError(f"MPNet numbers positions by padding id 1, but this model pads with {hf.pad_token_id}.")
    if hf.relative_attention_num_buckets < N_BUCKETS:
        raise ValueError(
            f"MPNet sorts distances into {N_BUCKETS} buckets, but this model's table has "
            f"{hf.relative_attention_num_buckets}."
        )


def _any_made(pattern: str, state: Mapping[str, Tensor]) -> bool:
    return any(bool(tensor.any()) for name, tensor in state.items() if re.search(pattern, name))


def export(cfg: EncoderConfig, weights: dict[str, Tensor], unused: dict[str, Tensor]) -> PreTrainedModel:
    """The inverse of `convert`."""
    widths = set(cfg.d_mlps)
    if len(widths) > 1:
        raise ValueError(
            f"Hugging Face needs one MLP width for all layers, but this pruned encoder has {cfg.d_mlps}. "
            "Prune every layer to the same count, or save it with `encoder.save`."
        )
    model_class = getattr(transformers, cfg.hf_class)
    known = ARCHITECTURES[cfg.hf_class]
    state = _joined(weight_names(cfg), weights)
    # Biases that pruning or tuning has made are asked for; those that are still zero stay left out.
    made = {setting: True for setting, pattern in known.biases.items() if _any_made(pattern, state)}
    settings = cfg.hf_config | {known.settings.get("intermediate_size", "intermediate_size"): widths.pop()} | made
    state = {name: state[name] for name in state.keys() - _left_out(known, settings, state)} | unused
    hf_config = model_class.config_class.from_dict(settings)
    # A base model may have been made without its pooler, and is given back without it.
    has_choice = "add_pooling_layer" in inspect.signature(model_class).parameters
    parts = {"add_pooling_layer": any("pooler" in name for name in unused)} if has_choice else {}
    model = model_class(hf_config, **parts).to(
        device=weights["embed.word.weight"].device, dtype=weights["embed.word.weight"].dtype
    )
    missing, unexpected = model.load_state_dict(state, strict=False)
    left_out = [name for name in missing if name not in IMPLIED and "position_ids" not in name]
    if left_out or unexpected:
        raise ValueError(f"The weights do not fit {cfg.hf_class}: missing {left_out}, unexpected {unexpected}.")
    model.tie_weights()
    return model.eval()
