"""The flags that both training scripts share, and the recipes of two published systems."""

from dataclasses import dataclass

from .cli import flag


@dataclass(frozen=True)
class TrainingArguments:
    # text and weights
    model: str = flag("minilm", "directory, hub id, minilm, distilbert-base-uncased, bert-base-uncased, scratch, scratch-tiny")
    data: str = flag("sample", "sample, imdb, or a path: aclImdb_v1.tar.gz, aclImdb/, .jsonl, .csv, .tsv, .txt (masked LM)")
    split: str = flag(
        "official",
        "how IMDb is cut. official: a tenth of train is validation; seed-b: likewise, as grojeda published; "
        "seed-a: as ayushshah did, validation and test are two parts of the official test",
        choices=("official", "seed-a", "seed-b"),
    )
    keep_duplicates: bool = flag(False, "keep training texts that are also in validation or test")
    keep_breaks: bool = flag(False, "keep <br /> as it is instead of making it a line break")
    train_size: int | None = flag(None, "so many training texts, classes in proportion (default: all)", low=1)
    eval_size: int | None = flag(None, "so many texts of validation and of test each, likewise (default: all)", low=1)
    # where the run lives
    preset: str = flag("", "a published recipe; explicit flags win over it, and --no_FLAG switches one of its flags off")
    output_dir: str = flag("", "the run directory")
    overwrite: bool = flag(False, "replace the run that is in output_dir")
    resume: bool = flag(False, "go on from the last checkpoint in output_dir; give the run's other flags again")
    seed: int = flag(0, "of the order of batches, dropout, fresh weights, subsets, hidden words", low=0, high=2**31 - 1)
    # machine
    device: str = flag("auto", "where to compute; auto: a CUDA GPU, or else the CPU", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = flag("auto", "number format; auto: what this machine is fast in", choices=("auto", "fp32", "bf16", "fp16"))
    compile: bool = flag(False, "AdamW as one kernel, on a GPU the encoder too; needs a C++ compiler, Python's headers")
    # recipe
    num_train_epochs: int | None = flag(None, "passes over train (3; a classifier of under 1,000 texts: 5)", low=1, high=10_000)
    max_steps: int | None = flag(None, "stop after so many optimizer steps, whatever the epochs", low=1)
    batch_size: int = flag(16, "examples of one forward, over all processes", low=1, high=65_536)
    eval_batch_size: int = flag(64, "examples of one forward in evaluation", low=1, high=65_536)
    gradient_accumulation_steps: int = flag(1, "forwards for one optimizer step", low=1, high=65_536)
    learning_rate: float = flag(1e-4, "peak rate of AdamW (for minilm; BERT's paper: 2e-5 to 5e-5)", low=0.0, high=1.0)
    weight_decay: float = flag(0.01, "each step shrinks the matrices by this times the rate", low=0.0, high=1.0)
    decay_all: bool = flag(False, "decay biases and norms too, as the preset dapt-imdb does")
    warmup_ratio: float = flag(0.1, "part of the steps over which the rate rises", low=0.0, high=1.0)
    lr_scheduler_type: str = flag("linear", "after the warmup", choices=("linear", "constant_with_warmup"))
    min_lr_ratio: float = flag(0.0, "least multiple of the rate after the warmup", low=0.0, high=1.0)
    max_grad_norm: float = flag(1.0, "clip the joint gradient norm to this (0: do not clip)", low=0.0)
    layer_decay: float = flag(1.0, "multiply the rate by this for each block further from the head", low=0.01, high=1.0)
    dropout: float | None = flag(None, "of every dropout, the head's too (default: the model's)", low=0.0, high=0.9)
    batching: str = flag("length", "batches of similar length, or at random", choices=("length", "random"))
    max_length: int = flag(256, "tokens of a sequence, [CLS] and [SEP] included", low=3, high=32_768)
    # reports
    logging_steps: int = flag(10, "optimizer steps between lines of log.jsonl", low=1)
    eval_steps: int | None = flag(None, "optimizer steps between validations (default: at each epoch's end)", low=1)
    save_steps: int | None = flag(None, "optimizer steps between checkpoints (one is written at each epoch's end)", low=1)
    save_minutes: float = flag(10.0, "minutes between checkpoints", low=0.0)


AS_PUBLISHED = {"keep_duplicates": True, "keep_breaks": True, "batching": "random", "weight_decay": 0.01, "max_grad_norm": 1.0}

CLASSIFICATION_PRESETS = {
    # https://github.com/AyushShahh/DistilBERT-IMDb, train.py: a classifier on the adapted encoder
    # (padded there to a multiple of 8, here to the longest text of a batch: the function is the same)
    "dapt-imdb": AS_PUBLISHED
    | {"model": "runs/mlm", "split": "seed-a", "seed": 23, "max_length": 512, "classifier_head": "linear"}
    | {"num_train_epochs": 3, "batch_size": 64, "learning_rate": 1e-5, "head_learning_rate": 5e-5, "decay_all": True}
    | {"warmup_ratio": 0.1, "lr_scheduler_type": "linear", "min_lr_ratio": 1e-8, "truncation": "head"}
    | {"precision": "fp16"},
    # https://huggingface.co/grojeda/distilbert-sentiment-imdb
    "imdb-384": AS_PUBLISHED
    | {"model": "distilbert-base-uncased", "split": "seed-b", "seed": 42, "max_length": 384, "precision": "fp32"}
    | {"num_train_epochs": 2, "batch_size": 16, "eval_batch_size": 32, "learning_rate": 2e-5}
    | {"warmup_ratio": 0.0, "lr_scheduler_type": "linear", "classifier_head": "pre_classifier", "truncation": "head"},
}

MASKED_LM_PRESETS = {
    # https://github.com/AyushShahh/DistilBERT-IMDb, dapt.py: adaptation to IMDb's unlabelled reviews (there the four
    # batches of a step count alike, here by their labels)
    "dapt-imdb": AS_PUBLISHED
    | {"model": "distilbert-base-uncased", "split": "seed-a", "seed": 23, "max_length": 512, "corpus": "unsup"}
    | {"num_train_epochs": 3, "batch_size": 16, "gradient_accumulation_steps": 4, "learning_rate": 3e-5, "decay_all": True}
    | {"warmup_ratio": 0.05, "lr_scheduler_type": "constant_with_warmup", "mlm_probability": 0.15, "dropout": 0.1}
    | {"truncate": True, "precision": "fp16"},
}
