"""What a HookedEncoder is made of must compute what its weights and configuration say, or is refused and left alone."""

import re

import peft
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers.activations import ACT2FN

from skillneurons import HookedEncoder
from skillneurons.models.conversion_check import wrapped_in

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def block_of(model, layer=1):
    return getattr(model, model.base_model_prefix, model).encoder.layer[layer]


def swap_activation(model):
    block_of(model).intermediate.intermediate_act_fn = nn.ReLU()


def approximate_activation(model):
    block_of(model, 0).intermediate.intermediate_act_fn = ACT2FN["gelu_new"]


def hook_a_layer(model):
    block_of(model).output.dense.register_forward_hook(lambda module, inputs, output: output * 1.1)


def patch_a_layer(model):
    dense = block_of(model).intermediate.dense
    dense.forward = lambda x: nn.functional.linear(x, dense.weight, dense.bias).clamp_max(0.1)


def widen_epsilon(model):
    block_of(model).output.LayerNorm.eps = 0.1


def drop_a_layer(model):
    encoder = getattr(model, model.base_model_prefix, model).encoder
    encoder.layer = encoder.layer[:1]


def repeat_a_layer(model):
    encoder = getattr(model, model.base_model_prefix, model).encoder
    encoder.layer = nn.ModuleList([*encoder.layer, encoder.layer[0]])


def mask_weights(model):
    prune.random_unstructured(block_of(model).intermediate.dense, "weight", amount=0.5)


def mask_biases(model):
    prune.random_unstructured(block_of(model).output.dense, "bias", amount=3)


def parametrize_weights(model):
    parametrize.register_parametrization(block_of(model).output.dense, "weight", nn.Softplus())


def normalize_weights(model):
    nn.utils.parametrizations.weight_norm(block_of(model).output.dense)


def add_a_bottleneck(model):
    class Adapted(nn.Module):
        def __init__(self, dense):
            super().__init__()
            self.weight, self.bias, self.adapter = dense.weight, dense.bias, nn.Linear(16, 16)

        def forward(self, x):
            x = nn.functional.linear(x, self.weight, self.bias)
            return x + self.adapter(x)

    block_of(model).output.dense = Adapted(block_of(model).output.dense)


CHANGES = {
    swap_activation: r"layer\.1\.intermediate\.intermediate_act_fn` of `hf_model` is ReLU, but .* 'gelu'",
    approximate_activation: r"layer\.0\.intermediate\.intermediate_act_fn` .* is NewGELU\w*, but .* 'gelu'",
    hook_a_layer: r"first in layer 1\. .*take off hooks",
    patch_a_layer: r"first in layer 1\. .*replaced modules",
    widen_epsilon: r"layer\.1\.output\.LayerNorm` of `hf_model` has eps 0\.1, but .* 1e-05",
    drop_a_layer: r"lacks 16 of its weights, '[a-z.]*encoder\.layer\.1\.",
    repeat_a_layer: r"runs 3 layers, but its configuration says 2",
    mask_weights: r"a pruning mask .*layer\.1\.intermediate\.dense\.weight' .*prune\.remove",
    mask_biases: r"a pruning mask .*layer\.1\.output\.dense\.bias' ",
    parametrize_weights: r"a parametrization .*layer\.1\.output\.dense\.weight' ",
    normalize_weights: r"a parametrization .*layer\.1\.output\.dense\.weight' ",
    add_a_bottleneck: r"first in layer 1\. .*adapters",
}


@pytest.mark.parametrize("architecture", ["roberta", "bert-headless", "mpnet"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_that_computes_something_else_than_it_says_is_refused(build_hf, change, architecture):
    model = build_hf(architecture)
    change(model)
    with pytest.raises(ValueError, match=CHANGES[change]):
        HookedEncoder.from_hf(model)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # of PEFT
@pytest.mark.parametrize("bias", ["none", "lora_only"])
@pytest.mark.parametrize("names", [["query", "value"], ["dense"]])
def test_a_base_model_that_lora_has_wrapped_is_refused_and_a_merged_one_taken(build_hf, names, bias):
    wrapped = peft.get_peft_model(build_hf("roberta"), peft.LoraConfig(target_modules=names, bias=bias, r=2))
    with pytest.raises(ValueError, match=rf"a PEFT adapter .*{names[0]}\.weight.*merge_and_unload"):
        HookedEncoder.from_hf(wrapped.base_model.model)
    assert HookedEncoder.from_hf(wrapped.merge_and_unload()).cfg.n_layers == 2


def test_a_head_of_other_making_is_refused(build_hf):
    model = build_hf("bert")
    model.cls.predictions.transform.dense.register_forward_hook(lambda module, inputs, output: -output)
    with pytest.raises(ValueError, match="first in the language model's head"):
        HookedEncoder.from_hf(model)


def test_embeddings_of_other_making_are_refused(build_hf):
    model = build_hf("roberta")
    model.roberta.embeddings.word_embeddings.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(ValueError, match="first in the embeddings"):
        HookedEncoder.from_hf(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_is_taken_and_a_changed_layer_refused_in_each(build_hf, dtype):
    model = build_hf("bert", dtype)
    assert HookedEncoder.from_hf(model).dtype == dtype
    hook_a_layer(model)
    block_of(model).output.dense.register_forward_hook(lambda module, inputs, output: -output)
    with pytest.raises(ValueError, match="first in layer 1"):
        HookedEncoder.from_hf(model)


def test_the_model_is_left_as_it_was(build_hf):
    model = build_hf("roberta").train()
    model.roberta.encoder.layer[1].eval()
    model.requires_grad_(False)
    model.lm_head.bias.requires_grad_(True)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    encoder = HookedEncoder.from_hf(model)
    assert not encoder.training
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()].count(True) == 1
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(not getattr(module, kind) for module in model.modules() for kind in HOOKS)
    hook_a_layer(model)
    with pytest.raises(ValueError, match="layer 1"):
        HookedEncoder.from_hf(model)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(("name", "what"), [("x.lora_A.d", "PEFT"), ("weight_mask", "pruning"), ("encoder.x", None)])
def test_names_of_weights_tell_what_is_around_a_model(name, what):
    found = wrapped_in([name])
    assert found is None if what is None else found and re.search(what, found[0])
