"""Hugging Face checkpoints to and from a `HookedEncoder`'s configuration and weights.

Knows names and shapes, no modules of ours: `convert` and `export` are each other's inverse. Costs one copy of the
weights.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from skillneurons.models.checkpoint_files import check_config, check_without_place, read_config, read_weights
from skillneurons.models.config import N_BUCKETS, EncoderConfig
from skillneurons.models.conversion_check import check_names
from skillneurons.models.tokenization import read_tokenizer

# Ours -> Hugging Face's, within the encoder, a block, and the model.
EMBEDDINGS = {
    "embed.word.weight": "embeddings.word_embeddings.weight",
    "embed.position.weight": "embeddings.position_embeddings.weight",
    "embed.ln": "embeddings.LayerNorm",
}
SEGMENTS = {"embed.token_type.weight": "embeddings.token_type_embeddings.weight"}
RELATIVE_POSITIONS = {"relative_bias.weight": "encoder.relative_attention_bias.weight"}
MLP = {
    "mlp.input": "intermediate.dense",
    "mlp.output": "output.dense",
    "ln2": "output.LayerNorm",
}
BERT_BLOCK = {
    "attn.query": "attention.self.query",
    "attn.key": "attention.self.key",
    "attn.value": "attention.self.value",
    "attn.output": "attention.output.dense",
    "ln1": "attention.output.LayerNorm",
} | MLP
MPNET_BLOCK = {
    "attn.query": "attention.attn.q",
    "attn.key": "attention.attn.k",
    "attn.value": "attention.attn.v",
    "attn.output": "attention.attn.o",
    "ln1": "attention.LayerNorm",
} | MLP
ROBERTA_HEAD = {
    "read_out.dense": "lm_head.dense",
    "read_out.ln": "lm_head.layer_norm",
    "read_out.bias": "lm_head.bias",
    "read_out.weight": "lm_head.decoder.weight",
}
BERT_HEAD = {
    "read_out.dense": "cls.predictions.transform.dense",
    "read_out.ln": "cls.predictions.transform.LayerNorm",
    "read_out.bias": "cls.predictions.bias",
    "read_out.weight": "cls.predictions.decoder.weight",
}
# Without tied embeddings, Hugging Face adds the decoder's own bias and leaves the other unused.
UNTIED_BIAS = {"lm_head.bias": "lm_head.decoder.bias", "cls.predictions.bias": "cls.predictions.decoder.bias"}

HEADS = ("lm_head.", "cls.")


@dataclass(frozen=True)
class Architecture:
    """What tells one Hugging Face class from another: the names of its weights, and how it counts positions.

    Args:
        prefix: Of the names of its encoder's weights.
        encoder: Names of the embeddings' and other weights that all blocks share.
        block: Names within a block.
        head: Names of the masked-language-model head's weights; None for a class without.
        headless: The same encoder's class without a head.
        counts_from_padding: Whether real tokens alone are numbered, from one past the padding id on.
    """

    prefix: str
    encoder: Mapping[str, str]
    block: Mapping[str, str]
    head: Mapping[str, str] | None
    headless: str
    counts_from_padding: bool

    def without_head(self) -> "Architecture":
        return replace(self, prefix="", head=None)


ROBERTA = Architecture("roberta.", EMBEDDINGS | SEGMENTS, BERT_BLOCK, ROBERTA_HEAD, "RobertaModel", True)
XLM_ROBERTA = replace(ROBERTA, headless="XLMRobertaModel")
CAMEMBERT = replace(ROBERTA, headless="CamembertModel")
BERT = Architecture("bert.", EMBEDDINGS | SEGMENTS, BERT_BLOCK, BERT_HEAD, "BertModel", False)
MPNET = Architecture("mpnet.", EMBEDDINGS | RELATIVE_POSITIONS, MPNET_BLOCK, ROBERTA_HEAD, "MPNetModel", True)

ARCHITECTURES = {
    "RobertaForMaskedLM": ROBERTA,
    "XLMRobertaForMaskedLM": XLM_ROBERTA,
    "CamembertForMaskedLM": CAMEMBERT,
    "BertForMaskedLM": BERT,
    "BertForPreTraining": BERT,
    "MPNetForMaskedLM": MPNET,
} | {one.headless: one.without_head() for one in (ROBERTA, XLM_ROBERTA, CAMEMBERT, BERT, MPNET)}


def weight_names(cfg: EncoderConfig) -> dict[str, str]:
    """Our parameter name -> Hugging Face's, for every parameter a model of this configuration has."""
    known = ARCHITECTURES[cfg.hf_class]
    table = {ours: known.prefix + theirs for ours, theirs in known.encoder.items()}
    for layer in range(cfg.n_layers):
        inside = f"{known.prefix}encoder.layer.{layer}"
        table |= {f"blocks.{layer}.{ours}": f"{inside}.{theirs}" for ours, theirs in known.block.items()}
    if known.head is not None:
        table |= known.head
        if cfg.tied_embeddings:
            del table["read_out.weight"]
        else:
            table["read_out.bias"] = UNTIED_BIAS[table["read_out.bias"]]
    names = {}
    for ours, theirs in table.items():
        if ours.endswith(("weight", "bias")):
            names[ours] = theirs
        else:
            names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}
    return names


def read_checkpoint(name_or_path: str | Path, *, revision: str | None) -> tuple[PreTrainedModel, Any, str]:
    """The Hugging Face model, its tokenizer and its name, of the bundled model, a folder or a hub id."""
    config, location = read_config(name_or_path, revision=revision)
    named = (getattr(config, "architectures", None) or ["(none)"])[0]
    if named not in ARCHITECTURES:
        raise ValueError(
            f"{location!r} holds a {named}; a HookedEncoder takes {', '.join(ARCHITECTURES)}. "
            "`load_model` makes a TransformerBridge of others."
        )
    check_config(config, f"{location!r}, a {named},")
    read_as = named
    model, missing, without_place = read_weights(location, revision, named)
    headless = ARCHITECTURES[named].headless
    head = {name for name, _ in model.named_parameters() if name.startswith(HEADS) and "decoder." not in name}
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
        raise ValueError(f"`hf_model` is a {hf_class}; a HookedEncoder takes {', '.join(ARCHITECTURES)}.")
    if getattr(hf, "position_embedding_type", None) not in (None, "absolute"):
        raise ValueError(f"Positions must be absolute, but this model's are {hf.position_embedding_type!r}.")
    if getattr(hf, "is_decoder", False):
        raise ValueError("`hf_model` is configured as a decoder (`is_decoder=True`); a HookedEncoder is not causal.")
    check_config(hf, f"`hf_model`, a {hf_class},")
    known = ARCHITECTURES[hf_class]
    offset = hf.pad_token_id + 1 if known.counts_from_padding else 0
    has_head = known.head is not None
    relative = "relative_bias.weight" in known.encoder
    if relative:
        _check_mpnet(hf)
    cfg = EncoderConfig(
        d_model=hf.hidden_size,
        d_head=hf.hidden_size // hf.num_attention_heads,
        n_heads=hf.num_attention_heads,
        n_layers=hf.num_hidden_layers,
        n_ctx=hf.max_position_embeddings - offset,
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        d_token_types=hf.type_vocab_size if "embed.token_type.weight" in known.encoder else 0,
        relative_positions=relative,
        pad_token_id=hf.pad_token_id,
        position_offset=offset,
        eps=hf.layer_norm_eps,
        act_fn=hf.hidden_act,
        dtype=hf_model.dtype,
        device=str(hf_model.device),
        read_out="mlm" if has_head else "tied",
        tied_embeddings=bool(hf.tie_word_embeddings) or not has_head,
        source=hf.name_or_path or "in-memory model",
        revision=getattr(hf, "_commit_hash", None),
        hf_class=hf_class,
        hf_config=hf.to_dict(),
    )
    state = hf_model.state_dict()
    names = weight_names(cfg)
    check_names(hf_class, list(names.values()), state)
    weights = {ours: state[theirs] for ours, theirs in names.items()}
    bad = [names[name] for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise ValueError(f"The checkpoint has weights that are NaN or infinite: {', '.join(bad[:3])}.")
    implied = {"lm_head.decoder.weight", "cls.predictions.decoder.weight", *UNTIED_BIAS.values()}
    unused = {k: v.clone() for k, v in state.items() if k not in set(names.values()) | implied}
    return cfg, weights, unused


def _check_mpnet(hf: Any) -> None:
    """Refuse what Hugging Face's MPNet itself computes otherwise than its configuration says."""
    if hf.pad_token_id != 1:
        raise ValueError(f"MPNet numbers positions by padding id 1, but this model pads with {hf.pad_token_id}.")
    if hf.relative_attention_num_buckets < N_BUCKETS:
        raise ValueError(
            f"MPNet sorts distances into {N_BUCKETS} buckets, but this model's table has "
            f"{hf.relative_attention_num_buckets}."
        )


def export(cfg: EncoderConfig, weights: dict[str, Tensor], unused: dict[str, Tensor]) -> PreTrainedModel:
    """The inverse of `convert`."""
    widths = set(cfg.d_mlps)
    if len(widths) > 1:
        raise ValueError(
            f"Hugging Face needs one MLP width for all layers, but this pruned encoder has {cfg.d_mlps}. "
            "Prune every layer to the same count, or save it with `encoder.save`."
        )
    model_class = getattr(transformers, cfg.hf_class)
    hf_config = model_class.config_class.from_dict(cfg.hf_config | {"intermediate_size": widths.pop()})
    # A base model may have been made without its pooler, and is given back without it.
    parts = {"add_pooling_layer": any("pooler" in name for name in unused)} if cfg.hf_class.endswith("Model") else {}
    model = model_class(hf_config, **parts).to(
        device=weights["embed.word.weight"].device, dtype=weights["embed.word.weight"].dtype
    )
    state = {theirs: weights[ours] for ours, theirs in weight_names(cfg).items()} | unused
    missing, unexpected = model.load_state_dict(state, strict=False)
    left_out = [name for name in missing if "decoder." not in name and "position_ids" not in name]
    if left_out or unexpected:
        raise ValueError(f"The weights do not fit {cfg.hf_class}: missing {left_out}, unexpected {unexpected}.")
    model.tie_weights()
    return model.eval()
