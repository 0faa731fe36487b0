"""A fine-tuned classifier of Hugging Face's whose chosen neurons carry the label by construction: `planted`'s encoder.

Its head reads, at the first token, the direction that the planted neurons of layers 0 and 1 write to. So there, and at
no other position, these neurons are the only path from the text to the answer.
"""

from dataclasses import replace

import torch
from planted import D_MLP, D_MODEL, N_LAYERS, _axis, planted_model, t
from transformers import RobertaConfig, RobertaForSequenceClassification

from skillneurons.models.checkpoints import weight_names


def fine_tuned(which=0, labels=("bad", "good"), flip=False):
    """The model and its tokenizer.

    Args:
        which: The signal that the head answers by.
        labels: Names of the classes, in the configuration.
        flip: The other way round, as a head with classes in another order.
    """
    ours = planted_model()
    config = RobertaConfig(
        vocab_size=ours.cfg.d_vocab,
        hidden_size=D_MODEL,
        num_attention_heads=2,
        num_hidden_layers=N_LAYERS,
        intermediate_size=D_MLP,
        max_position_embeddings=ours.cfg.n_ctx + 2,
        layer_norm_eps=1e-5,
        type_vocab_size=1,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    hf = RobertaForSequenceClassification(config).eval()
    names = weight_names(replace(ours.cfg, hf_class=type(hf).__name__))
    hf.load_state_dict({names[name]: weight for name, weight in ours.state_dict().items()}, strict=False)
    with torch.no_grad():
        for layer in (hf.classifier.dense, hf.classifier.out_proj):
            layer.weight.zero_()
            layer.bias.zero_()
        hf.classifier.dense.weight[0] = _axis(t(which))
        hf.classifier.out_proj.weight[:, 0] = torch.tensor([3.0, -3.0] if flip else [-3.0, 3.0])
    return hf, ours.tokenizer


def fine_tuned_folder(folder, **options):
    """The same in a folder, as `save_pretrained` writes it."""
    hf, tokenizer = fine_tuned(**options)
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
