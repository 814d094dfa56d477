"""One turn of one contestant of compare.py, in a process of its own: the last line that it prints has its tokens, its seconds
and its peak memory in bytes, as JSON.
"""

import json
import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from data.batches import by_length, epoch_batches
from distilbert.fast import tune_process
from distilbert.precision import Precision, fast_bf16


def read(path: Path, part: str) -> tuple[list[str], list[int]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["text"] for row in rows if row["split"] == part], [row["label"] for row in rows if row["split"] == part]


def hugging_face_trainer(folder: Path, task: str, how: str, steps: int, batch_size: int, max_length: int, seed: int) -> dict:
    """transformers' Trainer with its fused AdamW. how: "default" (fp32), "bf16" (autocast), "tuned" (autocast where bf16 is
    fast, on the very batches that ours has); "-no-attention-dropout" may follow. The first step is not counted.

    Its own batches by length would be batches at random here: it sorts within a quarter of a small data set, at most.
    """
    from transformers import (
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    texts, labels = read(folder / "reviews.jsonl", "train")
    changes = {"attention_dropout": 0.0} if how.endswith("no-attention-dropout") else {}
    if task == "mlm":
        ids = np.concatenate([np.array(piece) for piece in tokenizer(texts)["input_ids"]])
        dataset = [{"input_ids": ids[i : i + max_length].tolist()} for i in range(0, len(ids) - max_length + 1, max_length)]
        model = AutoModelForMaskedLM.from_pretrained(folder / "model", **changes)
        collate = DataCollatorForLanguageModeling(tokenizer)
    else:
        encoded = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        dataset = [{"input_ids": ids, "labels": label} for ids, label in zip(encoded, labels, strict=True)]
        if how.startswith("tuned"):
            order = epoch_batches(np.array([len(ids) for ids in encoded]), batch_size, seed, epoch=0)
            dataset = [dataset[i] for i in np.concatenate(order)]
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model", **changes)
        collate = DataCollatorWithPadding(tokenizer)
    tokens, times = [], []

    def counted(examples: list[dict]) -> dict:
        tokens.append(sum(len(example["input_ids"]) for example in examples))
        return collate(examples)

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            times.append(time.perf_counter())

    Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "trainer"),
            max_steps=steps + 1,
            per_device_train_batch_size=batch_size,
            bf16=how.startswith("bf16") or (how.startswith("tuned") and fast_bf16("cpu")),
            train_sampling_strategy="sequential" if how.startswith("tuned") else "random",
            seed=seed,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=dataset,
        data_collator=counted,
        callbacks=[Clock()],
    ).train()
    return {"tokens": sum(tokens[1 : steps + 1]), "seconds": times[-1] - times[0]}


def our_script(folder: Path, task: str, how: str, steps: int, batch_size: int, max_length: int, seed: int) -> dict:
    """The shipped script with its own log as the clock; how: its --precision, or "compiled". The first step is not counted."""
    output = folder / "ours"
    flags = ["--model", str(folder / "model"), "--data", str(folder / "reviews.jsonl"), "--output_dir", str(output)]
    flags += ["--compile", "--precision", "auto"] if how == "compiled" else ["--precision", how]
    flags += ["--overwrite", "--logging_steps", "1", "--eval_size", "4", "--seed", str(seed)]
    flags += ["--max_steps", str(steps + 1), "--batch_size", str(batch_size), "--max_length", str(max_length)]
    if task == "mlm":
        sys.argv = ["train_mlm.py", *flags, "--pack", "--dropout", "0.1"]  # the Trainer's dropout, not our default of none
    else:
        sys.argv = ["train_cls.py", *flags, "--truncation", "head", "--classifier_head", "pre_classifier"]
    runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    counted = [line for line in lines if "tokens" in line][1:]
    return {key: sum(line[key] for line in counted) for key in ("tokens", "seconds")}


def pipeline(folder: Path, how: str, batch_size: int, max_length: int) -> dict:
    """transformers' text-classification pipeline; how: "default" (fp32), "bf16", or "bf16-by-length": in our order.

    It takes texts in the order they come.
    """
    import transformers

    dtype = torch.bfloat16 if how.startswith("bf16") else torch.float32
    judge = transformers.pipeline("text-classification", model=str(folder / "judge"), dtype=dtype, device="cpu")
    texts, _ = read(folder / "reviews.jsonl", "train")
    if how.endswith("by-length"):  # which it has to be told; the time that it takes is not counted
        lengths = [len(ids) for ids in judge.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]]
        texts = [texts[i] for i in np.concatenate(list(by_length(lengths, batch_size)))]
    options = {"truncation": True, "max_length": max_length, "batch_size": batch_size}
    judge(texts[:batch_size], **options)
    started = time.perf_counter()
    judge(texts, **options)
    seconds = time.perf_counter() - started
    return {
        "tokens": sum(map(len, judge.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"])),
        "seconds": seconds,
    }


def our_inference(folder: Path, how: str, batch_size: int, max_length: int) -> dict:
    """how: "infer_reviews" (texts to verdicts), the same in "fp32", or "predict_logits", evaluate.py's way (ids to logits)."""
    from distilbert import DistilBertForSequenceClassification, Tokenizer, infer_reviews
    from distilbert.logits import predict_logits

    if how == "predict_logits":
        tune_process()  # as evaluate.py does
    model, tokenizer = (kind.from_pretrained(folder / "judge") for kind in (DistilBertForSequenceClassification, Tokenizer))
    precision = Precision.choose("cpu", "fp32" if how == "fp32" else "auto")
    model.to(precision.dtype)
    texts, _ = read(folder / "reviews.jsonl", "train")
    ids = [np.array(piece) for piece in tokenizer.encode_batch(texts, max_length)]
    infer_reviews(texts[:batch_size], model, tokenizer)
    started = time.perf_counter()
    if how != "predict_logits":
        infer_reviews(texts, model, tokenizer, batch_size, max_length)
    else:
        predict_logits(model, ids, tokenizer.pad_id, batch_size)
    return {"tokens": sum(map(len, ids)), "seconds": time.perf_counter() - started}


def main() -> None:
    folder, task, name, steps, batch_size, max_length, seed = (kind(word) for kind, word in zip(
        (Path, str, str, int, int, int, int), sys.argv[1:], strict=True))  # fmt: skip
    who, _, how = name.partition(" ")
    if task == "inference":
        result = {"pipeline": pipeline, "ours": our_inference}[who](folder, how, batch_size, max_length)
    else:
        result = {"trainer": hugging_face_trainer, "ours": our_script}[who](
            folder, task, how, steps, batch_size, max_length, seed
        )
    print(json.dumps(result | {"peak_memory": Precision("cpu", "fp32").peak_memory()}))


if __name__ == "__main__":
    main()
