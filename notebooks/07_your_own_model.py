# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. Your own model, through TransformerBridge
#
# `HookedEncoder` reads RoBERTa's and BERT's family. Everything else that TransformerLens can boot goes through its
# `TransformerBridge`, wherever a `HookedEncoder` could be passed; `load_model(name)` makes the one that fits. You learn
#
# - that the two give the same numbers where both can be used,
# - what is different for a model that reads from left to right,
# - which axis "the neurons" are, and what a bridge costs.

# %%
import tempfile
from importlib.resources import files

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel

from skillneurons import (
    Classifier,
    HookedEncoder,
    SoftPrompt,
    TuningConfig,
    Verbalizer,
    find_skill_neurons,
    load_task,
    random_prompt,
    tune_prompt,
)
from skillneurons.models.bridge import as_classifiable

# %% tags=["parameters"]
n_rows, n_prompt, seed = 60, 4, 0

# %% [markdown]
# ## The same model twice

# %%
folder = str(files("skillneurons") / "bundled" / "model")
ours = HookedEncoder.from_pretrained("bundled")
bridge = as_classifiable(TransformerBridge.boot_transformers(folder, device="cpu"))
bridge.cfg

# %% [markdown]
# The same prompt in front of both. A prompt belongs to one model, known by its fingerprint, so it is made once more
# for the bridge, from the same vectors.

# %%
task = load_task("movies").subset(n_rows)
words = Verbalizer.from_words(ours.tokenizer, task.label_words)
prompt = random_prompt(ours, n_prompt, seed)
on_ours = Classifier(ours, prompt, words, task.labels)
on_bridge = Classifier(
    bridge,
    SoftPrompt(prompt.vectors, bridge.fingerprint(), "random", seed),
    words,
    task.labels,
)
difference = (
    (on_ours.logits(task.test) - on_bridge.logits(task.test)).abs().max().item()
)
print(f"largest difference of a logit: {difference:.1e}")

# %% [markdown]
# ## A model that reads from left to right
#
# In a decoder a position sees only what is before it. So the prompt goes *behind* the text, and the label is read at
# the last prompt position, as the next token. Nothing else changes. This GPT-2 is tiny and random, so that no
# download is needed; pass `"gpt2"` to `boot_transformers` for the real one.

# %%
config = GPT2Config(
    n_embd=32,
    n_layer=2,
    n_head=2,
    n_positions=64,
    n_inner=64,
    vocab_size=len(ours.tokenizer),
)
torch.manual_seed(seed)
with tempfile.TemporaryDirectory() as path:
    GPT2LMHeadModel(config).save_pretrained(path)
    ours.tokenizer.save_pretrained(path)
    decoder = as_classifiable(TransformerBridge.boot_transformers(path, device="cpu"))
decoder.cfg

# %%
classifier = tune_prompt(
    decoder,
    task,
    n_prompt=n_prompt,
    seed=seed,
    config=TuningConfig(steps=20, eval_every=20),
    progress=False,
)
classifier.layout

# %%
scores = find_skill_neurons(classifier, task)
scores.predictivity.shape, scores.best(3)

# %% [markdown]
# A random model has no skill, and sixty rows leave much to luck: `predictivity` looks fine, `held_out` says what it
# is worth.
#
# ## Which axis are the neurons?
#
# In every model, the input of the MLP's output projection, `blocks.{layer}.mlp.hook_post`. In GPT-2 and BERT that is
# `act(W_in x)`; in gated MLPs (Llama, Qwen, Gemma) the product `act(W_gate x) * W_in x`.
#
# A bridge runs every block at every position and cannot be entered halfway, so sweeps cost more than on a
# `HookedEncoder`. Pruning needs a `HookedEncoder`.

# %% [markdown]
# ## The checked number
#
# Two implementations of one computation in float32 agree to rounding, and every neuron of the decoder got a score.

# %%
assert difference < 2e-5
assert scores.predictivity.shape == (2, 64)

# %% [markdown]
# Next: what all these numbers do and do not show: [Honest statistics](08_honest_statistics.ipynb)
