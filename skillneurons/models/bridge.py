"""A TransformerBridge wherever a `HookedEncoder` is taken: BERT-family encoders, decoder-only models, and T5.

`as_classifiable` checks a bridge once, by a pass over two tokens, and gives it the small surface that classifiers,
tuning, probing and evaluation use. What differs from our own encoder:

- **Where the prompt goes.** A decoder's position sees only what is before it, so a prompt in front of the text would
  have the same activations whatever the text. Its layout is `text p_1 … p_P`, and the label is read at `p_P`, as the
  logits of the next token. The last layer's neurons at that position therefore do act on the answer.
- **Encoder-decoders (T5).** The encoder reads `text p_1 … p_P`, the decoder one token: its start token, behind which
  the label is read. Layers count through: those of the encoder, then those of the decoder. A decoder's block has a
  single position, which stands for each position of the prompt: statistics see its activations P times, and an
  intervention on the last prompt position, or on all of them, is one on it. Interventions on the text alone do not
  touch it.
- **Tokens.** The checkpoint's own tokenizer, read again: that of a booted bridge puts a first token before each text
  and drops what BERT and RoBERTa put behind it.
- **Padding.** None for decoders: rows of a batch are split by length, and every pass is over rows of one length, so a
  row's result does not depend on its batch (but for the rounding of kernels, which depends on the number of rows).
- **Which axis the neurons are.** In every model, the input of the MLP's output projection,
  `blocks.{layer}.mlp.hook_post`: `act(W_in x)`, and in gated MLPs (Llama, Qwen, Gemma, …) the product
  `act(W_gate x) * W_in x`.
- **Cost.** The bridge computes every block at every position; a perturbation sweep cannot re-enter at a layer. Logits
  of the whole vocabulary are computed at the last position only where Hugging Face's model allows it (most decoders),
  else at all.
"""

import difflib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from skillneurons.models.bridge_blocks import WORD_EMBEDDINGS, block_names, decoder_start_of, run, spread_over_positions
from skillneurons.models.checkpoints import ARCHITECTURES
from skillneurons.models.encoder import HookedEncoder
from skillneurons.models.encoder_parts.described import ShownModel
from skillneurons.models.encoder_parts.input_checks import Shortcuts
from skillneurons.models.tokenization import as_in_file
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.fingerprints import behaviour_of, fingerprint_of
from skillneurons.utilities.threads import changing, running
from skillneurons.utilities.types import AtHook, FwdHooks, Json, Library, Tokenizer

# Words in the names of Hugging Face classes that have a language model's head.
HEADS = ("LM", "PreTraining", "Generation")


@dataclass(frozen=True)
class BridgedConfig:
    """What this package asks of a bridged model's configuration; named as in `EncoderConfig`.

    Args:
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        d_mlps: Number of neurons of each layer.
        d_vocab: Number of logits.
        n_ctx: Positions.
        d_token_types: Number of segment embeddings; 1 where a model has none.
        pad_token_id: The padding token; never used for decoders.
        after_text: Whether the prompt stands behind the text: for decoders.
        source: Name of the checkpoint, for provenance.
        blocks: The bridge's name of each layer's block.
        decoder_start: The token an encoder-decoder's decoder starts with; None for other models.
        revision: On the hub, where `load_model` was told.
    """

    n_layers: int
    d_model: int
    d_mlps: tuple[int, ...]
    d_vocab: int
    n_ctx: int
    d_token_types: int
    pad_token_id: int
    after_text: bool
    source: str
    blocks: tuple[str, ...]
    decoder_start: int | None = None
    revision: str | None = None

    @property
    def d_mlp(self) -> int:
        return self.d_mlps[0]


@dataclass(frozen=True, eq=False, repr=False)
class BridgedModel(ShownModel):
    """A checked TransformerBridge; make one with `as_classifiable`. Other attributes are the bridge's own."""

    can_reenter: ClassVar[bool] = False  # type: ignore[misc]
    has_weights: ClassVar[bool] = False  # type: ignore[misc]

    bridge: TransformerBridge
    tokenizer: Tokenizer
    cfg: BridgedConfig
    embed_scale: float
    takes_logits_to_keep: bool

    def __call__(
        self,
        input: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        *,
        token_type_ids: Int[Tensor, "batch pos"] | None = None,
        logits_at: int | None = None,
        logits_for: Sequence[int] | None = None,
        start_at_layer: int | None = None,
        **shortcuts: Unpack[Shortcuts],
    ) -> Float[Tensor, "*batch d_vocab_out"]:
        """Logits, of all tokens at all positions unless fewer are asked for; see `HookedEncoder.forward`.

        Args:
            input: Token ids.
            attention_mask: 1 for tokens, 0 for padding; everything is a token by default.
            token_type_ids: Segments, for models that have them.
            logits_at: One position; may count from the end.
            logits_for: Token ids.
            start_at_layer: Not possible with a bridge: None.
            shortcuts: Have no effect: a bridge computes all positions, and checks what it checks.
        """
        check_options(shortcuts, Shortcuts)
        if start_at_layer is not None:
            raise ValueError(f"`start_at_layer` is {start_at_layer}, but a bridge starts at the tokens. Leave it out.")
        mask = torch.ones_like(input) if attention_mask is None else attention_mask
        extra: dict[str, Json] = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        if logits_at == -1 and self.takes_logits_to_keep:
            extra["logits_to_keep"] = 1
        with running(self.bridge):
            logits = run(self.bridge, input, self.cfg.decoder_start, {"attention_mask": mask, **extra})
        if logits_at is not None:
            logits = logits[:, logits_at]
        if logits_for is None:
            return logits
        chosen = torch.as_tensor(logits_for)
        if not 0 <= int(chosen.min()) <= int(chosen.max()) < self.cfg.d_vocab:
            raise ValueError(
                f"`logits_for` are token ids from 0 to {self.cfg.d_vocab - 1}, but has {tuple(logits_for)}. The "
                "tokenizer knows tokens that the model does not: choose other label words."
            )
        return logits[..., chosen.to(logits.device)]

    def hooks(self, fwd_hooks: FwdHooks = (), bwd_hooks: FwdHooks = ()) -> AbstractContextManager[TransformerBridge]:
        """The bridge's own context manager; an unknown hook name is an error that lists the nearest ones.

        `hook_embed` means the word embeddings here, as in our encoder, whatever it means to the bridge; and
        `blocks.{layer}` the layer's block, also where the bridge tells an encoder's from a decoder's.
        """
        forward, backward = (
            [(self._own_name(name), function) for name, function in hooks] for hooks in (fwd_hooks, bwd_hooks)
        )
        for name, _ in [*forward, *backward]:
            if isinstance(name, str):
                _check_hook(self.bridge, name)
        if self.cfg.decoder_start is not None:
            forward = spread_over_positions(forward)
        return self._alone_with(forward, backward)

    @contextmanager
    def _alone_with(self, forward: FwdHooks, backward: FwdHooks) -> Iterator[TransformerBridge]:
        with changing(self.bridge), self.bridge.hooks(list(forward), list(backward)) as hooked:
            yield hooked

    def _own_name(self, name: Library) -> Library:
        """The bridge's name of a hook point."""
        if name == "hook_embed":
            return WORD_EMBEDDINGS
        parts = name.split(".", 2) if isinstance(name, str) else []
        if len(parts) == 3 and parts[0] == "blocks" and parts[1].isdigit() and int(parts[1]) < self.cfg.n_layers:
            return f"{self.cfg.blocks[int(parts[1])]}.{parts[2]}"
        return name

    def fingerprint(self) -> str:
        """16 hex digits of all weights and of the configuration; not that of a `HookedEncoder` of the same weights."""
        hf: Library = self.bridge.original_model.config
        return fingerprint_of(self.bridge.named_parameters(), behaviour_of(hf.to_dict()))

    @property
    def reads_after_text(self) -> bool:
        return self.cfg.after_text

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return self.bridge.parameters()

    @property
    def training(self) -> bool:
        return self.bridge.training or self.bridge.original_model.training

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """What `hook_embed` gives for each token: the embedding matrix, and in some models (Gemma) a multiple of it."""
        return self.bridge.W_E if self.embed_scale == 1 else self.bridge.W_E * self.embed_scale

    @property
    def device(self) -> torch.device:
        return next(self.bridge.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.bridge.parameters()).dtype

    def __getattr__(self, name: str) -> Library:
        if name.startswith("__") or name == "bridge":
            raise AttributeError(name)
        return getattr(self.bridge, name)


Model: TypeAlias = HookedEncoder | BridgedModel
"""What a classifier is made of."""


if TYPE_CHECKING:

    class AnyModel(Protocol):
        """What a user may pass: a `HookedEncoder`, a TransformerBridge, or what `as_classifiable` makes of one."""

        @property
        def cfg(self) -> Library: ...

        @property
        def training(self) -> bool: ...

        def parameters(self) -> Iterator[torch.nn.Parameter]: ...

        def hooks(self, fwd_hooks: Library = ..., bwd_hooks: Library = ...) -> AbstractContextManager[Library]: ...


else:
    AnyModel: TypeAlias = HookedEncoder | BridgedModel | TransformerBridge  # as it is checked where it is passed


@checked
def as_classifiable(model: AnyModel) -> Model:
    """The model as it is, or, of a TransformerBridge, a `BridgedModel` around it. Nothing of the bridge is changed.

    A bridge is asked for logits of two tokens, with hooks that see whether embeddings and neurons are where they must
    be; hooks of one's own that are in place then see these tokens too.

    Args:
        model: A bridge in eval mode, with its tokenizer: of a masked language model, of a decoder-only model, or of an
            encoder-decoder for text.

    Raises:
        TypeError: Neither a `HookedEncoder` nor a TransformerBridge.
        ValueError: The bridge is in train mode, or of an encoder run as a decoder; or the model lacks a tokenizer, a
            tokenizer's mask token (encoders), a decoder's start token (encoder-decoders), a vocabulary read-out of its
            own, or neurons (mixtures of experts, state-space models).

    Example:
        >>> from importlib.resources import files
        >>> from transformer_lens.model_bridge import TransformerBridge
        >>> folder = str(files("skillneurons") / "bundled" / "model")
        >>> as_classifiable(TransformerBridge.boot_transformers(folder, device="cpu")).cfg.d_mlps
        (768, 768, 768, 768)
    """
    if isinstance(model, HookedEncoder | BridgedModel):
        return model
    if not isinstance(model, TransformerBridge):
        raise TypeError(
            f"`model` needs to be a HookedEncoder or a TransformerBridge, but is a {type(model).__name__}. Make one "
            "with HookedEncoder.from_pretrained or TransformerBridge.boot_transformers."
        )
    hf: Library = model.original_model.config
    name = str(model.cfg.model_name)
    if model.training or model.original_model.training:
        raise ValueError("The model is in train mode, and dropout would change its activations. Call `model.eval()`.")
    if model.tokenizer is None:
        raise ValueError(f"The bridge of {name!r} has no tokenizer. Boot it from a folder or hub id that has one.")
    tokenizer = _own_tokenizer(model)
    after_text = getattr(model.cfg, "attention_dir", "causal") == "causal"
    if not after_text and getattr(hf, "is_decoder", False):
        raise ValueError(
            f"{name!r} ({model.cfg.architecture}) is configured as a decoder (`is_decoder=True`): in front of the "
            "text, where an encoder's label is read, the mask would see nothing. Set `is_decoder` to false in its "
            "config.json, or pass a decoder-only model."
        )
    if not after_text and tokenizer.mask_token_id is None:
        raise ValueError(f"The tokenizer of {name!r} needs a mask token, where the label is read, but has none.")
    _check_read_out(model, after_text)
    blocks, decoder_start = block_names(model), decoder_start_of(model)
    for hook in (WORD_EMBEDDINGS, *(f"{block}.mlp.hook_post" for block in blocks)):
        _check_hook(model, hook)
    # A mixture of experts calls its output `hook_post` too, for want of one set of neurons.
    for block in blocks:
        if model.hook_dict[f"{block}.mlp.hook_post"] is model.hook_dict.get(f"{block}.mlp.hook_out"):
            raise ValueError(
                f"`{block}.mlp.hook_post` of {name!r} ({model.cfg.architecture}) is the MLP's output, not its "
                "neurons: each expert has its own. Pass a model with one MLP in each layer."
            )
    token = 0 if after_text else tokenizer.mask_token_id
    widths, d_vocab, scale = _probe(model, token, blocks, decoder_start)
    return BridgedModel(
        bridge=model,
        tokenizer=tokenizer,
        cfg=BridgedConfig(
            n_layers=len(blocks),
            d_model=model.cfg.d_model,
            d_mlps=widths,
            d_vocab=d_vocab,
            n_ctx=model.cfg.n_ctx,
            d_token_types=1 if after_text else getattr(hf, "type_vocab_size", 1),
            pad_token_id=0 if after_text else hf.pad_token_id,
            after_text=after_text,
            source=name,
            blocks=blocks,
            decoder_start=decoder_start,
        ),
        embed_scale=scale,
        takes_logits_to_keep="logits_to_keep" in inspect.signature(model.original_model.forward).parameters,
    )


def as_encoder(model: Model, what: str) -> HookedEncoder:
    """The model as it is, for what reads or replaces weights: a bridge's belong to Hugging Face's modules.

    Args:
        model: A classifier's.
        what: What needs an encoder of ours: the error's first words.

    Raises:
        TypeError: The model is a bridge.
    """
    if isinstance(model, HookedEncoder):
        return model
    architecture = str(model.bridge.cfg.architecture)
    known = architecture in ARCHITECTURES
    remedy = "Load it by `HookedEncoder.from_pretrained`" if known else "That cannot be one: leave this out"
    raise TypeError(
        f"{what} needs a HookedEncoder, but the model is a TransformerBridge of {model.cfg.source!r}, a "
        f"{architecture}. {remedy}."
    )


def _own_tokenizer(bridge: TransformerBridge) -> Tokenizer:
    where = bridge.tokenizer.name_or_path
    try:
        return as_in_file(AutoTokenizer.from_pretrained(where), where)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The tokenizer of {str(bridge.cfg.model_name)!r} cannot be read again from {where!r}. Boot the bridge "
            "from a folder or hub id that holds it."
        ) from error


def _check_hook(bridge: TransformerBridge, name: str) -> None:
    if name not in bridge.hook_dict:
        near = difflib.get_close_matches(name, bridge.hook_dict, n=3, cutoff=0.3)
        raise ValueError(
            f"The bridge of {str(bridge.cfg.model_name)!r} ({bridge.cfg.architecture}) has no hook point {name!r}. "
            f"Nearest: {', '.join(near)}."
        )


def _check_read_out(bridge: TransformerBridge, after_text: bool) -> None:
    """Refuse a head that Hugging Face made up, at random, for a checkpoint without one."""
    hf = bridge.original_model.config
    saved = list(getattr(hf, "architectures", None) or [])
    without_head = saved and not any(word in one for one in saved for word in HEADS)
    if without_head and not (after_text and getattr(hf, "tie_word_embeddings", False)):
        raise ValueError(
            f"Label words need the logits of a language model's head, but {str(bridge.cfg.model_name)!r} holds a "
            f"{saved[0]}, and the {bridge.cfg.architecture} made of it has a random one. Pass a checkpoint with a head."
        )


@torch.no_grad()
def _probe(
    bridge: TransformerBridge, token: int, blocks: Sequence[str], decoder_start: int | None
) -> tuple[tuple[int, ...], int, float]:
    """Neurons of each layer, number of logits and scale of the embeddings, seen in a pass over two tokens."""
    name = f"{str(bridge.cfg.model_name)!r} ({bridge.cfg.architecture})"
    neurons = [f"{block}.mlp.hook_post" for block in blocks]
    seen: dict[str, list[Tensor]] = {hook_name: [] for hook_name in (WORD_EMBEDDINGS, *neurons)}

    def look(hook_name: str) -> Library:
        def observe(activations: Tensor, hook: AtHook = None) -> None:
            seen[hook_name].append(activations.detach().clone())

        return hook_name, observe

    tokens = torch.full((1, 2), token, device=next(bridge.parameters()).device)
    with bridge.hooks(fwd_hooks=[look(hook_name) for hook_name in seen]):
        logits = run(bridge, tokens, decoder_start, {"attention_mask": torch.ones_like(tokens)})
    for hook_name, parts in seen.items():
        shapes, n = [tuple(part.shape) for part in parts], 1 if hook_name.startswith("decoder_blocks.") else 2
        if len(parts) != 1 or parts[0].ndim != 3 or shapes[0][:2] != (1, n):
            raise ValueError(
                f"`{hook_name}` of {name} needs to be reached once, with [batch, pos, features], but {n} tokens gave "
                f"{shapes}. Pass a model whose blocks run once, each with one MLP."
            )
    n = 2 if decoder_start is None else 1
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != (1, n):
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"Label words need logits [batch, pos, d_vocab], but {name} gives {came}. Pass a language model."
        )
    if decoder_start is not None:
        first = tokens.new_full((1, 1), decoder_start)
        expected = bridge(tokens, attention_mask=torch.ones_like(tokens), decoder_input=first)
        if not torch.allclose(logits, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max())):
            raise ValueError(f"{name} answers otherwise to embeddings than to their tokens. Pass another model.")
    word, embed = bridge.W_E[token].float(), seen[WORD_EMBEDDINGS][0][0, 0].float()
    if word.shape != embed.shape or not bool(word.any()):
        raise ValueError(
            f"`{WORD_EMBEDDINGS}` of {name} needs to give word embeddings, but token {token} has "
            f"{tuple(embed.shape)} there and {tuple(word.shape)} in `W_E`. Pass a model that embeds words by one table."
        )
    scale = 1.0 if torch.equal(word, embed) else float(embed @ word / (word @ word))
    if not torch.allclose(word * scale, embed, rtol=1e-2, atol=1e-2 * float(embed.abs().max())):
        raise ValueError(f"`{WORD_EMBEDDINGS}` of {name} is no multiple of the word embeddings. Pass another model.")
    return tuple(seen[hook_name][0].shape[-1] for hook_name in neurons), logits.shape[-1], scale
