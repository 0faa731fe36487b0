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
# # 10. What the prompt looks at, and what neurons say word by word
#
# A skill neuron is found at the soft prompt's positions. What reaches it there, attention has carried. You learn
#
# - to run a classifier with TransformerLens's cache, its prompt in place,
# - how much of the prompt's attention goes to the text, layer by layer, and to which words,
# - to see neurons over the words of a text,
# - to hand both to [CircuitsVis](https://github.com/TransformerLensOrg/CircuitsVis), where it is installed
#   (`pip install circuitsvis`).

# %%
from importlib.util import find_spec

import matplotlib.pyplot as plt
import torch
from IPython.display import display

from skillneurons import find_skill_neurons, load_example, text_heat

# %% tags=["parameters"]
text = "The plot is thin, but the acting is wonderful."
has_circuitsvis = find_spec("circuitsvis") is not None

# %% [markdown]
# ## The classifier's own pass, cached
#
# `classifier.batches` lays mask, prompt and text out; `classifier.fwd_hooks` put the prompt's vectors in place. With
# these hooks, the model is the classifier, and its cache holds what the classifier computes.

# %%
classifier, task = load_example()
model, layout = classifier.model, classifier.layout
(batch,) = classifier.batches([{"text": text, "label": 1}])
with model.hooks(fwd_hooks=classifier.fwd_hooks):
    logits, cache = model.run_with_cache(batch.tokens)
n_prompt, n_text = len(classifier.prompt), batch.tokens.shape[1] - layout.n_added
words = model.to_str_tokens(batch.tokens[0, layout.n_added :])
words = [word.replace("<", "[").replace(">", "]") for word in words]  # no tags
names = ["[MASK]", *(f"p{i}" for i in range(1, n_prompt + 1)), *words]
print(names)
cache["pattern", 0].shape  # batch, head, query, key

# %% [markdown]
# ## What the prompt looks at

# %%
patterns = torch.stack([cache["pattern", layer][0] for layer in range(4)])
prompt, words_at = layout.positions("prompt"), layout.positions("text")
by_layer = patterns[:, :, prompt, words_at].sum(-1).mean((1, 2))
print("share of the prompt's attention on the text:", by_layer.numpy().round(2))

# %%
figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
image = axes.imshow(
    patterns[:, :, prompt, words_at].mean((1, 2)), aspect="auto", cmap="Blues"
)
axes.set_xticks(range(n_text), words, rotation=60, ha="right", fontsize=8)
axes.set(
    ylabel="layer", yticks=range(4), title="Attention from the prompt, mean over heads"
)
figure.colorbar(image, label="share of attention")
plt.show()

# %% [markdown]
# The same for each head, to be looked through: rows are where attention comes from.

# %%
if has_circuitsvis:
    from circuitsvis.attention import attention_patterns

    display(attention_patterns(tokens=names, attention=patterns[1]))

# %% [markdown]
# ## Neurons over words
#
# The five best neurons of the task, at the words instead of at the prompt. There they may say something else, or
# nothing: skill neurons are chosen by what they do at the prompt.

# %%
scores = find_skill_neurons(classifier, task, progress=False)
best = scores.best(5)
pairs = [(int(row.layer), int(row.neuron)) for row in best.itertuples()]
post = torch.stack(
    [cache[f"blocks.{layer}.mlp.hook_post"][0, :, i] for layer, i in pairs], 1
)
text_heat(classifier, [text], pairs[0])

# %%
figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
values, limit = post[words_at].T, float(post.abs().max())
image = axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit)
axes.set_xticks(range(n_text), words, rotation=60, ha="right", fontsize=8)
axes.set_yticks(range(5), [f"{layer}:{i}" for layer, i in pairs], fontsize=8)
axes.set(ylabel="layer:neuron", title="Activation of the best neurons at the words")
figure.colorbar(image, label="activation")
plt.show()

# %%
if has_circuitsvis:
    from circuitsvis.activations import text_neuron_activations

    display(text_neuron_activations(tokens=names, activations=post[:, None]))

# %% [markdown]
# ## The checked number
#
# Attention adds up to one wherever it comes from; and what the cache holds of a neuron at the words is what
# `text_heat` says of it.

# %%
heat = text_heat(classifier, [text], pairs[0])
first_word = post[layout.n_added + 1, 0].item()
print(f"{heat.words[0][0]!r}: {heat.values[0][0]:.3f} and {first_word:.3f}")
assert torch.allclose(patterns.sum(-1), torch.ones(()), atol=1e-5)
assert abs(heat.values[0][0].item() - first_word) < 1e-4

# %% [markdown]
# More figures, one for each result: [Gallery](../docs/gallery.md)
