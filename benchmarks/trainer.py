"""The Hugging Face Trainer with the data, seed, rates and epochs of a finished run of train_cls.py: a peer for its accuracy.

    python benchmarks/trainer.py --run runs/cls --output trainer.json

Its classifier is transformers' own (Linear, ReLU, dropout 0.2, Linear), whatever the run's, and it computes in fp32; batches of
similar length are the Trainer's. A run with flags that have no counterpart here is refused, and one whose data have changed.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]  # the Trainer takes all

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    DistilBertForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from data.cls import truncate
from data.sources import load, prepare
from distilbert.cli import user_errors
from distilbert.errors import UserError
from distilbert.files import read_json, write_json
from distilbert.held_out import changed
from distilbert.metrics import classification_metrics
from distilbert.model import DistilBertModel
from distilbert.start import machine
from distilbert.tokenizer import Tokenizer

SAME = {"max_steps": (None,), "gradient_accumulation_steps": (1,), "lr_scheduler_type": ("linear",), "min_lr_ratio": (0.0,)}
SAME |= {"layer_decay": (1.0,), "head_learning_rate": (None,), "decay_all": (False,), "dropout": (None, 0.1)}
SAME |= {"eval_steps": (None,)}


def arguments_of(run: Path) -> argparse.Namespace:
    """Those that train_cls.py had. Raises `UserError` when the Trainer has no counterpart of one."""
    args = argparse.Namespace(**read_json(run / "checkpoint" / "arguments.json"))
    if not hasattr(args, "classifier_head"):
        raise UserError(f"{run}: holds no classifier; expected a run of train_cls.py")
    for name, values in SAME.items():
        if getattr(args, name) not in values:
            raise UserError(f"{run}: a run with --{name} {getattr(args, name)} has no counterpart here")
    if args.warmup_ratio == 1.0:
        raise UserError(f"{run}: a run with --warmup_ratio 1.0 has no counterpart here: there it is a single step")
    return args


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the run directory of train_cls.py to imitate")
    parser.add_argument("--output", type=Path, required=True, help="where the record goes (JSON)")
    given = parser.parse_args()
    args = arguments_of(given.run)
    done = read_json(given.run / "run.json")
    if done.get("lengthened_at"):
        raise UserError(f"{given.run}: a run that was lengthened has no counterpart here: its schedule changed on the way")
    parts = load(args.data, args.split, args.keep_breaks)
    parts, dropped = prepare(parts, args.keep_duplicates, args.train_size, args.eval_size, args.seed, args.data)
    if changed(parts, given.run):
        raise UserError(f"--data {args.data} is not what {given.run} was trained on: no peer could be made of it")

    with tempfile.TemporaryDirectory() as folder:
        encoder = DistilBertModel.from_pretrained(args.model)
        encoder.save_pretrained(folder)
        Tokenizer.from_pretrained(args.model).save_pretrained(folder, encoder.config.max_position_embeddings)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        set_seed(args.seed)
        model = DistilBertForSequenceClassification.from_pretrained(folder, num_labels=2)

        def dataset(name: str) -> list[dict]:
            encoded = [np.array(ids) for ids in tokenizer(parts[name].texts)["input_ids"]]
            cut = [truncate(ids, args.max_length, args.truncation).tolist() for ids in encoded]
            return [{"input_ids": ids, "labels": int(label)} for ids, label in zip(cut, parts[name].labels, strict=True)]

        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                seed=args.seed,
                num_train_epochs=done["epochs"],
                per_device_train_batch_size=args.batch_size,
                per_device_eval_batch_size=args.eval_batch_size,
                learning_rate=args.learning_rate,
                weight_decay=args.weight_decay,
                warmup_steps=args.warmup_ratio,  # below 1, a ratio
                max_grad_norm=args.max_grad_norm,
                eval_strategy="epoch",
                save_strategy="epoch",
                load_best_model_at_end=True,
                metric_for_best_model="accuracy",
                use_cpu=not torch.cuda.is_available(),
                train_sampling_strategy="group_by_length" if args.batching == "length" else "random",
                report_to=[],
            ),
            train_dataset=dataset("train"),
            eval_dataset=dataset("validation"),
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda output: {"accuracy": float((output.predictions.argmax(1) == output.label_ids).mean())},
        )
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        judged = trainer.predict(dataset("test"))  # in the order of its length groups, and label_ids with it
    record = {
        "system": "Hugging Face Trainer, transformers' head",
        "arguments": {"data": Path(args.data).name}
        | {name: getattr(args, name) for name in ("train_size", "eval_size", "max_length", "truncation", "seed")},
        "machine": machine("cuda" if torch.cuda.is_available() else "cpu"),
        "data": {name: len(part) for name, part in parts.items()} | {"dropped_duplicates": dropped},
        "epochs": [line for line in trainer.state.log_history if "eval_accuracy" in line],
        "metrics": {"test": classification_metrics(np.asarray(judged.predictions), np.asarray(judged.label_ids))},
        "seconds_with_evaluation": round(seconds, 1),
    }
    write_json(given.output, record)
    print(json.dumps(record["metrics"]["test"]))


if __name__ == "__main__":
    with user_errors():
        main()
