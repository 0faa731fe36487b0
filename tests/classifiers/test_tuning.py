"""Prompt tuning: the prompt learns, nothing else moves, and what cannot be learnt is said so."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import unchecked

from skillneurons.classifiers.bitfit_and_adapters import tune_adapter
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import evaluate
from skillneurons.classifiers.prompts import Verbalizer, random_prompt, splice
from skillneurons.classifiers.tuning import (
    Moved,
    TuningConfig,
    TuningWarning,
    collapsed,
    frozen,
    train,
    tune_prompt,
)
from skillneurons.tasks.task import Task

QUICK = TuningConfig(lr=0.05, steps=4, batch_size=7, eval_every=2)


def tune(model, task, config=QUICK, **options):
    return tune_prompt(model, task, n_prompt=3, config=config, **unchecked({"progress": False, **options}))


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def without_information(task):
    """Every text once with each label: no answer is better than chance, on any draw."""
    splits = {
        split: [row | {"label": label} for row in getattr(task, split) for label in (0, 1)]
        for split in ("train", "validation", "test")
    }
    return replace(task, **splits)


@pytest.mark.filterwarnings("ignore::skillneurons.tuning.TuningWarning")
class TestShortRuns:
    """Too short to learn: what happens around the learning."""

    def test_only_the_prompt_moves(self, tiny_model, tiny_task):
        before, fingerprint = weights_of(tiny_model), tiny_model.fingerprint()
        start = random_prompt(tiny_model, 3, seed=0)
        tuned = tune(tiny_model, tiny_task, start=start)
        assert all(torch.equal(parameter, before[name]) for name, parameter in tiny_model.named_parameters())
        assert all(parameter.grad is None and parameter.requires_grad for parameter in tiny_model.parameters())
        assert not any(point.has_hooks() for point in tiny_model.hook_dict.values())
        assert tiny_model.fingerprint() == fingerprint and not tiny_model.training
        assert torch.equal(start.vectors, random_prompt(tiny_model, 3, seed=0).vectors)
        assert (tuned.prompt.vectors - start.vectors).abs().min() > 0
        assert not tuned.prompt.vectors.requires_grad
        assert tuned.prompt.origin == "tuned" and tuned.prompt.model == fingerprint
        assert tuned.labels == ("negative", "positive") and tuned.verbalizer.words == ("terrible", "great")

    def test_the_seed_decides_everything(self, tiny_model, tiny_task):
        state = torch.get_rng_state()
        one, again, other = (tune(tiny_model, tiny_task, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(one.prompt.vectors, again.prompt.vectors) and one.history == again.history
        assert not torch.equal(one.prompt.vectors, other.prompt.vectors) and other.prompt.seed == 1
        start = random_prompt(tiny_model, 3, seed=0)
        from_same = tune(tiny_model, tiny_task, seed=1, start=start)
        assert not torch.equal(from_same.prompt.vectors, one.prompt.vectors)  # another order of rows

    def test_what_required_gradients_before_does_so_after(self, tiny_model, tiny_task):
        frozen_before = list(tiny_model.parameters())[3]
        frozen_before.requires_grad_(False)
        tune(tiny_model, tiny_task)
        required = [parameter.requires_grad for parameter in tiny_model.parameters()]
        assert required[3] is False and sum(required) == len(required) - 1

    def test_the_history_has_a_record_of_each_evaluation(self, tiny_model, tiny_task):
        steps = []
        config = TuningConfig(lr=1e-4, steps=5, batch_size=7, eval_every=2)
        tuned = tune(tiny_model, tiny_task, config, progress=lambda what, step, total: steps.append((step, total)))
        assert [record["step"] for record in tuned.history] == [2, 4, 5]
        assert steps == [(step, 5) for step in range(1, 6)]
        logits, labels = tuned.logits(tiny_task.validation), torch.tensor(tiny_task.validation.labels)
        best = max(tuned.history, key=lambda record: (record["validation_accuracy"], -record["validation_loss"]))
        assert best["validation_accuracy"] == (logits.argmax(-1) == labels).double().mean()
        assert best["validation_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())

    def test_the_first_step_follows_the_gradient_of_the_loss(self, tiny_model, tiny_task):
        """Against a step worked out by hand, over all training rows at once; AdamW's first step is `lr * sign`."""
        start = random_prompt(tiny_model, 3, seed=0)
        config = TuningConfig(lr=0.01, steps=1, batch_size=62, warm_up=0.0)
        tuned = tune(tiny_model, tiny_task, config, start=start)
        vectors = start.vectors.clone().requires_grad_()
        ids = [tiny_model.tokenizer.convert_tokens_to_ids(token) for token in ("Ġterrible", "Ġgreat")]
        losses = []
        for row in tiny_task.train:
            text = tiny_model.to_tokens(row["text"])
            embed = torch.cat([tiny_model.W_E[[4]], vectors, tiny_model.W_E[text[0]]])[None]
            tokens = torch.cat([torch.full((1, 4), 4), text], dim=1)
            logits = tiny_model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", lambda _, hook, embed=embed: embed)])
            losses.append(torch.nn.functional.cross_entropy(logits[:, 0, ids], torch.tensor([row["label"]])))
        loss = torch.stack(losses).mean()
        loss.backward()
        assert tuned.history[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert vectors.grad is not None
        torch.testing.assert_close(tuned.prompt.vectors, start.vectors - 0.01 * vectors.grad.sign(), rtol=0, atol=1e-5)

    def test_tuning_stops_where_validation_no_longer_improves(self, tiny_model, tiny_task):
        # A rate too small to move any float32: the first evaluation is never beaten.
        config = TuningConfig(lr=1e-30, steps=60, batch_size=2, eval_every=1, patience=3)
        tuned = tune(tiny_model, tiny_task, config)
        assert [record["step"] for record in tuned.history] == [1, 2, 3, 4]

    def test_float16_weights_are_tuned_through_float32_prompts(self, tiny_model, tiny_task):
        tuned = tune(tiny_model.half(), tiny_task)
        assert tuned.prompt.vectors.dtype == torch.float32 and torch.isfinite(tuned.prompt.vectors).all()

    def test_a_copy_in_bfloat16_is_tuned_and_the_model_left(self, tiny_model, tiny_task):
        before, cfg, fingerprint = weights_of(tiny_model), copy.deepcopy(tiny_model.cfg), tiny_model.fingerprint()
        tuned = tune(tiny_model, tiny_task, replace(QUICK, tune_dtype="bfloat16"))
        assert_untouched(tiny_model, before)
        assert tiny_model.fingerprint() == fingerprint and vars(tiny_model.cfg) == vars(cfg)
        assert tuned.model is tiny_model and tuned.prompt.model == fingerprint
        assert tuned.prompt.vectors.dtype == torch.float32 and not tuned.prompt.vectors.requires_grad
        plain = tune(tiny_model, tiny_task)
        assert not torch.equal(tuned.prompt.vectors, plain.prompt.vectors)
        assert [record["step"] for record in tuned.history] == [record["step"] for record in plain.history]

    def test_the_models_own_precision_by_name_changes_nothing(self, tiny_model, tiny_task):
        named, plain = tune(tiny_model, tiny_task, replace(QUICK, tune_dtype="float32")), tune(tiny_model, tiny_task)
        assert torch.equal(named.prompt.vectors, plain.prompt.vectors) and named.history == plain.history

    def test_an_adapter_is_tuned_on_a_copy_too(self, tiny_model, tiny_task):
        config = replace(QUICK, tune_dtype="bfloat16")
        tuned = tune_adapter(tiny_model, tiny_task, d_bottleneck=2, config=config, progress=False)
        assert tuned.model is tiny_model and tuned.extra_hooks and tuned.logits(tiny_task.test).shape[1] == 2


def test_hooks_that_a_copy_would_lack_are_refused(tiny_model, tiny_task):
    with (
        tiny_model.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda x, hook: x)]),
        pytest.raises(ValueError, match=r"'bfloat16' .* hooks that are on blocks\.1\.mlp\.hook_post"),
    ):
        tune(tiny_model, tiny_task, replace(QUICK, tune_dtype="bfloat16"))
    tiny_model.blocks[0].mlp.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(ValueError, match=r"'bfloat16' .* hooks that are on blocks\.0\.mlp\."):
        tune(tiny_model, tiny_task, replace(QUICK, tune_dtype="bfloat16"))


@pytest.mark.parametrize("tune_dtype", [None, "bfloat16"])
def test_a_separable_task_is_learnt(tiny_model, tune_dtype):
    def rows(sizes):
        """One word gives the label away, among `n` and `m` fillers; test has other numbers of these."""
        words = ("dreadful", "lovely")
        return [{"text": " the" * n + f" {words[k]} {words[k]}" + " film" * m, "label": k} for n, m, k in sizes]

    train_sizes, other_sizes = ([(n, m, k) for n in ns for m in range(4) for k in (0, 1)] for ns in ((0, 2, 4), (1, 3)))
    task = Task("planted", rows(train_sizes), rows(other_sizes), rows(other_sizes), ["terrible", "great"])
    tuned = tune(tiny_model, task, TuningConfig(lr=0.3, steps=90, batch_size=12, eval_every=30, tune_dtype=tune_dtype))
    losses = [record["train_loss"] for record in tuned.history]
    assert losses[0] > losses[1] > losses[2]
    untuned = tuned.with_prompt(random_prompt(tiny_model, 3, seed=0))
    labels = np.array([row["label"] for row in task.test])
    right, before = ((one.predict(task.test).numpy() == labels).mean() for one in (tuned, untuned))
    assert right > 0.9 and before < 0.7


def test_labels_without_information_are_not_learnt_and_tuning_says_so(tiny_model, tiny_task):
    with pytest.warns(TuningWarning, match=r"'tiny' \(seed 3\) collapsed: validation accuracy 0\.500 on .* 0\.500 "):
        tuned = tune(tiny_model, without_information(tiny_task), seed=3)
    assert {record["validation_accuracy"] for record in tuned.history} == {0.5}


def test_the_learning_rate_rises_then_falls():
    config = TuningConfig(steps=20, warm_up=0.25)
    scales = [config.lr_scale(step) for step in range(20)]
    assert scales[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert scales[5:] == pytest.approx([(20 - step) / 15 for step in range(5, 20)])
    for warm_up, steps in ((0.0, 7), (0.1, 1), (0.5, 2), (1.0, 7)):
        scales = [TuningConfig(steps=steps, warm_up=warm_up).lr_scale(step) for step in range(steps)]
        assert all(0 < scale <= 1 for scale in scales) and max(scales) == 1


@pytest.mark.parametrize("name", ["lr", "steps", "batch_size", "eval_every", "patience"])
def test_settings_that_make_no_sense_are_named(unchecked_types, name):
    with pytest.raises(ValueError, match=f"`{name}` must be positive, not -1"):
        TuningConfig(**unchecked({name: -1}))


def test_a_precision_that_no_model_has_is_named():
    with pytest.raises(ValueError, match=r"`tune_dtype` is one of float32, bfloat16, .*, not 'int8'"):
        TuningConfig(tune_dtype="int8")


# Errors, and what they leave behind


def assert_untouched(model, before):
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(point.has_hooks() for point in model.hook_dict.values()) and model.context_level == 0


def test_train_mode_is_refused_and_left(tiny_model, tiny_task):
    tiny_model.train()
    with pytest.raises(ValueError, match=r"train mode.*model\.eval\(\)"):
        tune(tiny_model, tiny_task)
    assert tiny_model.training


def test_a_loss_that_is_not_finite_ends_tuning(tiny_model, tiny_task):
    before = weights_of(tiny_model)
    with pytest.raises(FloatingPointError, match=r"is nan at step 2 of 'tiny'\. Lower `lr` \(1e\+30\)"):
        tune(tiny_model, tiny_task, TuningConfig(lr=1e30, steps=4, eval_every=2))
    assert_untouched(tiny_model, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_the_model_as_it_was(tiny_model, tiny_task, error):
    before = weights_of(tiny_model)

    def stop(what, step, steps):
        if step == 2:
            raise error("planted")

    with pytest.raises(error, match="planted"):
        tune(tiny_model, tiny_task, progress=stop)
    assert_untouched(tiny_model, before)


def test_freezing_is_undone_after_an_exception(tiny_model):
    def fail_inside():
        with frozen(tiny_model):
            assert not any(parameter.requires_grad for parameter in tiny_model.parameters())
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        fail_inside()
    assert all(parameter.requires_grad for parameter in tiny_model.parameters())


def test_a_prompt_that_leaves_no_room_for_text_is_refused(tiny_model, tiny_task):
    with pytest.raises(ValueError, match="Only 7 positions are left"):
        tune_prompt(tiny_model, tiny_task, n_prompt=31, config=QUICK, progress=False)


def test_label_words_that_are_not_tokens_are_refused(tiny_model, tiny_task):
    task = Task("odd", tiny_task.train, tiny_task.validation, tiny_task.test, ["terrible", "greatly"])
    with pytest.raises(ValueError, match="'greatly' needs to be one token"):
        tune(tiny_model, task)


def test_any_leaf_tensors_can_be_trained(tiny_model, tiny_task):
    """`train` moves what enters through hooks, here one bias on the last block's output."""
    start = random_prompt(tiny_model, 3, seed=0)
    words = Verbalizer.from_words(tiny_model.tokenizer, tiny_task.label_words)
    bias = torch.zeros(16, requires_grad=True)
    add = ("blocks.1.hook_mlp_out", lambda out, hook: out + bias)

    def snapshot():
        kept = bias.detach().clone()
        return Classifier(
            tiny_model, start, words, extra_hooks=[("blocks.1.hook_mlp_out", lambda out, hook: out + kept)]
        )

    tuned = train(
        snapshot(),
        tiny_task,
        Moved([bias], [splice(start.vectors), add], snapshot),
        seed=0,
        config=replace(QUICK, steps=30, eval_every=10),
        progress=False,
    )
    assert bias.abs().min() > 0 and tuned.prompt is start
    assert tuned.history[-1]["train_loss"] < tuned.history[0]["train_loss"]


def test_unequal_classes_are_judged_by_balanced_accuracy(tiny_model, tiny_task):
    """Nine rows to one: the vectors that are kept are best by balanced accuracy, and accuracy alone hides nothing."""
    zeros, ones = ([row for row in tiny_task.train if row["label"] == label] for label in (0, 1))
    rows = (zeros * 9)[: 9 * len(ones[:6])] + ones[:6]
    task = Task("unequal", rows, rows, rows, ["bad", "good"], tiny_task.label_words)
    config = TuningConfig(lr=0.3, steps=12, eval_every=2, batch_size=12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TuningWarning)
        tuned = tune(tiny_model, task, config)
    best = max(tuned.history, key=lambda one: (one["validation_balanced_accuracy"], -one["validation_loss"]))
    assert evaluate(tuned, task.validation).balanced_accuracy == pytest.approx(best["validation_balanced_accuracy"])


def test_a_prompt_that_hardly_beats_chance_on_unequal_classes_is_told():
    """Accuracy .73 beside a majority of .72 on 4,000 rows is significant, and balanced accuracy .54 next to nothing."""
    labels = torch.tensor([0] * 2880 + [1] * 1120)
    record = {"step": 1, "validation_accuracy": 0.74, "validation_loss": 0.5}
    assert collapsed([record], labels, "tweets", 0) is None  # a history of an earlier version
    said = collapsed([record | {"validation_balanced_accuracy": 0.54}], labels, "tweets", 0)
    assert said is not None and "learnt next to nothing" in said and "0.540" in said and "0.500" in said
    assert collapsed([record | {"validation_balanced_accuracy": 0.6}], labels, "tweets", 0) is None
