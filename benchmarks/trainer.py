"""The Hugging Face Trainer with train_cls.py's default recipe, data and seed: the peer that accuracies are held against.

python benchmarks/trainer.py --data aclImdb_v1.tar.gz --train_size 2000 --eval_size 2000 --output results/trainer.json
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
from distilbert.metrics import classification_metrics
from distilbert.model import DistilBertModel
from distilbert.run import machine
from distilbert.tokenizer import Tokenizer
from train_cls import Arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--train_size", type=int)
    parser.add_argument("--eval_size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="where the record goes (JSON)")
    given = parser.parse_args()
    args = Arguments(data=given.data, train_size=given.train_size, eval_size=given.eval_size, seed=given.seed)
    parts, dropped = prepare(load(args.data), train_size=args.train_size, eval_size=args.eval_size, seed=args.seed)

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
                num_train_epochs=args.num_train_epochs,
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
        logits = trainer.predict(dataset("test")).predictions
    record = {
        "system": "Hugging Face Trainer, transformers' head",
        "arguments": {"train_size": args.train_size, "eval_size": args.eval_size, "seed": args.seed},
        "machine": machine(),
        "data": {name: len(part) for name, part in parts.items()} | {"dropped_duplicates": dropped},
        "epochs": [line for line in trainer.state.log_history if "eval_accuracy" in line],
        "metrics": {"test": classification_metrics(np.asarray(logits), parts["test"].labels)},
        "seconds_with_evaluation": round(seconds, 1),
    }
    given.output.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record["metrics"]["test"]))


if __name__ == "__main__":
    main()
