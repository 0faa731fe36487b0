"""As `reproduce_findings`, for what skill neurons are good for: pruning (F8), transfer (F9), and steering."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

from skillneurons.applications._pruning_report import pruning_report
from skillneurons.applications.indicators import indicator_test, transfer_indicators
from skillneurons.applications.steering import steering_curve
from skillneurons.applications.transfer import TransferMatrix, transfer_matrix, transferred
from skillneurons.neurons.scores import union_of_top
from skillneurons.plots import plot_indicators, plot_pruning, plot_steering, plot_transfer
from skillneurons.runs.reproduce_findings import Compute, Part, ReproduceSettings, Study, part, sweep_rows

KEPT = (0.02, 0.1, 0.3)
STEERED, STRENGTHS = 0.1, (-8.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 8.0)


def _report(study: Study, settings: ReproduceSettings, **options: Any) -> Part:
    small = study.task.subset(settings.n_rows, splits=("test",))
    return part(study.task.name, pruning_report(study.classifiers[0], small, study.scores, **options), plot_pruning)


def _pruning(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    return [_report(study, settings, fractions=KEPT) for study in studies]


def _retuned(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    return [_report(studies[0], settings, fractions=KEPT[:2], n_random=1, retune=settings.tuning)]


def _transfers(studies: Sequence[Study], settings: ReproduceSettings) -> TransferMatrix:
    return transfer_matrix(
        {study.task.name: study.classifiers for study in studies},
        [study.task.subset(settings.n_rows, splits=("test",)) for study in studies],
    )


def _transfer(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    result = _transfers(studies, settings)
    return [(result.to_dataframe(), lambda ax: plot_transfer(result, ax=ax))]


def _indicators(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    pairs = [(a, b) for a, b in permutations(studies, 2) if transferred(a.classifiers[0], b.task) is not None]
    if len(pairs) < 3:  # too few for a correlation
        return []
    skill = {study.task.name: union_of_top(study.scores, settings.fraction) for study in studies}
    indicators = transfer_indicators({study.task.name: study.classifiers for study in studies}, skill)
    result = indicator_test(_transfers(studies, settings), indicators)
    return [(result.to_dataframe(), lambda ax: plot_indicators(result, ax=ax))]


def _steering(studies: Sequence[Study], settings: ReproduceSettings) -> list[Part]:
    parts: list[Part] = []
    for study in studies:
        if not study.binary:
            continue
        first = study.classifiers[0]
        result = steering_curve(
            first,
            study.task,
            study.scores[0].top(STEERED),
            study.task.labels[1],
            strengths=STRENGTHS,
            n_random=settings.n_random,
            # Where the label is read too: a prompt behind the text ends there.
            positions="prompt" if first.layout.after_text else "mask_and_prompt",
            rows=sweep_rows(study, settings),
        )
        parts.append(part(study.task.name, result, plot_steering))
    return parts


APPLICATIONS: dict[str, Compute] = {
    "F8-pruning": _pruning,
    "F8-retuned": _retuned,
    "F9-transfer": _transfer,
    "F9-indicators": _indicators,
    "steering": _steering,
}
