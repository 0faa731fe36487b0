"""Tuning with the model frozen: one loop for whatever parameters enter through hooks.

Costs one forward and one backward pass through the activations for each step; no weight of the model gets a gradient,
logits are computed for the label words at the mask only, and the last block only there.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Int
from scipy.stats import binomtest
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier, label_logits, require_eval
from skillneurons.classifiers.evaluation import are_unequal, evaluation_of
from skillneurons.classifiers.prompts import SoftPrompt, Verbalizer, random_prompt, splice
from skillneurons.models.blocks import has_hooks
from skillneurons.models.bridge import AnyModel, Model, as_classifiable
from skillneurons.tasks.batching import Encoded, shuffled
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import check_positive, check_share, check_whole
from skillneurons.utilities.devices import as_dtype
from skillneurons.utilities.progress import takes_old_names, told
from skillneurons.utilities.threads import changing
from skillneurons.utilities.types import FwdHooks, Json, Progress

# Of the warning that tuning did no better than the most frequent class.
SIGNIFICANCE = 0.1
LEAST_GAIN = 0.1  # of the way from chance to no errors in balanced accuracy, below which a prompt is worth a warning


class TuningWarning(UserWarning):
    """Tuning ended no better than always answering the most frequent class.

    Example:
        >>> import warnings
        >>> from skillneurons import TuningConfig, TuningWarning
        >>> from skillneurons import control_task, load_example, tune_prompt
        >>> classifier, task = load_example()
        >>> settings = {"config": TuningConfig(steps=2, eval_every=2), "progress": False}
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", TuningWarning)
        ...     tune_prompt(classifier.model, control_task(task), **settings)
        Traceback (most recent call last):
        skillneurons.classifiers.tuning.TuningWarning: Tuning on 'movies:control' (seed 0) collapsed: ...
    """


@checked
@dataclass(frozen=True)
class TuningConfig:
    """How to tune.

    Args:
        lr: Peak learning rate of AdamW.
        steps: Most steps to take.
        batch_size: Examples in a step.
        warm_up: Share of the steps over which the learning rate rises; it then falls linearly to zero.
        eval_every: Steps between evaluations on validation.
        patience: Evaluations in a row without a better validation accuracy (balanced, where the most frequent class has
            more than 60 % of the rows; or, at the same accuracy, a lower loss) after which tuning stops.
        weight_decay: Of AdamW.
        tune_dtype: Tune on a copy of the model in this precision, such as `"bfloat16"`; the classifier is on the model
            that was passed, and its vectors are float32. The history is measured on the copy. Default: the model's.

    Raises:
        ValueError: A number is not positive, or there is no such precision.

    Example:
        >>> from skillneurons import TuningConfig
        >>> config = TuningConfig(steps=40, warm_up=0.25)
        >>> [round(config.lr_scale(step), 2) for step in (0, 9, 39)]
        [0.1, 1.0, 0.03]
    """

    lr: float = 1e-2
    steps: int = 250
    batch_size: int = 16
    warm_up: float = 0.1
    eval_every: int = 125
    patience: int = 4
    weight_decay: float = 0.0
    tune_dtype: str | None = None

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        for name in ("steps", "batch_size", "eval_every", "patience"):
            check_positive(name, getattr(self, name))
            check_whole(name, getattr(self, name), low=1)
        check_share("warm_up", self.warm_up)
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"`weight_decay` is 0 or more, not {self.weight_decay}.")
        if self.tune_dtype is not None:
            as_dtype(self.tune_dtype, "tune_dtype")

    def lr_scale(self, step: int) -> float:
        """Share of the peak learning rate at `step`."""
        warm_up = max(1, round(self.warm_up * self.steps))
        return min((step + 1) / warm_up, max(0.0, (self.steps - step) / max(1, self.steps - warm_up)))


@checked
def tune_prompt(
    model: AnyModel,
    task: Task,
    *,
    n_prompt: int = 16,
    seed: int = 0,
    start: SoftPrompt | None = None,
    config: TuningConfig | None = None,
    progress: Progress | bool = True,
) -> Classifier:
    """A classifier whose soft prompt was tuned on the task's training rows, the model frozen.

    Minimises cross-entropy over the label words where the label is read, and keeps the prompt with the best validation
    accuracy; with the best balanced accuracy, where the most frequent class has more than 60 % of the rows.
    Source: Wang et al. 2022, section 2.2 (prompt tuning).

    Args:
        model: Gets no gradients and is left as it was. Or a TransformerBridge; see `bridge`.
        task: Its training rows are learnt, its validation rows decide when to stop.
        n_prompt: Number of soft vectors.
        seed: Of the first prompt and of the order of the rows.
        start: Begin from this prompt instead of random word vectors.
        config: Learning rate, steps and so on.
        progress: Bars in a terminal or notebook, plain lines with times where output goes to a file; False for neither,
            or a function that is called with (what is being done, steps done, steps) after each step.

    Returns:
        The classifier; `history` has a record of each evaluation (step, train loss and accuracy, validation loss,
        accuracy and balanced accuracy).

    Warns:
        TuningWarning: The prompt answers no better, or hardly better, than always giving one answer.

    Raises:
        ValueError: A label word is not one token, the model is in train mode, or the prompt leaves no room for text; or
            with `tune_dtype`, the model is a TransformerBridge or carries hooks of one's own.
        FloatingPointError: The loss is no longer finite.

    Example:
        >>> from skillneurons import HookedEncoder, load_task
        >>> model, task = HookedEncoder.from_pretrained("bundled"), load_task("movies").subset(200)
        >>> config = TuningConfig(steps=40, lr=3e-2)
        >>> classifier = tune_prompt(model, task, n_prompt=2, config=config, progress=False)
        >>> len(classifier.prompt), classifier.prompt.origin
        (2, 'tuned')
    """
    model = as_classifiable(model)
    start = start or random_prompt(model, n_prompt, seed)
    first = Classifier(model, start, Verbalizer.from_words(model.tokenizer, task.label_words, task.labels), task.labels)
    vectors = first.prompt.vectors.detach().clone().float().requires_grad_()

    def snapshot() -> Classifier:
        return first.with_prompt(SoftPrompt(vectors.detach().clone(), start.model, "tuned", seed, start.in_front))

    moved = Moved([vectors], [splice(vectors, first.layout.start)], snapshot)
    return train(first, task, moved, seed=seed, config=config or TuningConfig(), progress=progress)


@dataclass(frozen=True, eq=False)
class Moved:
    """What tuning moves, and how it enters the model.

    Args:
        parameters: Leaf tensors that require gradients.
        fwd_hooks: Hooks that use them.
        snapshot: Makes a classifier with a copy of their present values.
    """

    parameters: Sequence[Tensor]
    fwd_hooks: FwdHooks
    snapshot: Callable[[], Classifier]


@takes_old_names
def train(
    classifier: Classifier,
    task: Task,
    moved: Moved,
    *,
    seed: int,
    config: TuningConfig,
    progress: Progress | bool,
) -> Classifier:
    """The loop: move the parameters of `moved`; the snapshot that is best on validation comes back.

    Args:
        classifier: Gives the model, the label words and the layout; its own hooks are not used.
        task: See `tune_prompt`.
        moved: What is tuned.
        seed: Of the order of the rows.
        config: See `TuningConfig`.
        progress: See `tune_prompt`.
    """
    require_eval(classifier.model)
    model = _in_precision(classifier.model, config)
    classifier = _moved_to(classifier, model)
    train_rows = classifier.encode(task.train)
    search = _Search(classifier.encode(task.validation), moved.snapshot())
    batches = shuffled(train_rows, config.batch_size, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(moved.parameters, lr=config.lr, weight_decay=config.weight_decay)
    tell, notes = told(progress), dict[str, str]()
    with frozen(model):
        for step in range(config.steps):
            parts = classifier.collate(train_rows, next(batches))
            for group in optimizer.param_groups:
                group["lr"] = config.lr * config.lr_scale(step)
            with model.hooks(fwd_hooks=moved.fwd_hooks):
                logits = torch.cat([label_logits(classifier, part) for part in parts]).float()
            labels = torch.cat([part.labels for part in parts])
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            search.saw(loss.detach(), logits.detach(), labels)
            tell(f"tune {task.name}, seed {seed}", step + 1, config.steps, **notes)
            if (step + 1) % config.eval_every and step + 1 < config.steps:
                continue
            if not math.isfinite(train_loss := search.train_loss):
                raise FloatingPointError(
                    f"The training loss is {train_loss} at step {step + 1} of {task.name!r}. Lower `lr` ({config.lr})."
                )
            record = search.judge(moved.snapshot(), model, step + 1)
            if progress is True:  # a callback takes no more than what, done and total
                notes = {"loss": f"{train_loss:.3f}", "validation": f"{record['validation_accuracy']:.3f}"}
            if search.since_best >= config.patience:
                break
    best = replace(search.best, history=tuple(search.history))
    if (message := collapsed(best.history, search.validation.labels, task.name, seed)) is not None:
        warnings.warn(message, TuningWarning, stacklevel=3)
    return best


def collapsed(
    history: Sequence[Mapping[str, int | float]], labels: Int[Tensor, " batch"], task: str, seed: int | None
) -> str | None:
    """What is wrong where the best of a tuning is not told apart from a constant answer, or hardly; None where it is.

    By accuracy against the most frequent class, and by balanced accuracy, which on unequal classes a prompt that has
    learnt next to nothing cannot hide behind.

    Args:
        history: `Classifier.history`.
        labels: Of the validation rows.
        task: Name.
        seed: Of the prompt.
    """
    if not history:
        return None
    n, majority = len(labels), labels.bincount().max().item() / len(labels)
    best = max(float(record["validation_accuracy"]) for record in history)
    p_value = binomtest(round(best * n), n, majority, alternative="greater").pvalue
    chance = 1 / int(labels.bincount().count_nonzero())
    balanced = max(float(record.get("validation_balanced_accuracy", 1)) for record in history)
    if p_value <= SIGNIFICANCE:
        if chance < 1 and balanced < chance + LEAST_GAIN * (1 - chance):
            return (
                f"Tuning on {task!r} (seed {seed}) learnt next to nothing: balanced validation accuracy {balanced:.3f} "
                f"on {n} rows, where chance is {chance:.3f} (accuracy {best:.3f}, most frequent class {majority:.3f}). "
                "Try another seed, `lr`, more steps or more rows."
            )
        return None
    return (
        f"Tuning on {task!r} (seed {seed}) collapsed: validation accuracy {best:.3f} on {n} rows is not told apart "
        f"from the {majority:.3f} of always answering the most frequent class (p = {p_value:.2f}). Try another seed, "
        "`lr`, more steps or more rows."
    )


class _Search:
    """The best candidate so far, and a record of every evaluation."""

    def __init__(self, validation: Encoded, first: Classifier) -> None:
        self.validation, self.best, self.best_key = validation, first, (-1.0, -math.inf)
        self.since_best, self.history = 0, list[dict[str, Json]]()
        self.unequal = are_unequal(validation.labels.bincount())
        self._forget()

    def _forget(self) -> None:
        self.losses, self.n_right, self.n_seen = list[Tensor](), torch.zeros(()), 0

    def saw(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """A training step; nothing is fetched from a GPU here, so that it need not wait."""
        self.losses.append(loss)
        self.n_right = self.n_right.to(labels.device) + (logits.argmax(-1) == labels).sum()
        self.n_seen += len(labels)

    @property
    def train_loss(self) -> float:
        """Mean over the steps since the last evaluation."""
        return torch.stack(self.losses).mean().item()

    def judge(self, candidate: Classifier, model: Model, step: int) -> dict[str, Json]:
        """Evaluate on validation; keep the candidate if it is the best, and what it scored in any case."""
        logits, labels = _moved_to(candidate, model).logits(self.validation), self.validation.labels
        found = evaluation_of(logits, labels)
        accuracy = found.balanced_accuracy if self.unequal else found.accuracy
        loss = F.cross_entropy(logits, labels).item()
        record = {
            "step": step,
            "train_loss": self.train_loss,
            "train_accuracy": float(self.n_right) / self.n_seen,
            "validation_loss": loss,
            "validation_accuracy": found.accuracy,
            "validation_balanced_accuracy": found.balanced_accuracy,
        }
        self.history.append(record)
        self._forget()
        self.since_best += 1
        if (accuracy, -loss) > self.best_key:
            self.best, self.best_key, self.since_best = candidate, (accuracy, -loss), 0
        return record


def check_tune_dtype(model: Model, config: TuningConfig) -> None:
    """Raise `ValueError` where the model cannot be copied into the precision that `config` wants to tune in."""
    if config.tune_dtype is None or model.dtype == as_dtype(config.tune_dtype):
        return
    if not model.has_weights:
        raise ValueError(
            f"`tune_dtype` is {config.tune_dtype!r}, but {model.cfg.source!r} is a TransformerBridge in "
            f"{str(model.dtype).removeprefix('torch.')}, of which no copy is made. Load it with "
            f"`dtype={config.tune_dtype!r}` (`--dtype`), or leave `tune_dtype` out."
        )
    if hooked := [name for name, module in model.named_modules() if has_hooks(module)]:
        raise ValueError(
            f"With `tune_dtype` {config.tune_dtype!r} a copy of the model is tuned on, without the hooks that are on "
            f"{', '.join(hooked[:3])}. Remove these, or load the model with `dtype={config.tune_dtype!r}`."
        )


def with_added_settings(settings: dict[str, Json]) -> dict[str, Json]:
    """Settings of a run as a file has them, with what `TuningConfig` did not have when older files were written."""
    tuning = settings.get("tuning")
    return settings | {"tuning": {"tune_dtype": None} | tuning} if isinstance(tuning, dict) else settings


def _in_precision(model: Model, config: TuningConfig) -> Model:
    """The model itself, or a copy where `config` asks for another precision than its own."""
    check_tune_dtype(model, config)
    if config.tune_dtype is None or model.dtype == (dtype := as_dtype(config.tune_dtype)):
        return model
    return model.copy_in(dtype)


def _moved_to(classifier: Classifier, model: Model) -> Classifier:
    """The classifier on a copy of its model."""
    if model is classifier.model:
        return classifier
    return replace(classifier, model=model, prompt=replace(classifier.prompt, model=model.fingerprint()))


@contextmanager
def frozen(model: AnyModel | torch.nn.Module) -> Iterator[None]:
    """No parameter of the model requires gradients inside; what they were is restored.

    Raises:
        RuntimeError: Another thread is using the model.
    """
    with changing(getattr(model, "bridge", model)):
        before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        try:
            for parameter, _ in before:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, required in before:
                parameter.requires_grad_(required)
