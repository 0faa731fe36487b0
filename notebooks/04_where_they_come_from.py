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
# # 4. Where they come from
#
# Skill neurons are found with a tuned prompt. Did tuning make them, did pretraining, or did the search? You learn
#
# - to run the same search under controls: untuned prompts, a randomly initialised model, shuffled labels,
# - to compare soft-prompt positions with the words of the text,
# - to ask whether skill neurons merely stand for the label words.

# %%
from skillneurons import (
    HookedEncoder,
    TuningConfig,
    find_skill_neurons,
    load_task,
    tune_prompt,
)
from skillneurons.findings import compare_places, origin, word_selectivity

# %% tags=["parameters"]
n_rows, n_prompt, seed = 300, 8, 0
tuning = TuningConfig(steps=60, eval_every=60, lr=0.02)

# %%
model = HookedEncoder.from_pretrained("bundled")
task = load_task("movies").subset(n_rows)
classifier = tune_prompt(
    model, task, n_prompt=n_prompt, seed=seed, config=tuning, progress=False
)
scores = find_skill_neurons(classifier, task)

# %% [markdown]
# ## Five conditions
#
# - *tuned prompt*: as found above;
# - *random prompt*: word vectors drawn at random, nothing tuned;
# - *written prompt*: the words "In summary, the text above is";
# - *random model*: the same shape before any pretraining, with a prompt tuned on it;
# - *shuffled labels*: the whole path, prompt and all, on labels without meaning. Whatever is found here is luck.
#
# Tuning on the last two learns little or nothing, and says so by a warning.

# %%
import warnings

from skillneurons import TuningWarning

warnings.simplefilter("ignore", TuningWarning)
origins = origin([classifier], task, scores=scores, config=tuning)
origins.to_dataframe().round(3)

# %% [markdown]
# The open circle is what the search sees, the filled one what is true of new rows. Under shuffled labels the two lie
# far apart: that distance is the price of looking at thousands of neurons.

# %%
ax = origins.plot()

# %% [markdown]
# If untuned prompts do about as well as the tuned one while a random model does not, then the neurons were there
# before tuning: pretraining made them, and a prompt is a place to read them at. So it is here: under the random and the
# written prompt the best neuron holds as well on new rows, and in a random model it is near one half.
#
# ## Do prompts reveal more than words?
#
# The same neurons, read at the soft prompt, at the mask, and at the words of the text, pooled. Words may do *better*
# in a small model whose answer can be read off single words; the paper's claim is for RoBERTa-base.

# %%
places = compare_places(classifier, task, scores=scores)
ax = places.plot()

# %% [markdown]
# On this model they do not: the best neurons of all are at the mask, where the answer is read, and the words' mean has
# as good ones as the soft prompt.
#
# ## Are they word detectors?
#
# A neuron's input weights say what excites it, its output weights what it writes. Here they are compared with the
# word embeddings, and the most predictive neurons with those whose output points to a label word.

# %%
words = word_selectivity(model, scores, classifier.verbalizer, n_nearest=4)
words.to_dataframe().head(6).round(2)

# %%
ax = words.plot()

# %% [markdown]
# Hardly. With the neurons that write a label word they share one in thirty (by chance none), and the words nearest to
# their weights have, with few exceptions, nothing to do with films.
#
# ## The checked number
#
# The most predictive neurons of a pretrained model hold on new rows; those found on shuffled labels do not.

# %%
table = origins.to_dataframe().set_index("condition")
print(table[["best_validation", "best_held_out", "top_held_out"]].round(3))
assert table.top_held_out["tuned prompt"] > table.top_held_out["shuffled labels"] + 0.03
assert abs(table.top_held_out["shuffled labels"] - 0.5) < 0.05

# %% [markdown]
# Next: if most neurons do not matter for a task, can they go? [Pruning](05_pruning.ipynb)
