"""That a `HookedEncoder` computes what the Hugging Face model does that it was made of: two tokens through both.

Weights alone do not tell: an activation exchanged in place, an adapter or a forward hook changes what a model computes
and not what its weights are called. Costs a pass over two tokens through each model; both are left as they were.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from skillneurons.models.blocks import ReadOut, RelativeBias
from skillneurons.models.config import EncoderConfig
from skillneurons.models.encoder_parts.class_head import class_head_of
from skillneurons.utilities.types import Library

# Largest distance of two results, in shares of their size: rounding is a hundredth of it, in 24 layers too.
TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-3}
TOLERANCE_IN_HALF = 0.1

# What DistilBERT's and ModernBERT's feed-forward layers call their activation function.
OWN_NAMES = {"ffn": ("activation",), "mlp": ("act",)}
# Parts of weights' names that tell what was put around a model's own layers, and what takes it off again.
WRAPPERS = {
    ("lora_", "base_layer", "ia3_", "vera_", "oft_", "modules_to_save"): (
        "a PEFT adapter around its layers",
        "Merge it first: `peft_model.merge_and_unload()`.",
    ),
    ("weight_orig", "weight_mask", "bias_orig", "bias_mask"): (
        "a pruning mask over its weights",
        "Make it permanent first: `torch.nn.utils.prune.remove(module, 'weight')`.",
    ),
    ("parametrizations.", "weight_g", "weight_v", "weight_u"): (
        "a parametrization of its weights",
        "Make it permanent first: `torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')`.",
    ),
    ("_packed_params", "SCB", "qweight", "qzeros", "absmax", "quant_state", "weight_scale"): (
        "quantized weights",
        "Load the model in float32, bfloat16 or float16.",
    ),
    ("adapter", "prefix_tuning", "prompt_encoder", "prompt_embeddings"): (
        "an adapter beside its layers",
        "Convert the model without it; `tune_adapter` trains one on a HookedEncoder.",
    ),
    ("_orig_mod.", "module."): ("a wrapper around it", "Convert the model inside the wrapper."),
}


@runtime_checkable
class Converted(Protocol):
    """What is asked of a `HookedEncoder`, which is made above this file."""

    cfg: EncoderConfig
    blocks: nn.ModuleList
    relative_bias: RelativeBias | None
    read_out: ReadOut
    unused_weights: dict[str, Tensor]

    @property
    def device(self) -> torch.device: ...

    def __call__(self, input: Tensor, *, stop_at_layer: int) -> Tensor: ...

    def unembed(self, resid: Tensor) -> Tensor: ...


def wrapped_in(names: Iterable[str]) -> tuple[str, str] | None:
    """What these weights' names say was put around a model, and what to do; None where they say nothing."""
    names = list(names)
    for marks, found in WRAPPERS.items():
        if any(mark in name for mark in marks for name in names):
            return found
    return None


def check_names(hf_class: str, wanted: Sequence[str], state: Mapping[str, Tensor]) -> None:
    """Raise where a Hugging Face model lacks weights that its class has, and say why.

    Raises:
        ValueError: The model has an adapter, a pruning mask, a parametrization or another shape of layers.
    """
    lacks = [name for name in wanted if name not in state]
    if not lacks:
        return
    if found := wrapped_in(set(state) - set(wanted)):
        what, remedy = found
        raise ValueError(f"`hf_model` has {what}: {lacks[0]!r} is not there as a plain weight. {remedy}")
    raise ValueError(
        f"`hf_model` is a {hf_class} but lacks {len(lacks)} of its weights, {lacks[0]!r} among them. Pass the model as "
        "transformers makes it."
    )


@torch.no_grad()
def check_conversion(encoder: Converted, hf_model: Library) -> None:
    """Raise unless both give the same for two tokens, after each block and at the read-out.

    Raises:
        ValueError: They do not; the message names the first place, and what is known of it.
    """
    if encoder.device.type == "meta":
        return
    _check_activations(encoder, hf_model)
    _check_layer_norms(encoder, hf_model)
    tokens = torch.tensor([_two_tokens(encoder)], device=encoder.device)
    with _in_eval(hf_model), _residuals(hf_model) as theirs:
        out = hf_model(tokens, output_hidden_states=False, return_dict=True)
    resid = encoder(tokens, stop_at_layer=0)
    if len(theirs) != encoder.cfg.n_layers + 1:
        raise ValueError(
            f"`hf_model` runs {len(theirs) - 1} layers, but its configuration says {encoder.cfg.n_layers}. Set "
            "`config.num_hidden_layers` to what it has."
        )
    mask = None if encoder.relative_bias is None else encoder.relative_bias.scores(2, None)
    for layer, expected in enumerate(theirs):
        if layer:
            resid = encoder.blocks[layer - 1](resid, mask, None)
        if not _same(resid, expected):
            raise ValueError(_differs("the embeddings" if not layer else f"layer {layer - 1}", resid, expected))
        resid = expected  # so that a difference is told where it arises
    if encoder.cfg.read_out == "mlm" and not _same(encoder.unembed(resid), out[0]):
        raise ValueError(_differs("the language model's head", encoder.unembed(resid), out[0]))
    _check_class_head(encoder, resid, out)


def _check_class_head(encoder: Converted, resid: Tensor, out: Library) -> None:
    try:
        head = class_head_of(encoder.cfg, encoder.unused_weights)
    except ValueError:
        return  # of numbers or several labels, which is refused where a classifier is made of it
    if head is not None and not _same(ours := head(encoder.read_out.final(resid[:, 0])), out[0]):
        raise ValueError(_differs("the head for classes", ours, out[0]))


def _two_tokens(encoder: Converted) -> list[int]:
    """The two last ids that are not padding: words, where the first ones are special tokens."""
    ids = list(islice((i for i in range(encoder.cfg.d_vocab - 1, -1, -1) if i != encoder.cfg.pad_token_id), 2))
    return ids if len(ids) == 2 else ids * 2


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """In shares of the size of theirs."""
    wide, expected = ours.double(), theirs.to(ours.device).double()
    return float((wide - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float64).tiny))


def _same(ours: Tensor, theirs: Tensor) -> bool:
    # A distance of NaN is none either.
    return ours.shape == theirs.shape and _distance(ours, theirs) <= TOLERANCES.get(ours.dtype, TOLERANCE_IN_HALF)


def _differs(where: str, ours: Tensor, theirs: Tensor) -> str:
    if ours.shape != theirs.shape:
        what = f"gives {tuple(theirs.shape)} for two tokens, where {tuple(ours.shape)} is expected"
    else:
        what = f"computes something else than its weights and configuration say ({_distance(ours, theirs):.2g} off)"
    return (
        f"`hf_model` {what}, first in {where}. A HookedEncoder would not be the same model: take off hooks, adapters "
        "and replaced modules, or set its configuration to what it computes."
    )


def _check_activations(encoder: Converted, hf_model: Library) -> None:
    """Compare activation functions by themselves: GELU and its approximation differ by less than halves round."""
    at = torch.linspace(-4, 4, 65, device=encoder.device, dtype=torch.float32)
    expected = ACT2FN[encoder.cfg.act_fn](at)
    for name, module in hf_model.named_modules():
        for attribute in ("intermediate_act_fn", "transform_act_fn", *OWN_NAMES.get(name.rsplit(".", 1)[-1], ())):
            function = getattr(module, attribute, None)
            if function is not None and not torch.allclose(function(at), expected, atol=1e-6):
                came = type(function).__name__ if isinstance(function, nn.Module) else getattr(function, "__name__", "")
                raise ValueError(
                    f"The activation function at `{name}.{attribute}` of `hf_model` is {came}, but its configuration "
                    f"says {encoder.cfg.act_fn!r} (`hidden_act`). Set one to the other before converting."
                )


def _check_layer_norms(encoder: Converted, hf_model: Library) -> None:
    for name, module in hf_model.named_modules():
        if isinstance(module, nn.LayerNorm) and module.eps != encoder.cfg.eps and not name.startswith("cls.seq"):
            raise ValueError(
                f"`{name}` of `hf_model` has eps {module.eps}, but its configuration says {encoder.cfg.eps} "
                "(`layer_norm_eps`). Set one to the other before converting."
            )


@contextmanager
def _residuals(hf_model: Library) -> Iterator[list[Tensor]]:
    """A list that a pass inside fills: the embeddings' output and each layer's.

    By hooks that go again: those by which transformers itself gives hidden states stay on the model.
    """
    base, seen = getattr(hf_model, hf_model.base_model_prefix, hf_model), []
    stack = base.transformer if hasattr(base, "transformer") else getattr(base, "encoder", base)
    layers = stack.layer if hasattr(stack, "layer") else stack.layers

    def look(module: nn.Module, inputs: Library, output: Library) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).detach())

    embeddings = getattr(base, "embeddings_project", base.embeddings)
    handles = [module.register_forward_hook(look) for module in {embeddings, *layers}]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _in_eval(hf_model: Library) -> Iterator[None]:
    """Without dropout; each module gets its mode back."""
    before = [(module, module.training) for module in hf_model.modules()]
    try:
        hf_model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training
