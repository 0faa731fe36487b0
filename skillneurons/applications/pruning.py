"""A smaller `HookedEncoder` with the removed neurons folded away, and what it still costs to run.

Pruning costs one copy of the weights; nothing is run.
"""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier
from skillneurons.models.bridge import as_encoder
from skillneurons.models.config import EncoderConfig
from skillneurons.models.encoder import HookedEncoder
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.utilities.arguments import checked


@checked
def prune(
    classifier: Classifier,
    keep: NeuronSet,
    baseline: Float[Tensor, "layer neuron"] | Float[Tensor, "prompt layer neuron"],
    *,
    layers: Sequence[int] | None = None,
) -> Classifier:
    """The classifier on a smaller encoder without the neurons outside `keep`.

    A removed neuron n is held at its mean: `b_out' = b_out + sum_n a_bsl(n) W_out[n]`. So the result equals the old
    classifier with these neurons set to `baseline` at every position, up to rounding. Source: Wang et al. 2022, on
    network pruning as an application. Unlike the authors' code, the means of the kept neurons are not added again.

    Args:
        classifier: Is left as it was; the new one shares nothing with it but the tokenizer.
        keep: The neurons that stay. Neuron `i` of layer `l` of the new model is neuron `keep.indices(l)[i]` of the old.
        baseline: Mean activation of each neuron, which the removed ones are replaced by. `[prompt layer neuron]` is
            averaged over the prompt's positions, since a bias is the same at all positions.
        layers: The layers to prune; others stay whole, whatever `keep` says. By default those where `keep` lacks
            neurons.

    Returns:
        Its prompt has the same vectors. Tune them on it by `tune_prompt(pruned.model, task, start=pruned.prompt)`.

    Raises:
        TypeError: The model is not a `HookedEncoder`.
        ValueError: `keep`, `baseline` or `layers` do not fit the model, a needed mean is not finite, or the classifier
            has hooks of its own on the neurons of a layer to prune.

    Example:
        >>> import torch
        >>> from skillneurons import NeuronSet, load_example, prune
        >>> classifier, _ = load_example()
        >>> keep = NeuronSet.from_pairs([(2, 7), (3, 0), (3, 9)], n_layers=4, d_mlp=768)
        >>> prune(classifier, keep, torch.zeros(4, 768), layers=[2, 3]).model.cfg.d_mlps
        (768, 768, 1, 2)
    """
    model = prunable(classifier)
    _check_fits(classifier, model, keep)
    means = _checked_baseline(baseline, keep)
    removed = keep.exists & ~keep.mask
    chosen = _checked_layers(layers, removed)
    _check_hooks(classifier, chosen)

    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    widths = list(model.cfg.d_mlps)
    for layer in chosen:
        mlp, kept, dropped = f"blocks.{layer}.mlp", keep.indices(layer), removed[layer].nonzero().flatten()
        if not bool(means[layer, dropped].isfinite().all()):
            raise ValueError(f"`baseline` has means that are NaN or infinite in layer {layer}. Take it again.")
        W_out, b_out = weights[f"{mlp}.output.weight"], weights[f"{mlp}.output.bias"]
        folded = W_out.double()[:, dropped.to(W_out.device)] @ means[layer, dropped].to(W_out.device)
        kept = kept.to(W_out.device)
        for part in ("input.weight", "input.bias", *(("gate.weight", "gate.bias") if model.cfg.gated_mlp else ())):
            weights[f"{mlp}.{part}"] = weights[f"{mlp}.{part}"][kept]
        weights[f"{mlp}.output.weight"] = W_out[:, kept]
        weights[f"{mlp}.output.bias"] = (b_out.double() + folded).to(b_out.dtype)
        widths[layer] = len(kept)
    pruned = HookedEncoder.from_weights(
        _pruned_config(model.cfg, widths), weights, tokenizer=model.tokenizer, unused=model.unused_weights
    )
    prompt = replace(classifier.prompt, vectors=classifier.prompt.vectors.clone(), model=pruned.fingerprint())
    return replace(classifier, model=pruned, prompt=prompt, history=())


def prunable(classifier: Classifier) -> HookedEncoder:
    """The classifier's model, which must be an encoder of ours."""
    return as_encoder(classifier.model, "Pruning")


def _check_fits(classifier: Classifier, model: HookedEncoder, keep: NeuronSet) -> None:
    if keep.d_mlps != model.cfg.d_mlps:
        raise ValueError(
            f"`keep` has {keep.d_mlps} neurons per layer, but the model has {model.cfg.d_mlps}. Use a set "
            "of this model."
        )
    if keep.model is not None and keep.model != classifier.fingerprint:
        raise ValueError(
            f"`keep` was chosen on a model with fingerprint {keep.model}, but the classifier's has "
            f"{classifier.fingerprint}. Score the neurons of this model."
        )


def _checked_baseline(baseline: Tensor, keep: NeuronSet) -> Float[Tensor, "layer neuron"]:
    if baseline.ndim not in (2, 3) or baseline.shape[-2:] != keep.mask.shape:
        raise ValueError(
            f"`baseline` needs shape [layer, neuron] or [prompt, layer, neuron] with {tuple(keep.mask.shape)} at the "
            f"end, but has {tuple(baseline.shape)}. Take it on this model, by `collect` and `LabelSums` for example."
        )
    means = baseline.detach().cpu().double()
    return means.mean(dim=0) if means.ndim == 3 else means


def _checked_layers(layers: Sequence[int] | None, removed: Tensor) -> list[int]:
    if layers is None:
        return removed.any(dim=1).nonzero().flatten().tolist()
    if bad := [layer for layer in layers if not 0 <= layer < len(removed)]:
        raise ValueError(f"`layers` has {bad[0]}, but the model has layers 0 to {len(removed) - 1}.")
    return sorted(set(layers))


def _check_hooks(classifier: Classifier, layers: Sequence[int]) -> None:
    points = ("hook_pre", "hook_pre_linear", "hook_post")
    on_neurons = {f"blocks.{layer}.mlp.{hook}" for layer in layers for hook in points}
    if clash := sorted(on_neurons & {name for name, _ in classifier.extra_hooks}):
        raise ValueError(
            f"The classifier has a hook of its own on {clash[0]}, which would meet a layer of another width. Prune a "
            "classifier made of a prompt, and tune the rest on the pruned model."
        )


def _pruned_config(cfg: EncoderConfig, widths: Sequence[int]) -> EncoderConfig:
    if tuple(widths) == cfg.d_mlps:
        return replace(cfg)
    hf_config = cfg.hf_config | ({"intermediate_size": max(widths)} if cfg.hf_config else {})
    source = f"{cfg.source.removesuffix(' (pruned)')} (pruned)"
    return replace(cfg, d_mlps=tuple(widths), d_mlp=max(widths), hf_config=hf_config, source=source)


# What a choice of neurons costs


def n_parameters(model: HookedEncoder) -> int:
    """Number of weights, tied ones counted once.

    Example:
        >>> from skillneurons import HookedEncoder
        >>> from skillneurons.applications.pruning import n_parameters
        >>> n_parameters(HookedEncoder.from_pretrained("bundled"))
        3423488
    """
    return sum(parameter.numel() for parameter in model.parameters())


def forward_flops(cfg: EncoderConfig, n_pos: int, n_labels: int) -> int:
    """Floating-point operations of the matrix products in one example's forward pass to its label words.

    A multiplication and an addition count as two. The last block is computed for the mask only, as `Classifier` does;
    norms, activations and softmax are left out, as is usual.

    Args:
        cfg: Shape of the model.
        n_pos: Positions: mask, prompt and text.
        n_labels: Label words that are read.

    Example:
        >>> shape = {"d_model": 768, "d_head": 64, "n_heads": 12, "n_layers": 12, "n_ctx": 512, "d_vocab": 50265}
        >>> whole = EncoderConfig(**shape, d_mlp=3072, act_fn="gelu")
        >>> pruned = EncoderConfig(**shape, d_mlps=(3072,) * 3 + (61,) * 9, act_fn="gelu")
        >>> round(forward_flops(pruned, 48, 2) / forward_flops(whole, 48, 2), 3)
        0.5...
    """
    d, total = cfg.d_model, 0
    for layer, d_mlp in enumerate(cfg.d_mlps):
        n_queries = 1 if layer == cfg.n_layers - 1 else n_pos
        total += 2 * (2 * n_pos + 2 * n_queries) * d * d  # keys and values; queries and outputs
        total += 2 * 2 * n_queries * n_pos * d  # scores and their use
        total += 2 * (3 if cfg.gated_mlp else 2) * n_queries * d * d_mlp
    head = 2 * d * d if cfg.read_out == "mlm" else 0
    return total + head + 2 * d * n_labels


def weight_magnitude(model: HookedEncoder) -> Float[Tensor, "layer neuron"]:
    """`|W_in[:, n]| |W_out[n, :]|`, Euclidean norms: the score of pruning by magnitude, blind to task and data.

    Example:
        >>> from skillneurons import HookedEncoder, top_neurons
        >>> from skillneurons.applications.pruning import weight_magnitude
        >>> magnitude = weight_magnitude(HookedEncoder.from_pretrained("bundled"))
        >>> magnitude.shape
        torch.Size([4, 768])
        >>> top_neurons(magnitude, 0.1)
        NeuronSet(308 of 3,072 neurons; per layer [77, 77, 77, 77])
    """
    return model.W_in.norm(dim=1).detach().cpu() * model.W_out.norm(dim=2).detach().cpu()
