"""BitFit and adapters: what their hooks compute, and that tuning them works and leaves the model alone."""

import copy

import pytest
import torch
from planted import planted_classifier

from skillneurons import TuningConfig, evaluate, find_skill_neurons
from skillneurons.classifiers.bitfit_and_adapters import _add, _bias_shapes, _bottleneck, tune_adapter, tune_bitfit
from skillneurons.findings import random_model, survives_retuning
from skillneurons.plots import plot_necessity

CONFIG = TuningConfig(lr=1e-2, steps=40, eval_every=20)
SIZES = {"n_train": 97, "n_validation": 61, "n_test": 59}


@pytest.fixture(scope="module")
def planted():
    return planted_classifier(0, **SIZES)


def test_bias_hooks_are_the_models_own_biases(tiny_model):
    """Adding to a hook's activations is the same as adding to the bias parameter behind it."""
    generator = torch.Generator().manual_seed(0)
    changed, hooks = copy.deepcopy(tiny_model), []
    behind = {
        "attn.hook_q": "attn.query.bias",
        "attn.hook_v": "attn.value.bias",
        "hook_attn_out": "attn.output.bias",
        "hook_normalized_resid_mid": "ln1.bias",
        "mlp.hook_pre": "mlp.input.bias",
        "hook_mlp_out": "mlp.output.bias",
        "hook_normalized_resid_post": "ln2.bias",
    }
    for layer in range(tiny_model.cfg.n_layers):
        assert set(_bias_shapes(tiny_model, layer)) == set(behind)
        for name, shape in _bias_shapes(tiny_model, layer).items():
            bias = torch.randn(shape, generator=generator)
            hooks.append((f"blocks.{layer}.{name}", _add(bias)))
            with torch.no_grad():
                changed.blocks[layer].get_parameter(behind[name]).add_(bias.flatten())
    tokens = tiny_model.to_tokens(" lovely film")
    with tiny_model.hooks(fwd_hooks=hooks):
        hooked = tiny_model(tokens)
    torch.testing.assert_close(hooked, changed(tokens), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(hooked, tiny_model(tokens), atol=1e-2)


def test_a_bias_of_the_keys_would_change_nothing(tiny_model):
    tokens = tiny_model.to_tokens(" lovely film")
    bias = torch.randn(tiny_model.cfg.n_heads, tiny_model.cfg.d_head, generator=torch.Generator().manual_seed(0))
    with tiny_model.hooks(fwd_hooks=[("blocks.0.attn.hook_k", _add(bias))]):
        torch.testing.assert_close(tiny_model(tokens), tiny_model(tokens), rtol=1e-4, atol=1e-4)
        hooked = tiny_model(tokens)
    torch.testing.assert_close(hooked, tiny_model(tokens), rtol=1e-4, atol=1e-4)


def test_a_bottleneck_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    x, down, b_down, up, b_up = (
        torch.randn(shape, generator=generator) for shape in ((2, 3, 5), (5, 7), (7,), (7, 5), (5,))
    )
    wanted = torch.empty_like(x)
    for i in range(2):
        for j in range(3):
            hidden = torch.nn.functional.gelu(down.T @ x[i, j] + b_down)
            wanted[i, j] = x[i, j] + up.T @ hidden + b_up
    torch.testing.assert_close(_bottleneck(down, b_down, up, b_up)(x), wanted)


@pytest.mark.parametrize("tune", [tune_bitfit, tune_adapter])
def test_tuning_learns_the_task_and_leaves_the_model_alone(planted, tune):
    before = planted.model.fingerprint()
    first = tune(planted.model, planted.task, seed=1, config=CONFIG, progress=False)
    again = tune(planted.model, planted.task, seed=1, config=CONFIG, progress=False)
    assert evaluate(first, planted.task.test).accuracy > 0.9
    assert planted.model.fingerprint() == before
    assert not any(point.has_hooks() for point in planted.model.hook_dict.values())
    assert torch.equal(first.logits(planted.task.test), again.logits(planted.task.test))
    assert len(first.prompt) == 1 and first.history and all(p.grad is None for p in planted.model.parameters())
    with pytest.raises(ValueError, match="hooks of its own"):
        first.save("nowhere")


def test_an_untrained_adapter_is_the_model_itself(planted):
    config = TuningConfig(lr=1e-12, steps=1)
    task, fresh = planted_classifier(1, **SIZES).task, random_model(planted.model)
    with pytest.warns(UserWarning, match="collapsed"):
        tuned = tune_adapter(fresh, task, config=config, progress=False)
    plain = tuned.with_prompt(tuned.prompt)
    object.__setattr__(plain, "extra_hooks", ())
    torch.testing.assert_close(tuned.logits(task.test), plain.logits(task.test), rtol=1e-4, atol=1e-5)


def test_prompt_found_neurons_matter_to_other_tuning_too(planted):
    scores = find_skill_neurons(planted.classifier, planted.task)
    results = survives_retuning(
        planted.model, planted.task, scores, kinds=("zero",), fractions=(0.07,), n_random=4, config=CONFIG
    )
    for method in ("bitfit", "adapter"):
        assert results[method].unperturbed.accuracy > 0.9
        assert results[method].meta["positions"] == "all"
        assert results[method].margin_gap[0, 0, 0, 0, 2] < 0
    assert "all positions" in plot_necessity(results["adapter"]).get_title(loc="left")


def test_unknown_methods_and_widths_are_refused(planted):
    scores = find_skill_neurons(planted.classifier, planted.task)
    with pytest.raises(ValueError, match=r"not \('lora',\)"):
        survives_retuning(planted.model, planted.task, scores, methods=("lora",))
    with pytest.raises(ValueError, match="not 0"):
        tune_adapter(planted.model, planted.task, d_bottleneck=0, progress=False)
