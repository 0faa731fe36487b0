"""BitFit and adapter tuning: other small sets of trained parameters, which enter the frozen model through hooks.

They are controls for prompt tuning: do neurons that were found with prompts matter for a classifier that was tuned in
another way? Source: Wang et al. 2022 (finding F7), with BitFit of Ben Zaken et al. 2022 and adapters of Houlsby et al.
2019. The input keeps the layout `[MASK] prompt <s> text </s>`, with a short prompt that is not tuned.

Both act at every position. Cost of a step: that of prompt tuning, and the last block at all positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.prompts import SoftPrompt, Verbalizer, random_prompt, splice
from skillneurons.classifiers.tuning import Moved, TuningConfig, train
from skillneurons.models.bridge import AnyModel, Model, as_classifiable, as_encoder
from skillneurons.models.encoder import HookedEncoder
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.types import AtHook, Hook, Progress

DELTA_CONFIG = TuningConfig(lr=3e-3)


@checked
def tune_bitfit(
    model: AnyModel,
    task: Task,
    *,
    seed: int = 0,
    prompt: SoftPrompt | None = None,
    config: TuningConfig | None = None,
    progress: Progress | bool = True,
) -> Classifier:
    """A classifier whose biases were tuned, the model and the prompt frozen.

    A learnt vector is added to queries, values, MLP pre-activations, both sublayers' outputs and both LayerNorms'
    outputs of every block (of a post-LN one): that is the same as tuning the biases there. Biases of keys are left
    out, since they shift all of a query's scores by the same amount, which the softmax takes away again.
    Source: Ben Zaken et al. 2022.

    Args:
        model: Gets no gradients and is left as it was. No bridge: its blocks lack some of these hook points.
        task: See `tune_prompt`.
        seed: Of the order of the rows, and of the prompt if none is given.
        prompt: Is not tuned; one random word vector by default.
        config: Learning rate, steps and so on; by default those of prompt tuning with a learning rate of 3e-3.
        progress: As of `tune_prompt`.

    Returns:
        The classifier with its biases as `extra_hooks`. It cannot be saved.

    Raises:
        TypeError: The model is a bridge.
        ValueError: See `tune_prompt`.

    Example:
        >>> from skillneurons import HookedEncoder, TuningConfig, load_task
        >>> model, task = HookedEncoder.from_pretrained("bundled"), load_task("movies").subset(200)
        >>> config = TuningConfig(steps=40, lr=3e-2)
        >>> classifier = tune_bitfit(model, task, config=config, progress=False)
        >>> len(classifier.extra_hooks) == 7 * model.cfg.n_layers
        True
    """
    encoder = as_encoder(as_classifiable(model), "BitFit (unlike `tune_adapter`)")
    shapes = {
        f"blocks.{layer}.{name}": shape
        for layer in range(encoder.cfg.n_layers)
        for name, shape in _bias_shapes(encoder, layer).items()
    }
    biases = {name: torch.zeros(shape, device=encoder.device, requires_grad=True) for name, shape in shapes.items()}

    def hooks(values: dict[str, Tensor]) -> list[Hook]:
        return [(name, _add(bias)) for name, bias in values.items()]

    added = _Added("BitFit", biases, hooks)
    return _tune(encoder, task, added, prompt, seed=seed, config=config, progress=progress)


@checked
def tune_adapter(
    model: AnyModel,
    task: Task,
    *,
    d_bottleneck: int = 16,
    seed: int = 0,
    prompt: SoftPrompt | None = None,
    config: TuningConfig | None = None,
    progress: Progress | bool = True,
) -> Classifier:
    """A classifier with a tuned bottleneck after each sublayer, the model and the prompt frozen.

    `x + gelu(x W_down + b_down) W_up + b_up` takes the place of attention's and of the MLP's output `x`, before the
    residual sum. `W_up` and `b_up` start at zero, so that tuning begins at the model itself.
    Source: Houlsby et al. 2019.

    Args:
        model: Gets no gradients and is left as it was.
        task: See `tune_prompt`.
        d_bottleneck: Width of the bottleneck.
        seed: Of the first weights, of the order of the rows, and of the prompt if none is given.
        prompt: Is not tuned; one random word vector by default.
        config: Learning rate, steps and so on; by default those of prompt tuning with a learning rate of 3e-3.
        progress: As of `tune_prompt`.

    Returns:
        The classifier with its adapters as `extra_hooks`. It cannot be saved.

    Raises:
        ValueError: See `tune_prompt`; or `d_bottleneck` is not positive.

    Example:
        >>> from skillneurons import HookedEncoder, TuningConfig, load_task
        >>> model, task = HookedEncoder.from_pretrained("bundled"), load_task("movies").subset(200)
        >>> config = TuningConfig(steps=40, lr=3e-2)
        >>> classifier = tune_adapter(model, task, config=config, progress=False)
        >>> len(classifier.extra_hooks) == 2 * model.cfg.n_layers
        True
    """
    if d_bottleneck < 1:
        raise ValueError(f"`d_bottleneck` must be at least 1, not {d_bottleneck}.")
    model = as_classifiable(model)
    generator, d_model = torch.Generator().manual_seed(seed), model.cfg.d_model
    weights: dict[str, Tensor] = {}
    for layer in range(model.cfg.n_layers):
        for name in ("hook_attn_out", "hook_mlp_out"):
            down = torch.randn(d_model, d_bottleneck, generator=generator) * d_model**-0.5
            parts = {"down": down, "b_down": torch.zeros(d_bottleneck)}
            parts |= {"up": torch.zeros(d_bottleneck, d_model), "b_up": torch.zeros(d_model)}
            for part, value in parts.items():
                weights[f"blocks.{layer}.{name}/{part}"] = value.to(model.device).requires_grad_()

    def hooks(values: dict[str, Tensor]) -> list[Hook]:
        names = dict.fromkeys(key.split("/")[0] for key in values)
        parts = ("down", "b_down", "up", "b_up")
        return [(name, _bottleneck(*(values[f"{name}/{part}"] for part in parts))) for name in names]

    added = _Added("adapter", weights, hooks)
    return _tune(model, task, added, prompt, seed=seed, config=config, progress=progress)


@dataclass(frozen=True, eq=False)
class _Added:
    """Parameters beside a frozen model, and the hooks that any values of them make."""

    name: str
    parameters: dict[str, Tensor]
    hooks: Callable[[dict[str, Tensor]], list[Hook]]


def _tune(
    model: Model,
    task: Task,
    added: _Added,
    prompt: SoftPrompt | None,
    *,
    seed: int,
    config: TuningConfig | None,
    progress: Progress | bool,
) -> Classifier:
    given = prompt or random_prompt(model, 1, seed)
    origin = f"{added.name}, prompt {given.origin}"
    fixed = SoftPrompt(given.vectors.detach().clone(), given.model, origin, seed, given.in_front)
    first = Classifier(
        model, fixed, Verbalizer.from_words(model.tokenizer, task.label_words, task.labels), tuple(task.labels)
    )

    def snapshot() -> Classifier:
        now = {name: value.detach().clone() for name, value in added.parameters.items()}
        return replace(first, extra_hooks=added.hooks(now))

    fwd_hooks = [splice(first.prompt.vectors, first.layout.start), *added.hooks(added.parameters)]
    moved = Moved(list(added.parameters.values()), fwd_hooks, snapshot)
    return train(first, task, moved, seed=seed, config=config or DELTA_CONFIG, progress=progress)


def _bias_shapes(model: HookedEncoder, layer: int) -> dict[str, tuple[int, ...]]:
    heads = (model.cfg.n_heads, model.cfg.d_head)
    residual = (model.cfg.d_model,)
    wide = (model.cfg.d_mlps[layer],)
    shapes = {"attn.hook_q": heads, "attn.hook_v": heads, "hook_attn_out": residual}
    shapes |= {"mlp.hook_pre": wide} | ({"mlp.hook_pre_linear": wide} if model.cfg.gated_mlp else {})
    shapes |= {"hook_mlp_out": residual}
    # Where a norm's output goes into the block's own layers only, their biases are there already.
    normalized = {"hook_normalized_resid_mid": residual, "hook_normalized_resid_post": residual}
    return shapes if model.cfg.pre_norm else shapes | normalized


def _add(bias: Tensor) -> Callable[..., Tensor]:
    def hook_fn(activations: Tensor, hook: AtHook = None) -> Tensor:
        return activations + bias.to(activations.dtype)

    return hook_fn


def _bottleneck(down: Tensor, b_down: Tensor, up: Tensor, b_up: Tensor) -> Callable[..., Tensor]:
    def hook_fn(activations: Tensor, hook: AtHook = None) -> Tensor:
        wide = activations.to(down.dtype)
        return (wide + F.gelu(wide @ down + b_down) @ up + b_up).to(activations.dtype)

    return hook_fn
