"""Where a TransformerBridge has its embeddings and blocks, and how an encoder-decoder is run as one stack of them."""

from collections.abc import Callable, Mapping, Sequence

from einops import repeat
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from skillneurons.utilities.types import AtHook, Hook, Library

# The bridge's name for what our encoder calls `hook_embed`. Its own `hook_embed` is, for BERT and RoBERTa, what comes
# out of the embedding's LayerNorm, where a prompt would get neither positions nor the LayerNorm.
WORD_EMBEDDINGS = "embed.hook_out"


def run(
    bridge: TransformerBridge, tokens: Tensor, decoder_start: int | None, options: Mapping[str, Tensor | int]
) -> Tensor:
    """Logits. An encoder-decoder is entered at the embeddings: T5's stacks read their table past the hook on it."""
    if decoder_start is None:
        return bridge(tokens, **options)
    first = tokens.new_full((len(tokens), 1), decoder_start)
    return bridge(bridge.embed(tokens), decoder_input=first, **options)


def spread_over_positions(hooks: Sequence[Hook]) -> list[Hook]:
    """The hooks, with a decoder's single position shown at every position that the encoder has."""
    n_positions: list[int] = []

    def count(embed: Float[Tensor, "batch pos d_model"], hook: AtHook = None) -> None:
        n_positions[:] = [embed.shape[1]]

    def spread(function: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
        def hook_fn(activations: Float[Tensor, "batch 1 neuron"], hook: AtHook = None) -> Tensor | None:
            changed = function(repeat(activations, "batch 1 neuron -> batch pos neuron", pos=n_positions[0]), hook=hook)
            return None if changed is None else changed[:, -1:]

        return hook_fn

    decoder = [isinstance(name, str) and name.startswith("decoder_blocks.") for name, _ in hooks]
    changed: list[Hook] = [(name, spread(f) if inside else f) for (name, f), inside in zip(hooks, decoder, strict=True)]
    return [(WORD_EMBEDDINGS, count), *changed]


def block_names(bridge: TransformerBridge) -> tuple[str, ...]:
    """The bridge's name of each block."""
    if not getattr(bridge.original_model.config, "is_encoder_decoder", False):
        return tuple(f"blocks.{layer}" for layer in range(bridge.cfg.n_layers))
    stacks = ("encoder_blocks", "decoder_blocks")
    if missing := [stack for stack in stacks if not hasattr(bridge, stack)]:
        raise ValueError(
            f"An encoder-decoder needs `encoder_blocks` and `decoder_blocks`, but the bridge of "
            f"{str(bridge.cfg.model_name)!r} ({bridge.cfg.architecture}) has no `{missing[0]}`. Pass a T5, for example."
        )
    return tuple(f"{stack}.{layer}" for stack in stacks for layer in range(len(getattr(bridge, stack))))


def decoder_start_of(bridge: TransformerBridge) -> int | None:
    hf: Library = bridge.original_model.config
    if not getattr(hf, "is_encoder_decoder", False):
        return None
    if getattr(hf, "decoder_start_token_id", None) is None:
        raise ValueError(
            f"The label is read behind the decoder's start token, but the configuration of "
            f"{str(bridge.cfg.model_name)!r} has no `decoder_start_token_id`. Set it before booting the bridge."
        )
    return hf.decoder_start_token_id
