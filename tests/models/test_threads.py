"""Two threads on one model: hooks and `requires_grad` never mix, and a copy of a configuration is a copy."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from skillneurons import Classifier, HookedEncoder, Verbalizer, random_prompt
from skillneurons.classifiers.tuning import frozen
from skillneurons.utilities.threads import changing, running

TOKENS = torch.tensor([[5, 7, 11, 2]])
HOOK = "blocks.0.mlp.hook_post"


@pytest.fixture
def model(build_hf):
    return HookedEncoder.from_hf(build_hf("roberta"))


def elsewhere(function):
    """What it gives in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def enter(context):
    with context:
        pass


def kill(activations, hook):
    return torch.zeros_like(activations)


USES = {
    "a pass": lambda model: model(TOKENS),
    "text": lambda model: model.run_with_cache(TOKENS),
    "hooks": lambda model: enter(model.hooks(fwd_hooks=[(HOOK, kill)])),
    "run_with_hooks": lambda model: model.run_with_hooks(TOKENS, fwd_hooks=[(HOOK, kill)]),
    "frozen": lambda model: enter(frozen(model)),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("held", ["hooks", "frozen"])
def test_a_model_that_one_thread_changes_is_refused_to_others(model, use, held):
    plain = model(TOKENS)
    with frozen(model) if held == "frozen" else model.hooks(fwd_hooks=[(HOOK, kill)]):
        with pytest.raises(RuntimeError, match=r"Thread 'ThreadPool.*' uses? .*|would run or change.*'MainThread'"):
            elsewhere(lambda: USES[use](model))
        USES[use](model)  # in one thread contexts nest
    assert torch.equal(elsewhere(lambda: model(TOKENS)), plain)


def test_threads_may_run_one_model_side_by_side(model):
    expected = model(TOKENS)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(found, expected) for found in pool.map(lambda _: model(TOKENS), range(40)))


def test_hooks_are_refused_while_another_thread_runs_the_model(model):
    entered, leave = threading.Event(), threading.Event()

    def wait(activations, hook):
        entered.set()
        leave.wait(20)

    model.add_hook(HOOK, wait)
    with ThreadPoolExecutor(1) as pool:
        running_there = pool.submit(lambda: model(TOKENS))
        entered.wait(20)
        with pytest.raises(RuntimeError, match="ThreadPool"):
            enter(model.hooks(fwd_hooks=[(HOOK, kill)]))
        leave.set()
        running_there.result()
    model.reset_hooks()


def test_two_threads_with_hooks_give_right_numbers_or_an_error(tiny_model):
    words = Verbalizer.from_words(tiny_model.tokenizer, ("terrible", "great"))
    classifiers = [Classifier(tiny_model, random_prompt(tiny_model, 3, seed), words) for seed in range(4)]
    rows = [{"text": " a lovely film"}] * 5
    expected = [classifier.logits(rows) for classifier in classifiers]

    def measure(i):
        try:
            return bool(torch.allclose(classifiers[i % 4].logits(rows), expected[i % 4]))
        except RuntimeError:
            return None

    with ThreadPoolExecutor(4) as pool:
        assert False not in list(pool.map(measure, range(80)))
    assert torch.equal(classifiers[0].logits(rows), expected[0])


def test_what_requires_gradients_survives_two_threads(model):
    def freeze(_):
        try:
            with frozen(model):
                model(TOKENS)
        except RuntimeError:
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(freeze, range(60)))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_thread_that_ended_inside_its_hooks_holds_nothing(model):
    left_open = []

    def leave_open():
        left_open.append(changing(model))
        left_open[0].__enter__()

    thread = threading.Thread(target=leave_open)
    thread.start()
    thread.join()
    with running(model), changing(model):
        assert model(TOKENS).isfinite().all()


def test_each_thread_may_have_a_copy(model):
    with model.hooks(fwd_hooks=[(HOOK, kill)]):
        twin = copy.deepcopy(model)
        twin.reset_hooks()
        elsewhere(lambda: USES["hooks"](twin))


@pytest.mark.parametrize("change", [lambda m: m.half(), lambda m: m.double(), lambda m: m.to(torch.bfloat16)])
def test_a_model_made_of_anothers_configuration_leaves_it_alone(model, change):
    other = change(HookedEncoder(model.cfg))
    assert other.cfg.dtype == other.dtype != torch.float32
    assert model.cfg.dtype == model.dtype == torch.float32
    other.cfg.source = "other"
    assert model.cfg.source != "other"


@pytest.mark.parametrize("part", ["", ".mlp", ".attn.query", ".ln2", ".mlp.hook_post", ".attn.hook_pattern"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_torch_on_the_last_block_see_all_positions(model, part, kind):
    seen = []
    module = model.get_submodule(f"blocks.{model.cfg.n_layers - 1}{part}")
    handle = getattr(module, kind)(lambda module, *tensors: seen.append(tensors))
    model(TOKENS, logits_at=1)
    handle.remove()
    assert len(seen) == 1
    inputs = seen[0][0][0]
    assert 4 in inputs.shape[1:3]
    if kind == "register_forward_hook" and "pattern" not in part:
        assert seen[0][1].shape[1] == 4


def test_gradient_hooks_of_torch_on_the_last_block_see_all_positions(model):
    seen = []
    handle = model.blocks[-1].mlp.register_full_backward_hook(
        lambda module, before, after: seen.append(after[0].shape[1])
    )
    model(TOKENS, logits_at=1).sum().backward()
    handle.remove()
    assert seen == [4]
