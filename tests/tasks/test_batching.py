"""Tokenization and batches: every row exactly once, and each as the tokenizer alone would give it."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillneurons import HookedEncoder
from skillneurons.tasks.batching import Encoded, bucketed, collate, encode, shuffled

PAD = 1
lengths_and_labels = st.lists(st.tuples(st.integers(2, 23), st.integers(0, 2)), min_size=1, max_size=37)


def made(rows):
    """Encoded rows of given lengths: token 100 * i + j + 5 is position j of row i."""
    lengths = [length for length, _ in rows]
    return Encoded(
        tokens=torch.tensor([100 * i + j + 5 for i, n in enumerate(lengths) for j in range(n)]),
        token_types=torch.tensor([j % 2 for n in lengths for j in range(n)]),
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        labels=torch.tensor([label for _, label in rows]),
        n_truncated=0,
        max_length=23,
    )


@given(lengths_and_labels, st.integers(0, 5), st.integers(1, 200))
def test_buckets_hold_every_row_once_within_the_budget_and_in_order_of_label(rows, n_prefix, budget):
    encoded = made(rows)
    batches = bucketed(encoded, n_prefix, budget)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(rows)))
    for index in batches:
        padded = len(index) * (int(encoded.lengths[index].max()) + n_prefix)
        assert padded <= budget or len(index) == 1
        assert encoded.labels[index].diff().ge(0).all()


@given(lengths_and_labels, st.integers(1, 200))
def test_buckets_are_filled_before_the_next_is_begun(rows, budget):
    encoded = made(rows)
    batches = bucketed(encoded, 3, budget)
    for index, following in zip(batches, batches[1:], strict=False):
        shortest = int(encoded.lengths[following].min())
        assert shortest >= int(encoded.lengths[index].max())
        assert (len(index) + 1) * (shortest + 3) > budget


@given(lengths_and_labels, st.integers(0, 5), st.randoms(use_true_random=False))
def test_collated_rows_stand_behind_the_prefix_and_are_padded_on_the_right(rows, n_prefix, rng):
    encoded, prefix = made(rows), torch.arange(90, 90 + n_prefix)
    index = torch.tensor(rng.sample(range(len(rows)), k=rng.randint(1, len(rows))))
    batch = collate(encoded, index, prefix, PAD)
    n_pos = n_prefix + max(rows[i][0] for i in index.tolist())
    assert batch.tokens.shape == batch.token_types.shape == (len(batch), n_pos)
    assert torch.equal(batch.index, index) and batch.labels.tolist() == [rows[i][1] for i in index.tolist()]
    for row, i in enumerate(index.tolist()):
        n = rows[i][0]
        text = [100 * i + j + 5 for j in range(n)]
        assert batch.tokens[row].tolist() == prefix.tolist() + text + [PAD] * (n_pos - n_prefix - n)
        kinds = [0] * n_prefix + [j % 2 for j in range(n)]
        assert batch.token_types[row].tolist() == kinds + [0] * (n_pos - n_prefix - n)
        if batch.mask is not None:
            assert batch.mask[row].tolist() == [1] * (n_prefix + n) + [0] * (n_pos - n_prefix - n)
    assert (batch.mask is None) == (len({rows[i][0] for i in index.tolist()}) == 1)


@given(lengths_and_labels, st.integers(1, 7), st.integers(0, 3))
def test_each_epoch_has_every_row_once_and_the_seed_decides_the_order(rows, batch_size, seed):
    encoded = made(rows)

    def epochs(seed):
        batches = shuffled(encoded, batch_size, torch.Generator().manual_seed(seed))
        found = [[], []]
        for epoch in found:
            while sum(map(len, epoch)) < len(rows):
                epoch.append(next(batches).tolist())
        return found

    found = epochs(seed)
    for epoch in found:
        assert Counter(i for batch in epoch for i in batch) == dict.fromkeys(range(len(rows)), 1)
        assert all(len(batch) <= batch_size for batch in epoch)
    assert found == epochs(seed)


def test_epochs_and_seeds_differ():
    encoded = made([(5, 0)] * 37)
    one, two = (shuffled(encoded, 37, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    orders = [next(one).tolist(), next(one).tolist(), next(two).tolist()]
    assert len({tuple(order) for order in orders}) == 3


def test_the_order_of_training_rows_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    next(shuffled(made([(5, 0)] * 7), 3, torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)


def rows_as_encoded(encoded):
    return [part.tolist() for part in encoded.tokens.split(encoded.lengths.tolist())]


words = st.lists(st.sampled_from(["the", "film", "lovely", "zebra", "", "é"]), max_size=15).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(st.lists(words, min_size=1, max_size=5), st.integers(8, 19))
def test_texts_are_encoded_as_the_tokenizer_does(roberta_tokenizer, texts, max_length):
    encoded = encode(roberta_tokenizer, [{"text": text, "label": i} for i, text in enumerate(texts)], max_length)
    alone = [roberta_tokenizer(text)["input_ids"] for text in texts]
    for ids, whole in zip(rows_as_encoded(encoded), alone, strict=True):
        assert ids == whole if len(whole) <= max_length else ids == [*whole[: max_length - 1], 2]
    assert encoded.n_truncated == sum(len(whole) > max_length for whole in alone)
    assert encoded.labels.tolist() == list(range(len(texts))) and len(encoded) == len(texts)


def test_pairs_are_encoded_as_pairs(roberta_tokenizer, bert_tokenizer):
    rows = [{"text_a": "a film", "text_b": "it was moving", "label": 1}, {"text_a": "the", "text_b": "story"}]
    for tokenizer in (roberta_tokenizer, bert_tokenizer):
        encoded = encode(tokenizer, rows, 40)
        whole = [tokenizer(row["text_a"], row["text_b"], return_token_type_ids=True) for row in rows]
        assert rows_as_encoded(encoded) == [one["input_ids"] for one in whole]
        assert encoded.token_types.tolist() == [kind for one in whole for kind in one["token_type_ids"]]
        assert encoded.labels.tolist() == [1, -1]
    assert 1 in encoded.token_types  # BERT tells the segments apart


def test_a_long_pair_keeps_both_of_its_texts(bert_tokenizer):
    rows = [{"text_a": "film " * 20, "text_b": "story story"}, {"text_a": "film", "text_b": "story"}]
    encoded = encode(bert_tokenizer, rows, 11)
    film, story = bert_tokenizer.convert_tokens_to_ids(["film", "story"])
    assert rows_as_encoded(encoded)[0] == [2, *[film] * 6, 3, story, story, 3]
    assert encoded.n_truncated == 1 and encoded.max_length == 11


def test_what_cannot_be_encoded_is_refused(roberta_tokenizer):
    with pytest.raises(ValueError, match="`rows` is empty"):
        encode(roberta_tokenizer, [], 20)
    with pytest.raises(ValueError, match="Only 7 positions are left"):
        encode(roberta_tokenizer, [{"text": "a"}], 7)


def test_a_mask_that_someone_wrote_is_text():
    tokenizer = HookedEncoder.from_pretrained("bundled").tokenizer
    written, plain = (encode(tokenizer, [{"text": text}], 64).tokens for text in ("a <mask> film</s>", "a film"))
    assert tokenizer.mask_token_id not in written
    assert [int((tokens == tokenizer.sep_token_id).sum()) for tokens in (written, plain)] == [1, 1]
    assert tokenizer.decode(written, skip_special_tokens=True).strip() == "a <mask> film</s>"


@pytest.mark.parametrize("rows", ["a fine film", ["a fine film", 3], [{"text": "one"}, 3]])
def test_rows_that_are_no_examples_are_named(rows, unchecked_types):
    tokenizer = HookedEncoder.from_pretrained("bundled").tokenizer
    with pytest.raises(TypeError, match=r"one text, 'a fine film'|examples like \{'text': …\}.* but there is 3"):
        encode(tokenizer, rows, 32)
