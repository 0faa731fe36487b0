"""Pretrain the bundled RoBERTa from scratch: a script, not imported by the package.

    python skillneurons/bundled/pretrain.py --data DIR --out DIR

`--data` holds `*.txt.gz` files, one paragraph, review or tweet per line. The run is deterministic by
`--seed` on one machine, writes a checkpoint every `--save-every` steps, and continues from the newest one when
started again. It needs torch, transformers, tokenizers, numpy and safetensors, on a CPU or a GPU.

Three things make a small budget go further than plain masked-language-model training does:
word embeddings start from an SVD of the corpus' positive PMI matrix and the output bias from word frequencies, so
training does not begin by learning word counts; windows are short at first and grow; and each window is placed at a
random offset of the position table, so positions behind a soft prompt are as well trained as the first ones.

`--start-from DIR` goes on from a finished model instead, in a run of its own, say with another mixture, and
`--mask-frequent` masks fewer of the frequent tokens: of "the" and "," there is little left to learn.
"""

import argparse
import gzip
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BOS, PAD, EOS, UNK, MASK = range(5)

HELD_OUT = "wikitext2"
N_CTX = 128
SIZES = {"n_layers": 4, "d_model": 192, "d_vocab": 8192}

Mixture = dict[str, float]
"""Share of training windows drawn from each source, by the start of the file name."""


def read_lines(data: Path, prefix: str) -> list[str]:
    """All non-empty lines of the files whose name starts with `prefix`."""
    lines = []
    for path in sorted(data.glob(f"{prefix}*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines += [line.strip().replace("<br />", " ") for line in file]
    if not lines:
        raise FileNotFoundError(f"`--data` needs files {prefix}*.txt.gz, but {data} has none.")
    return [line for line in lines if line]


def train_tokenizer(sources: dict[str, list[str]], mixture: Mixture, d_vocab: int) -> PreTrainedTokenizerFast:
    """An uncased byte-level BPE; every source counts by its share of the mixture, not by its size."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, lstrip=token == "<mask>", special=True) for token in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    budget = min(sum(map(len, lines)) / mixture[name] for name, lines in sources.items())
    sample = []
    for name, lines in sources.items():
        room = budget * mixture[name]
        for line in lines:
            if room <= 0:
                break
            sample.append(line)
            room -= len(line)
    tokenizer.train_from_iterator(sample, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", EOS), ("<s>", BOS), trim_offsets=True, add_prefix_space=True
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=N_CTX,
        padding_side="right",
    )


class Stream:
    """One source as a flat array of token ids, with the places where sentences start."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, lines: list[str]):
        pieces = []
        for start in range(0, len(lines), 4096):
            for encoding in tokenizer.backend_tokenizer.encode_batch(
                lines[start : start + 4096], add_special_tokens=False
            ):
                pieces.append(np.asarray([*encoding.ids, EOS], dtype=np.uint16))
        self.ids = np.concatenate(pieces)
        ends = [EOS, *(i for t in ".!?" for i in map(tokenizer.convert_tokens_to_ids, (t, "Ġ" + t)) if i != UNK)]
        self.sentence_starts = np.flatnonzero(np.isin(self.ids, ends))[:-1] + 1


def sample_windows(
    streams: dict[str, Stream], mixture: Mixture, n_windows: int, length: int, rng: np.random.Generator
) -> np.ndarray:
    """`<s> … </s>` windows, half of them starting at a sentence, sources in the shares of the mixture."""
    windows = np.empty((n_windows, length), dtype=np.int64)
    windows[:, 0], windows[:, -1] = BOS, EOS
    names = list(streams)
    shares = np.array([mixture[name] for name in names])
    chosen = rng.choice(len(names), size=n_windows, p=shares / shares.sum())
    for index, name in enumerate(names):
        rows = np.flatnonzero(chosen == index)
        stream = streams[name]
        last = len(stream.ids) - length
        anywhere = rng.integers(0, last, size=len(rows))
        sentences = np.minimum(rng.choice(stream.sentence_starts, size=len(rows)), last)
        starts = np.where(rng.random(len(rows)) < 0.5, sentences, anywhere)
        windows[rows, 1:-1] = stream.ids[starts[:, None] + np.arange(length - 2)]
    return windows


def mask_tokens(
    windows: np.ndarray, share: float, d_vocab: int, rng: np.random.Generator, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """BERT's masking, drawn anew every time: 80 % `<mask>`, 10 % a random token, 10 % unchanged.

    `weights` [d_vocab] are the tokens' odds to be chosen, equal by default. Returns the masked windows and the flat
    positions chosen, always the same number of them: `share` of all tokens.
    """
    flat, n_chosen = windows.ravel(), int(share * windows.size)
    chosen = np.flatnonzero(flat >= len(SPECIAL))
    if weights is not None:
        # The smallest of exponential keys with these rates: a weighted draw without replacement (Efraimidis, Spirakis).
        keys = rng.exponential(size=len(chosen)) / weights[flat[chosen]]
        chosen = chosen[np.argpartition(keys, n_chosen)[:n_chosen]]
    chosen = rng.permutation(chosen)[:n_chosen]
    kind = rng.random(len(chosen))
    inputs = flat.copy()
    inputs[chosen[kind < 0.8]] = MASK
    swapped = chosen[kind >= 0.9]
    inputs[swapped] = rng.integers(len(SPECIAL), d_vocab, len(swapped))
    return inputs.reshape(windows.shape), chosen


def pmi_embeddings(
    streams: dict[str, Stream], mixture: Mixture, d_vocab: int, d_model: int, window: int = 5
) -> torch.Tensor:
    """Left singular vectors of the positive PMI matrix, scaled by the root of the singular values."""
    counts = np.zeros((d_vocab, d_vocab))
    for name, stream in streams.items():
        weight = mixture[name] / len(stream.ids)
        ids = stream.ids.astype(np.int64)
        for offset in range(1, window + 1):
            pairs = np.bincount(ids[:-offset] * d_vocab + ids[offset:], minlength=d_vocab**2)
            counts += pairs.reshape(d_vocab, d_vocab) * (weight / offset)
    counts += counts.T
    total = counts.sum(1) + 1e-12
    context = total**0.75 / (total**0.75).sum()
    with np.errstate(divide="ignore"):
        pmi = np.log(counts / total[:, None] / context[None, :])
    matrix = torch.from_numpy(np.maximum(pmi, 0)).float()
    torch.manual_seed(0)
    left, singular, _ = torch.svd_lowrank(matrix, q=d_model, niter=4)
    return left * singular.sqrt()


def unigram_frequencies(streams: dict[str, Stream], mixture: Mixture, d_vocab: int) -> torch.Tensor:
    """Share of each token in the mixture."""
    shares = sum(
        mixture[name] * np.bincount(stream.ids, minlength=d_vocab) / len(stream.ids) for name, stream in streams.items()
    )
    return torch.from_numpy(np.asarray(shares)).float()


def make_model(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast, streams: dict[str, Stream]):
    # Compiled for a CPU, plain matrix products are the faster attention.
    attention = "sdpa" if args.device == "cuda" else "eager"
    if args.start_from:
        return RobertaForMaskedLM.from_pretrained(
            args.start_from, dtype=torch.float32, attn_implementation=attention
        ).train()
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.d_model,
        num_hidden_layers=args.n_layers,
        num_attention_heads=args.d_model // 64,
        intermediate_size=4 * args.d_model,
        max_position_embeddings=N_CTX + PAD + 1,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-5,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    config._attn_implementation = attention
    torch.manual_seed(args.seed)
    model = RobertaForMaskedLM(config)
    vectors = pmi_embeddings(streams, args.mixture, config.vocab_size, args.d_model)
    frequencies = unigram_frequencies(streams, args.mixture, config.vocab_size)
    with torch.no_grad():
        embedding = model.roberta.embeddings.word_embeddings.weight
        embedding.copy_(vectors / vectors.std() * 0.04)
        model.lm_head.bias.copy_(frequencies.clamp_min(1e-7).log())
    return model


def make_optimizers(weights: dict[str, torch.Tensor], args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all the rest (`--optimizer adamw`: AdamW for everything)."""
    matrices, decayed, plain = [], [], []
    for name, parameter in weights.items():
        if parameter.ndim < 2:
            plain.append(parameter)
        elif args.optimizer == "muon" and "encoder.layer" in name:
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    ]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def schedule(step: int, args: argparse.Namespace) -> float:
    """Linear warm-up, then linear decay to zero."""
    warm_up = max(1, int(args.warm_up * args.steps))
    return min((step + 1) / warm_up, (args.steps - step) / (args.steps - warm_up))


def window_length(step: int, args: argparse.Namespace) -> int:
    done = 0.0
    for length, share in args.windows.items():
        done += share
        if step < done * args.steps:
            return int(length)
    return N_CTX


def masked_loss(model, inputs, chosen, targets, positions) -> torch.Tensor:
    """Mean cross-entropy over the masked tokens; only these reach the vocabulary."""
    hidden = model.roberta(inputs, position_ids=positions).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[chosen])
    return F.cross_entropy(logits.float(), targets.flatten()[chosen])


def training_batch(streams: dict[str, Stream], step: int, args: argparse.Namespace, d_vocab: int, odds):
    """Depends on the seed and the step alone, so a resumed run sees the batches an unbroken one sees."""
    rng = np.random.default_rng([args.seed, step])
    length = window_length(step, args)
    windows = sample_windows(streams, args.mixture, args.batch_tokens // length, length, rng)
    inputs, chosen = mask_tokens(windows, args.mask_share, d_vocab, rng, odds)
    offsets = rng.integers(0, N_CTX - length + 1, size=(len(windows), 1))
    offsets[rng.random(len(offsets)) < 0.25] = 0
    positions = PAD + 1 + offsets + np.arange(length)
    return [torch.from_numpy(array).to(args.device) for array in (inputs, chosen, windows, positions)]


@torch.no_grad()
def held_out_loss(model, stream: Stream, d_vocab: int, device: str, n_windows: int = 256) -> float:
    """Loss on fixed windows of the longest length with a fixed mask of 15 %."""
    starts = np.linspace(0, len(stream.ids) - N_CTX, n_windows).astype(int)
    windows = np.empty((n_windows, N_CTX), dtype=np.int64)
    windows[:, 0], windows[:, -1] = BOS, EOS
    windows[:, 1:-1] = stream.ids[starts[:, None] + np.arange(N_CTX - 2)]
    inputs, chosen = mask_tokens(windows, 0.15, d_vocab, np.random.default_rng(0))
    positions = np.broadcast_to(PAD + 1 + np.arange(N_CTX), windows.shape).copy()
    total, count = 0.0, 0
    for part in np.split(np.arange(n_windows), n_windows // 32):
        rows = chosen[np.isin(chosen // N_CTX, part)] - part[0] * N_CTX
        tensors = [torch.from_numpy(a).to(device) for a in (inputs[part], rows, windows[part], positions[part])]
        total += masked_loss(model, *tensors).item() * len(rows)
        count += len(rows)
    return total / count


def save_checkpoint(path: Path, weights: dict[str, torch.Tensor], optimizers, step: int) -> None:
    """Weights and optimizer state as one safetensors file, replaced in one move."""
    tensors = {f"model.{name}": value.detach() for name, value in weights.items()}
    for i, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial, {"step": str(step)})
    partial.replace(path)


def load_checkpoint(path: Path, weights: dict[str, torch.Tensor], optimizers) -> int:
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(tensors[f"model.{name}"])
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(f"optimizer.{i}."):
                _, _, index, field = key.split(".", 3)
                state.setdefault(int(index), {})[field] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


@torch.no_grad()
def copy_weights(weights: dict[str, torch.Tensor], model: RobertaForMaskedLM) -> None:
    """Round the master weights into the model."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def pretrain(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "log.jsonl"

    def record(**fields: float | int | str) -> None:
        line = json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in fields.items()})
        with log.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    sources = {name: read_lines(args.data, name) for name in args.mixture}
    tokenizer_folder = args.start_from or args.out
    if not (tokenizer_folder / "tokenizer.json").exists():
        train_tokenizer(sources, args.mixture, args.d_vocab).save_pretrained(args.out)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    d_vocab = len(tokenizer)
    streams = {name: Stream(tokenizer, lines) for name, lines in sources.items()}
    validation = Stream(tokenizer, read_lines(args.data, f"{HELD_OUT}-valid"))

    odds = None
    if args.mask_frequent is not None:
        frequencies = unigram_frequencies(streams, args.mixture, d_vocab).numpy()
        odds = np.minimum(1, args.mask_frequent / np.maximum(frequencies, 1e-9))

    model = make_model(args, tokenizer, streams).to(args.device)
    # The model computes in bfloat16; `weights` are the float32 masters that the optimizers move.
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    model.bfloat16()
    optimizers = make_optimizers(weights, args)
    checkpoint = args.out / "checkpoint.safetensors"
    start = load_checkpoint(checkpoint, weights, optimizers) if checkpoint.exists() else 0
    copy_weights(weights, model)
    settings = {key: str(value) for key, value in vars(args).items() if key not in ("data", "out")}
    record(
        event="resumed" if start else "started",
        step=start,
        n_parameters=sum(p.numel() for p in model.parameters()),
        corpus_tokens=sum(len(stream.ids) for stream in streams.values()),
        **settings,
    )

    training_loss = torch.compile(masked_loss, dynamic=False) if args.compile else masked_loss
    began, tokens, running = time.perf_counter(), 0, []
    for step in range(start, args.steps):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = args.lr * schedule(step, args)
        inputs, chosen, windows, positions = training_batch(streams, step, args, d_vocab, odds)
        loss = training_loss(model, inputs, chosen, windows, positions)
        loss.backward()
        for name, parameter in model.named_parameters():
            weights[name].grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        copy_weights(weights, model)
        running.append(loss.detach())
        tokens += inputs.numel()
        done = step + 1
        if done % args.log_every == 0 or done == args.steps:
            mean = torch.stack(running).mean().item()
            if not math.isfinite(mean):
                raise FloatingPointError(f"The loss is {mean} at step {done}: lower `--lr` and start again.")
            rate = tokens / (time.perf_counter() - began)
            record(step=done, window=inputs.shape[1], loss=mean, tokens_per_second=int(rate))
            running = []
        if done % args.save_every == 0 or done == args.steps:
            save_checkpoint(checkpoint, weights, optimizers, done)
            model.eval()
            record(step=done, held_out_loss=held_out_loss(model, validation, d_vocab, args.device))
            model.train()

    model.eval()
    test = Stream(tokenizer, read_lines(args.data, f"{HELD_OUT}-test"))
    record(
        event="finished",
        tokens_seen=args.steps * args.batch_tokens,
        wikitext2_valid_loss=held_out_loss(model, validation, d_vocab, args.device),
        wikitext2_test_loss=held_out_loss(model, test, d_vocab, args.device),
    )
    copy_weights(weights, model.half())
    model.save_pretrained(args.out / "model", max_shard_size="15MB")
    tokenizer.save_pretrained(args.out / "model")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of *.txt.gz files")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint, log and, at the end, model/")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start-from", type=Path, help="folder of a finished model")
    parser.add_argument(
        "--mixture",
        type=json.loads,
        default={"imdb": 0.65, "enwiki": 0.28, "tweets": 0.07},
        help="shares of the sources, as JSON",
    )
    parser.add_argument(
        "--windows",
        type=json.loads,
        default={"16": 0.40, "32": 0.25, "64": 0.25, "128": 0.10},
        help="length of the windows in tokens, in turn, and their shares of the steps, as JSON",
    )
    parser.add_argument(
        "--mask-frequent",
        type=float,
        help="frequency F; tokens of a higher one, f, are chosen F / f times as often as others [default: all alike]",
    )
    for name, size in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"of a new model [default: {size}]")
    parser.add_argument("--steps", type=int, default=5_500)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--mask-share", type=float, default=0.2)
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warm-up", type=float, default=0.03, help="share of the steps")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=250)
    args = parser.parse_args()
    asked = [f"--{name.replace('_', '-')}" for name in SIZES if getattr(args, name) is not None]
    if args.start_from and asked:
        parser.error(f"{' and '.join(asked)}: a run that starts from a model has that model's sizes; leave them out")
    return argparse.Namespace(**vars(args) | {name: getattr(args, name) or size for name, size in SIZES.items()})


if __name__ == "__main__":
    pretrain(parse_arguments())
