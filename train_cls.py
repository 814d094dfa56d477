"""Fine-tunes an encoder to judge texts, from the vector at [CLS]: python train_cls.py [--help]

Its twin is train_mlm.py: the same skeleton in the same order, so that their diff shows what the two jobs do not share.
"""

import math
import time
from dataclasses import dataclass

from distilbert.arguments import CLASSIFICATION_PRESETS as PRESETS
from distilbert.arguments import TrainingArguments
from distilbert.cli import flag, parse, user_errors


@dataclass(frozen=True)
class Arguments(TrainingArguments):
    """Fine-tunes a sentiment classifier."""

    preset: str = flag("", "a published recipe; explicit flags win over it, --no_keep_breaks too", choices=tuple(PRESETS))
    output_dir: str = flag("runs/cls", "the run directory")
    head_learning_rate: float | None = flag(None, "peak rate of the classifier (default: learning_rate)", low=0.0, high=1.0)
    classifier_head: str = flag("linear", "layers between [CLS] and the logits", choices=("linear", "pre_classifier"))
    truncation: str = flag("head-tail", "which part of a long text is kept", choices=("head", "tail", "head-tail"))


if __name__ == "__main__":  # --help and mistyped flags are answered here, before the seconds that importing torch takes
    with user_errors():
        parse(Arguments, presets=PRESETS)

import numpy as np
import torch

from data.batches import epoch_batches, tokenise
from data.cls import classification_batch, truncate
from data.sources import check_classes, load, prepare
from distilbert.logits import predict_logits
from distilbert.metrics import classification_metrics
from distilbert.model import DistilBertForSequenceClassification
from distilbert.optim import AdamW, clip_grad_norm_, learning_rate_factor, parameter_groups, set_learning_rate, share_of_step
from distilbert.predict import verdicts
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
    parts = load(args.data, args.split, args.keep_breaks)
    parts, dropped = prepare(parts, args.keep_duplicates, args.train_size, args.eval_size, args.seed, args.data)
    parts = check_classes(parts, ("train", "validation", "test"), args.data)
    model, tokenizer = starting_point(
        DistilBertForSequenceClassification, args, parts["train"].texts, classifier_head=args.classifier_head
    )
    identity = tokenizer.backend.to_str()  # the whole tokenizer as text: the cache's key, and what --resume compares
    sequences, labels = {}, {name: part.labels for name, part in parts.items()}
    for name, part in parts.items():
        table = tokenise(part.texts, tokenizer.encode_batch, identity)
        sequences[name] = [truncate(ids, args.max_length, args.truncation) for ids in table]
    lengths = np.array([len(ids) for ids in sequences["train"]])

    def make_batch(indices: np.ndarray) -> dict[str, torch.Tensor]:
        return classification_batch([sequences["train"][i] for i in indices], labels["train"][indices], tokenizer.pad_id)

    def evaluate(name: str) -> tuple[np.ndarray, dict]:
        with precision.autocast():
            logits = predict_logits(model, sequences[name], tokenizer.pad_id, args.eval_batch_size)
        return logits, classification_metrics(logits, labels[name])

    args = run.settle(epochs=3 if len(parts["train"]) >= 1_000 else 5)  # if left open: few texts want more passes
    run.describe(parts, dropped, lengths, identity)

    # model, optimizer, schedule
    model.to(precision.device)
    groups = parameter_groups(
        model, args.learning_rate, args.weight_decay, args.head_learning_rate, args.decay_all, args.layer_decay
    )
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
            counts = [len(batch["labels"]) for batch in step_batches]
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
                _, metrics = evaluate("validation")
                if run.log_evaluation(metrics, score=metrics["accuracy"]):
                    best = full_precision(model, optimizer)
            if run.checkpoint_is_due(epoch_ended or ended):
                run.save(model, optimizer, scaler, best)
            run.exit_if_stopped()
            if ended:
                break

    # the best validation's weights again, on texts that nothing was chosen by
    load_weights(model, best)
    logits, metrics = evaluate("test")
    run.exit_if_stopped(ended=True)
    run.finish(model, tokenizer, best, parts, dropped, metrics, precision.peak_memory())
    run.say(
        f"\n{verdicts(logits, parts['test'], metrics)}\nbest validation: step {progress.best['step']}\n\n"
        f'The model is in {run.directory}. Try it: python evaluate.py --model {run.directory} --text "Not bad at all"'
    )


if __name__ == "__main__":
    with user_errors():
        main()
