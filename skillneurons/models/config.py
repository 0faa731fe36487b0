"""EncoderConfig: what a `HookedEncoder` is made of."""

from dataclasses import dataclass, field

from transformer_lens.config import TransformerLensConfig

from skillneurons.utilities.types import Json

# Of MPNet's distances between positions: as many as Hugging Face's code uses, whatever a configuration says.
N_BUCKETS = 32


@dataclass(repr=False)
class EncoderConfig(TransformerLensConfig):
    """What a `HookedEncoder` is made of; TransformerLens's fields and the few an encoder adds.

    Args:
        d_mlps: Hidden width of each block's MLP. All equal to `d_mlp` unless the encoder has been pruned.
        d_embed: Width of the word embeddings, and so of soft prompts. `d_model` unless a projection follows them (small
            ELECTRA).
        d_token_types: Number of segment embeddings (1 for RoBERTa, 2 for BERT); 0 for a model without (MPNet).
        pad_token_id: The padding token.
        position_offset: Row of the position table that the first token uses (`pad_token_id + 1` for RoBERTa, else 0).
        relative_positions: Whether attention scores get a learnt number for the distance of their positions (MPNet).
        absolute_positions: Whether there is a table of them, whose rows are added to the word embeddings.
        embed_norm: Whether the embeddings' sum goes through a LayerNorm.
        dropped_token: ESM's mask token, if its embedding is left out and the others of its row are scaled (by .88 and
            one over the share that is not left out).
        pre_norm: Whether blocks read the normalized stream and add to the stream itself; a LayerNorm follows the last.
        first_norm: False where the first block's attention then reads the stream as it is (ModernBERT).
        rotary_bases: For each layer, where positions turn queries and keys; see `Rotary`.
        windows: Likewise, how far each position may look; 0 for anywhere.
        disentangled: Which scores of words with distances are added to those of words with words: `"c2p"`, `"p2c"`.
        n_distances: How many are told apart on either side: half the rows of their table.
        distance_buckets: How many buckets far distances share, or -1; see `log_bucket`.
        furthest: The distance that ends in the last bucket.
        shared_projections: Whether distances become queries and keys as words do.
        distance_norm: Whether their table goes through a LayerNorm.
        read_out: `"mlm"` for the checkpoint's own head; `"tied"` where it has none: logits are then the final
            residual times the word embeddings, without a transform or bias.
        head_act_fn: The head's activation function. By default GELU with a `position_offset` (RoBERTa), else `act_fn`.
        tied_embeddings: Whether the unembedding is the word-embedding matrix itself.
        source: Name of the checkpoint, for provenance.
        revision: Commit of the checkpoint where the hub told it.
        hf_class: Hugging Face class the weights came from.
        hf_config: Its configuration, so that `to_hf` gives back the same model.
        tokenizer_name: Of a tokenizer to load where none is given.
        use_attn_in: Only False, for TransformerLens's tools.
        use_hook_mlp_in: Whether the MLP's own input is a hook point (`set_use_hook_mlp_in`).

    Example:
        >>> from skillneurons import EncoderConfig
        >>> sizes = {"n_layers": 2, "d_model": 8, "d_head": 4, "n_ctx": 16, "d_vocab": 20}
        >>> cfg = EncoderConfig(**sizes, d_mlp=12, act_fn="gelu")
        >>> cfg.n_heads, cfg.d_mlps, cfg.read_out
        (2, (12, 12), 'mlm')
    """

    d_mlps: tuple[int, ...] = ()
    d_embed: int = 0
    d_token_types: int = 1
    pad_token_id: int = 1
    position_offset: int = 2
    relative_positions: bool = False
    absolute_positions: bool = True
    embed_norm: bool = True
    dropped_token: int | None = None
    pre_norm: bool = False
    first_norm: bool = True
    rotary_bases: tuple[float, ...] = ()
    windows: tuple[int, ...] = ()
    disentangled: tuple[str, ...] = ()
    n_distances: int = 0
    distance_buckets: int = -1
    furthest: int = 0
    shared_projections: bool = False
    distance_norm: bool = False
    read_out: str = "mlm"
    head_act_fn: str | None = None
    tied_embeddings: bool = True
    source: str = "in-memory model"
    revision: str | None = None
    hf_class: str = "RobertaForMaskedLM"
    hf_config: dict[str, Json] = field(default_factory=dict)
    tokenizer_name: str | None = field(default=None, compare=False)
    use_attn_in: bool = False
    use_hook_mlp_in: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.d_embed = self.d_embed or self.d_model
        if not self.d_mlps:
            self.d_mlps = (self.d_mlp or 0,) * self.n_layers
        if len(self.d_mlps) != self.n_layers:
            raise ValueError(
                f"`d_mlps` needs one width for each of the {self.n_layers} layers, but has {len(self.d_mlps)}."
            )
        if self.read_out not in ("mlm", "tied"):
            raise ValueError(f"`read_out` is 'mlm' or 'tied', not {self.read_out!r}.")
