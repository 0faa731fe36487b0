"""Which Hugging Face classes a `HookedEncoder` takes, and what they call their weights. A new one is one entry here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from skillneurons.utilities.types import Json, Library

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
DISTILBERT_BLOCK = {
    "attn.query": "attention.q_lin",
    "attn.key": "attention.k_lin",
    "attn.value": "attention.v_lin",
    "attn.output": "attention.out_lin",
    "ln1": "sa_layer_norm",
    "mlp.input": "ffn.lin1",
    "mlp.output": "ffn.lin2",
    "ln2": "output_layer_norm",
}
MPNET_BLOCK = {
    "attn.query": "attention.attn.q",
    "attn.key": "attention.attn.k",
    "attn.value": "attention.attn.v",
    "attn.output": "attention.attn.o",
    "ln1": "attention.LayerNorm",
} | MLP
ESM_ENCODER = {
    "embed.word.weight": "embeddings.word_embeddings.weight",
    "embed.position.weight": "embeddings.position_embeddings.weight",
    "embed.ln": "embeddings.layer_norm",
    "read_out.ln_final": "encoder.emb_layer_norm_after",
}
ESM_BLOCK = BERT_BLOCK | {"ln1": "attention.LayerNorm", "ln2": "LayerNorm"}
MODERNBERT_ENCODER = {
    "embed.word.weight": "embeddings.tok_embeddings.weight",
    "embed.ln": "embeddings.norm",
    "read_out.ln_final": "final_norm",
}
# Several of ours that share a name are one matrix there, ours below each other in this order.
MODERNBERT_BLOCK = {
    "ln1": "attn_norm",
    "attn.query": "attn.Wqkv",
    "attn.key": "attn.Wqkv",
    "attn.value": "attn.Wqkv",
    "attn.output": "attn.Wo",
    "ln2": "mlp_norm",
    "mlp.gate": "mlp.Wi",
    "mlp.input": "mlp.Wi",
    "mlp.output": "mlp.Wo",
}
MODERNBERT_HEAD = {
    "read_out.dense": "head.dense",
    "read_out.ln": "head.norm",
    "read_out.bias": "decoder.bias",
    "read_out.weight": "decoder.weight",
}
DEBERTA_ENCODER = (
    EMBEDDINGS
    | SEGMENTS
    | {"distances.rows.weight": "encoder.rel_embeddings.weight", "distances.ln": "encoder.LayerNorm"}
)
DEBERTA_BLOCK = {
    "attn.query": "attention.self.query_proj",
    "attn.key": "attention.self.key_proj",
    "attn.value": "attention.self.value_proj",
    "attn.disentangled.key": "attention.self.pos_key_proj",
    "attn.disentangled.query": "attention.self.pos_query_proj",
    "attn.output": "attention.output.dense",
    "ln1": "attention.output.LayerNorm",
} | MLP
# Of DeBERTa-v3, with `legacy=False`; its unembedding is the word embeddings, tied or not.
DEBERTA_HEAD = {
    "read_out.dense": "lm_predictions.lm_head.dense",
    "read_out.ln": "lm_predictions.lm_head.LayerNorm",
    "read_out.bias": "lm_predictions.lm_head.bias",
}
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
DISTILBERT_HEAD = {
    "read_out.dense": "vocab_transform",
    "read_out.ln": "vocab_layer_norm",
    "read_out.bias": "vocab_projector.bias",
    "read_out.weight": "vocab_projector.weight",
}
ELECTRA_HEAD = {
    "read_out.dense": "generator_predictions.dense",
    "read_out.ln": "generator_predictions.LayerNorm",
    "read_out.bias": "generator_lm_head.bias",
    "read_out.weight": "generator_lm_head.weight",
}
# Without tied embeddings, Hugging Face adds the decoder's own bias and leaves the other unused.
UNTIED_BIAS = {"lm_head.bias": "lm_head.decoder.bias", "cls.predictions.bias": "cls.predictions.decoder.bias"}

HEADS = ("lm_head.", "cls.", "vocab_", "generator_", "head.", "decoder.", "lm_predictions.")

# Settings by which ModernBERT leaves biases out, and which these are: ours are then zeros.
MODERNBERT_BIASES = {
    "norm_bias": r"norm\.bias$",
    "attention_bias": r"attn\.W\w+\.bias$",
    "mlp_bias": r"mlp\.W\w\.bias$",
    "classifier_bias": r"^head\.dense\.bias$",
    "decoder_bias": r"^decoder\.bias$",
}


@dataclass(frozen=True)
class ClassHead:
    """What a sequence classifier makes of its first token, `output(act_fn(dense(x)))`: names of its weights.

    Args:
        dense: Of the layer in front: a pooler's, where the class has one.
        output: Of the layer with a row for each class.
        act_fn: Between the two.
    """

    dense: str
    output: str
    act_fn: str


ROBERTA_CLASSES = ClassHead("classifier.dense", "classifier.out_proj", "tanh")
BERT_CLASSES = ClassHead("bert.pooler.dense", "classifier", "tanh")


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
        layers: Where its blocks are, within the encoder.
        projection: What takes embeddings to the stream's width, where `embedding_size` may be another.
        head_act_fn: The head's activation function, where it is not `hidden_act`.
        eps: Of all its LayerNorms, where the configuration has none.
        settings: Names of settings that its configuration calls otherwise than BERT's.
        classes: The head of its sequence classifiers.
        act_fn: Of its MLPs, whatever its configuration says.
        biases: Settings by which it may leave biases out, and patterns of their names.
        shape: What tells its blocks and embeddings from BERT's, as fields of an `EncoderConfig`, by its configuration.
        keeps_bias: Whether its head's bias is the same without tied embeddings.
        not_legacy: Names of the head's weights where its configuration says that it is not a `legacy` one.
    """

    prefix: str
    encoder: Mapping[str, str]
    block: Mapping[str, str]
    head: Mapping[str, str] | None
    headless: str
    counts_from_padding: bool
    layers: str = "encoder.layer"
    projection: str | None = None
    head_act_fn: str | None = None
    eps: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    classes: ClassHead | None = None
    act_fn: str | None = None
    biases: Mapping[str, str] = field(default_factory=dict)
    shape: Callable[[Library], dict[str, Json]] = lambda hf: {}
    keeps_bias: bool = False
    not_legacy: Mapping[str, str] | None = None

    def setting(self, hf: Library, name: str) -> Json:
        """A setting of a Hugging Face configuration by BERT's name for it; None where there is none."""
        return getattr(hf, self.settings.get(name, name), None)

    def without_head(self) -> "Architecture":
        return replace(self, prefix="", head=None, classes=None)


def esm_shape(hf: Library) -> dict[str, Json]:
    """Of an ESM."""
    if hf.token_dropout and not isinstance(hf.mask_token_id, int):
        raise ValueError(
            "An ESM with `token_dropout` needs a `mask_token_id`, whose embedding it leaves out, but its configuration "
            f"has {hf.mask_token_id!r}. Set it in config.json."
        )
    return {
        "pre_norm": True,
        "embed_norm": bool(hf.emb_layer_norm_before),
        "dropped_token": hf.mask_token_id if hf.token_dropout else None,
    }


def modernbert_shape(hf: Library) -> dict[str, Json]:
    """Of a ModernBERT.

    Raises:
        ValueError: Its rotary positions are scaled for longer texts.
    """
    rotary = [hf.rope_parameters[kind] for kind in hf.layer_types]
    if other := [one["rope_type"] for one in rotary if one["rope_type"] != "default"]:
        raise ValueError(
            f"A ModernBERT needs rotary positions as they are, but this one scales them by {other[0]!r} "
            "(`rope_parameters`), which a HookedEncoder does not."
        )
    near = hf.local_attention // 2
    return {
        "pre_norm": True,
        "first_norm": False,
        "gated_mlp": True,
        "absolute_positions": False,
        "positional_embedding_type": "rotary",
        "head_act_fn": hf.classifier_activation,
        "rotary_bases": tuple(float(one["rope_theta"]) for one in rotary),
        "windows": tuple(near if kind == "sliding_attention" else 0 for kind in hf.layer_types),
    }


def deberta_shape(hf: Library) -> dict[str, Json]:
    """Of a DeBERTa-v2 or v3.

    Raises:
        ValueError: It has parts that no HookedEncoder has: a convolution, embeddings of another width.
    """
    kinds = tuple(kind for kind in ("c2p", "p2c") if kind in (hf.pos_att_type or ()))
    lacks = {
        "a convolution beside its first block (`conv_kernel_size`)": getattr(hf, "conv_kernel_size", 0) > 0,
        "embeddings of another width (`embedding_size`)": getattr(hf, "embedding_size", hf.hidden_size)
        != hf.hidden_size,
        "heads of another width (`attention_head_size`)": getattr(hf, "attention_head_size", None)
        not in (None, hf.hidden_size // hf.num_attention_heads),
        "`pos_att_type` without `relative_attention`": bool(kinds) and not hf.relative_attention,
    }
    if found := [what for what, there in lacks.items() if there]:
        raise ValueError(
            f"This DeBERTa has {found[0]}, which a HookedEncoder has no place for. DeBERTa-v3's small, base and large "
            "models are without."
        )
    furthest = hf.max_relative_positions if hf.max_relative_positions > 0 else hf.max_position_embeddings
    buckets = getattr(hf, "position_buckets", -1)
    shape: dict[str, Json] = {"absolute_positions": bool(hf.position_biased_input)}
    if not kinds:
        return shape
    norms = [one.strip() for one in getattr(hf, "norm_rel_ebd", "none").lower().split("|")]
    return shape | {
        "disentangled": kinds,
        "n_distances": buckets if buckets > 0 else furthest,
        "distance_buckets": buckets if buckets > 0 else -1,
        "furthest": furthest,
        "shared_projections": bool(getattr(hf, "share_att_key", False)),
        "distance_norm": "layer_norm" in norms,
    }


ROBERTA = Architecture(
    "roberta.", EMBEDDINGS | SEGMENTS, BERT_BLOCK, ROBERTA_HEAD, "RobertaModel", True, classes=ROBERTA_CLASSES
)
XLM_ROBERTA = replace(ROBERTA, headless="XLMRobertaModel")
CAMEMBERT = replace(ROBERTA, headless="CamembertModel")
BERT = Architecture(*("bert.", EMBEDDINGS | SEGMENTS, BERT_BLOCK, BERT_HEAD, "BertModel", False), classes=BERT_CLASSES)
MPNET = Architecture(
    *("mpnet.", EMBEDDINGS | RELATIVE_POSITIONS, MPNET_BLOCK, ROBERTA_HEAD, "MPNetModel", True), classes=ROBERTA_CLASSES
)
DISTILBERT = Architecture(
    *("distilbert.", EMBEDDINGS, DISTILBERT_BLOCK, DISTILBERT_HEAD, "DistilBertModel", False),
    layers="transformer.layer",
    eps=1e-12,
    settings={"intermediate_size": "hidden_dim", "hidden_act": "activation"},
    classes=ClassHead("pre_classifier", "classifier", "relu"),
)
ELECTRA = Architecture(
    *("electra.", EMBEDDINGS | SEGMENTS, BERT_BLOCK, ELECTRA_HEAD, "ElectraModel", False),
    projection="embeddings_project",
    head_act_fn="gelu",
    classes=replace(ROBERTA_CLASSES, act_fn="gelu"),
)
ERNIE = replace(BERT, prefix="ernie.", headless="ErnieModel", classes=replace(BERT_CLASSES, dense="ernie.pooler.dense"))
ESM = Architecture(
    *("esm.", ESM_ENCODER, ESM_BLOCK, ROBERTA_HEAD, "EsmModel", True),
    act_fn="gelu",
    shape=esm_shape,
    keeps_bias=True,
    classes=ROBERTA_CLASSES,
)
DEBERTA = Architecture(
    *("deberta.", DEBERTA_ENCODER, DEBERTA_BLOCK, BERT_HEAD, "DebertaV2Model", False),
    shape=deberta_shape,
    not_legacy=DEBERTA_HEAD,
    classes=ClassHead("pooler.dense", "classifier", "gelu"),
)
MODERNBERT = Architecture(
    *("model.", MODERNBERT_ENCODER, MODERNBERT_BLOCK, MODERNBERT_HEAD, "ModernBertModel", False),
    layers="layers",
    settings={"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"},
    biases=MODERNBERT_BIASES,
    shape=modernbert_shape,
    keeps_bias=True,
)
DATA2VEC = replace(ROBERTA, prefix="data2vec_text.", headless="Data2VecTextModel")

ARCHITECTURES = {
    "RobertaForMaskedLM": ROBERTA,
    "XLMRobertaForMaskedLM": XLM_ROBERTA,
    "CamembertForMaskedLM": CAMEMBERT,
    "BertForMaskedLM": BERT,
    "BertForPreTraining": BERT,
    "MPNetForMaskedLM": MPNET,
    "DistilBertForMaskedLM": DISTILBERT,
    "ElectraForMaskedLM": ELECTRA,
    # The discriminator, whose head tells replaced words from original ones, is an encoder without a language model.
    "ElectraForPreTraining": replace(ELECTRA, head=None),
    "ErnieForMaskedLM": ERNIE,
    "Data2VecTextForMaskedLM": DATA2VEC,
    "DebertaV2ForMaskedLM": DEBERTA,
    "EsmForMaskedLM": ESM,
    "ModernBertForMaskedLM": MODERNBERT,
}
# Each encoder with a head for classes, of texts (`class_head_of` has what it computes) or of their tokens; and alone.
for _one in tuple(ARCHITECTURES.values()):
    _name = _one.headless.removesuffix("Model")
    ARCHITECTURES[f"{_name}ForSequenceClassification"] = replace(_one, head=None)
    ARCHITECTURES[f"{_name}ForTokenClassification"] = replace(_one, head=None, classes=None)
    ARCHITECTURES[_one.headless] = _one.without_head()

FAMILIES = (
    "RoBERTa, XLM-R, CamemBERT, BERT, MPNet, DistilBERT, ELECTRA, Ernie, Data2VecText, ModernBERT, DeBERTa-v2 "
    "and v3, and ESM (with absolute positions)"
)


def what_is_taken(hf_class: str) -> str:
    """What could be passed instead of a class that is not in the table: a message's last words."""
    taken = f"A HookedEncoder takes masked language models, classifiers and headless encoders of {FAMILIES}"
    base = [one for one in ARCHITECTURES if one.endswith("Model") and hf_class.startswith(one.removesuffix("Model"))]
    if base and "For" in hf_class:
        return f"{taken}: of this one, its encoder alone, by `transformers.{max(base, key=len)}.from_pretrained`."
    return f"{taken}."


# What ties to the word embeddings, or is left out of use: weights that a head implies.
IMPLIED = {*UNTIED_BIAS.values(), *(one.head["read_out.weight"] for one in ARCHITECTURES.values() if one.head)}
