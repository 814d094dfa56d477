"""Adapts an encoder to a domain by masked language modelling: python train_mlm.py [--help]

Its twin is train_cls.py: the same skeleton in the same order, so that their diff shows what the two jobs do not share.
"""

import math
import time
from dataclasses import dataclass

from distilbert.arguments import MASKED_LM_PRESETS as PRESETS
from distilbert.arguments import TrainingArguments
from distilbert.cli import flag, parse, user_errors


@dataclass(frozen=True)
class Arguments(TrainingArguments):
    """Adapts an encoder to the texts it will work on, by guessing their hidden words."""

    preset: str = flag("", "a published recipe; explicit flags win over it, --no_keep_breaks too", choices=tuple(PRESETS))
    output_dir: str = flag("runs/mlm", "the run directory")
    learning_rate: float = flag(2e-4, "peak rate of AdamW", low=0.0, high=1.0)
    dropout: float | None = flag(0.0, "of embeddings, attention and feed-forward", low=0.0, high=0.9)
    mlm_probability: float = flag(0.15, "share of the tokens to be guessed", low=0.001, high=0.999)
    whole_word_masking: bool = flag(False, "hide all pieces of a word together")
    pack: bool = flag(False, "join all texts and cut them every max_length tokens, as transformers' examples do")
    truncate: bool = flag(False, "cut a long text at max_length instead of making several windows of it")
    corpus: str = flag("all", "which texts: unlabelled and training ones, or unlabelled alone", choices=("all", "unsup"))


if __name__ == "__main__":  # --help and mistyped flags are answered here, before the seconds that importing torch takes
    with user_errors():
        parse(Arguments, presets=PRESETS)

import numpy as np
import torch

from data.batches import epoch_batches, tokenise
from data.cls import truncate
from data.mlm import corpus_parts, mask_tokens, masked_batch, packed, windows
from data.sources import load, prepare
from distilbert.errors import UserError
from distilbert.logits import masked_lm_totals
from distilbert.metrics import masked_lm_metrics
from distilbert.model import IGNORED, DistilBertForMaskedLM, labelled_rows
from distilbert.optim import AdamW, clip_grad_norm_, learning_rate_factor, parameter_groups, set_learning_rate, share_of_step
from distilbert.run import Run
from distilbert.start import full_precision, load_weights, starting_point, step_seed


def main(argv: list[str] | None = None) -> None:
    with Run(parse(Arguments, argv, PRESETS)) as run:
        if not run.finished():
            train(run)


def train(run: Run) -> None:
    checkpoint = run.begin()
    args, progress, workers, precision = run.arguments, run.progress, run.workers, run.precision  # workers: torchrun's
    torch.manual_seed(args.seed)

    # text → parts → ids
    if args.pack and args.truncate:
        raise UserError(
            "--pack and --truncate exclude each other: one keeps what the other cuts off (a preset's: --no_truncate)"
        )
    parts = load(args.data, args.split, args.keep_breaks)
    parts = corpus_parts(parts, args.corpus, args.data)
    parts, dropped = prepare(parts, args.keep_duplicates, args.train_size, args.eval_size, args.seed, args.data)
    model, tokenizer = starting_point(DistilBertForMaskedLM, args, parts["train"].texts)
    identity = tokenizer.backend.to_str()  # the whole tokenizer as text: the cache's key, and what --resume compares
    sequences = {}
    for name, part in parts.items():
        table = tokenise(part.texts, tokenizer.encode_batch, identity)
        if args.truncate:
            sequences[name] = [truncate(ids, args.max_length, "head") for ids in table]
        else:
            sequences[name] = packed(table, args.max_length) if args.pack else windows(table, args.max_length)
    lengths = np.array([len(ids) for ids in sequences["train"]])
    continues = tokenizer.continues if args.whole_word_masking else None

    def mask(name: str, index: int, *seed: int) -> tuple[np.ndarray, np.ndarray]:
        vocabulary = (len(tokenizer), tokenizer.mask_id, tokenizer.special_ids)
        return mask_tokens(sequences[name][index], (*seed, index), *vocabulary, args.mlm_probability, continues)

    def make_batch(indices: np.ndarray) -> dict[str, torch.Tensor]:
        batch = masked_batch([mask("train", i, args.seed, progress.epoch) for i in indices], tokenizer.pad_id)
        return batch | labelled_rows(batch["labels"])  # here, on the CPU: on a GPU a count waits for all its work

    def evaluate(name: str) -> dict:  # the same masks at every call and for every seed, so that losses compare
        with precision.autocast():
            pairs = [mask(name, i, 0) for i in range(len(sequences[name]))]
            return masked_lm_metrics(*masked_lm_totals(model, pairs, tokenizer.pad_id, args.eval_batch_size))

    for name in ("validation", "test"):
        if not any((mask(name, i, 0)[1] != IGNORED).any() for i in range(len(sequences[name]))):
            raise UserError(
                f"--data {args.data}: no token of {name} is hidden, so nothing could be measured. It has too little text, or "
                "in another language than the vocabulary's, or --mlm_probability is too small"
            )
    args = run.settle(epochs=3)  # if left open
    run.describe(parts, dropped, lengths, identity)

    # model, optimizer, schedule
    model.to(precision.device)
    groups = parameter_groups(model, args.learning_rate, args.weight_decay, None, args.decay_all, args.layer_decay)
    optimizer = AdamW(groups, master_weights=precision.dtype != torch.float32, compiled=args.compile)
    model.to(precision.dtype)  # rounds what the optimizer keeps whole
    if args.compile:
        run.say("compiling: the first step takes up to half a minute more")
        precision.compile(model.encoder)  # the encoder on a GPU only; AdamW, above, everywhere
    scaler = precision.scaler()
    best = run.restore(model, optimizer, scaler, checkpoint)
    accumulation = args.gradient_accumulation_steps
    steps_per_epoch = math.ceil(math.ceil(len(lengths) / args.batch_size) / accumulation)
    total_steps = args.max_steps or steps_per_epoch * args.num_train_epochs
    warmup_steps = math.ceil(total_steps * args.warmup_ratio)

    if progress.step == 0:
        run.log_evaluation(evaluate("validation"), score=math.nan)  # to compare with; never the best
    model.train()
    while progress.step < total_steps:
        batches = epoch_batches(lengths, args.batch_size, args.seed, progress.epoch, args.batching)
        for first in range(progress.steps_in_epoch * accumulation, len(batches), accumulation):
            started = time.perf_counter()
            torch.manual_seed(step_seed(args.seed, progress.step, workers.rank))  # dropout depends on these alone
            done = progress.step - progress.skipped
            factor = learning_rate_factor(done, total_steps, warmup_steps, args.lr_scheduler_type, args.min_lr_ratio)
            set_learning_rate(optimizer, factor)

            # forward and backward: each batch counts by its share of the step's labels, so that the sum is that of one batch
            chosen = batches[first : first + accumulation]
            step_batches = [make_batch(own) for own in map(workers.share, chosen) if len(own)]
            counts = [int((batch["labels"] != IGNORED).sum()) for batch in step_batches]
            tokens = sum(int(batch["attention_mask"].sum()) for batch in step_batches)
            labels_in_step, tokens = workers.total(sum(counts), tokens)
            step_loss = torch.zeros((), device=precision.device)
            scaler.scale(step_loss)  # unscale_ fails if nothing was scaled, as where this process has no batch
            for batch, count in zip(step_batches, counts, strict=True):
                with precision.autocast():
                    loss = share_of_step(model.loss(**precision.to_device(batch)), count, labels_in_step)
                scaler.scale(loss).backward()
                step_loss = step_loss + loss.detach()
            step_loss = workers.add_up(model, step_loss)

            # clipping is by the gradients' true size: unscale first
            scaler.unscale_(optimizer)
            norm = clip_grad_norm_(model.parameters(), args.max_grad_norm)
            skipped = not scaler.step(optimizer)  # an overflow in fp16: nothing was learnt, so the schedule waits
            scaler.update()
            optimizer.zero_grad()
            epoch_ended = first + accumulation >= len(batches)
            seconds = time.perf_counter() - started
            run.count(step_loss, norm, labels_in_step, tokens, seconds, skipped, epoch_ended, np.concatenate(chosen))

            ended = progress.step == total_steps
            if progress.step % args.logging_steps == 0 or ended:
                run.log_training(total_steps, args.learning_rate * factor)
            if run.evaluation_is_due(epoch_ended, ended):
                metrics = evaluate("validation")
                if run.log_evaluation(metrics, score=-metrics["loss"]):
                    best = full_precision(model, optimizer)
            if run.checkpoint_is_due(epoch_ended or ended):
                run.save(model, optimizer, scaler, best)
            run.exit_if_stopped()
            if ended:
                break

    # the best validation's weights again, on texts that nothing was chosen by
    load_weights(model, best)
    metrics = evaluate("test")
    run.exit_if_stopped(ended=True)
    run.finish(model, tokenizer, best, parts, dropped, metrics, precision.peak_memory())
    run.say(
        f"\ntest perplexity {metrics['perplexity']:.2f}, {metrics['masked_accuracy']:.1%} of {metrics['n']} masked tokens "
        f"guessed; best validation: step {progress.best['step']}\n\nThe model is in {run.directory}. Try it:\n"
        f'python -m distilbert.predict --model {run.directory} --fill "The acting was [MASK]."\n'
        f"python train_cls.py --model {run.directory} --output_dir runs/adapted"
    )


if __name__ == "__main__":
    with user_errors():
        main()
