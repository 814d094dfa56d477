"""The model card of a run: what it is, what it was trained on, what it can't do. Every number comes from the record."""

import json
import math

TASKS = {"DistilBertForSequenceClassification": "text-classification", "DistilBertForMaskedLM": "fill-mask"}


def model_card(record: dict, architecture: str) -> str:
    """README.md with the hub's YAML front matter (https://huggingface.co/docs/hub/model-cards)."""
    arguments, data, test = record["arguments"], record["data"], record["metrics"]["test"]
    task = TASKS[architecture]
    figures = {key: value for key, value in test.items() if isinstance(value, float) and math.isfinite(value)}
    listed = "\n".join(f"      - type: {key}\n        value: {value:.4f}" for key, value in figures.items())
    table = "\n".join(f"| {key} | {value:.4f} |" for key, value in figures.items())
    low, high = test.get("accuracy_interval", (None, None))
    interval = f"\nThe 95% interval of the accuracy is {low:.4f} to {high:.4f}.\n" if low is not None else ""
    film = arguments["data"] == "sample" or "imdb" in arguments["data"].lower()
    language = "language: en\n" if film else ""  # of other texts nobody has said it
    text = "an English film review" if film else f"a text like those of `{arguments['data']}`"
    if task == "text-classification":
        use = f"judging whether {text} is positive or negative"
        (_, false_positive), (false_negative, _) = test["confusion_matrix"]
        limits = (
            f"Of {test['n']} test texts it judged {false_positive + false_negative} wrong: {false_positive} negative ones as\n"
            f"positive, {false_negative} positive ones as negative. Its confidence, off by {test['ece']:.4f} on average,\n"
            "is not a probability of being right unless it was calibrated. Irony and quoted opinions mislead it, and of\n"
            f"longer texts it reads {arguments['max_length']} tokens."
        )
    else:
        use = f"guessing hidden words of {text}, or as an encoder to fine-tune"
        limits = f"It read {arguments['max_length']} tokens at a time, and learnt which words stand where, not what is true."
    linear = arguments.get("classifier_head") == "linear"  # two there: one adds a constant, the other takes it off again
    only = "; the classifier there in float32 and to judge,\nnot to train further" if linear else ""
    where = record["machine"]["gpu"] or f"{record['machine']['processor']}, {record['machine']['threads']} threads"
    recipe = "\n".join(f"| {key} | {value} |" for key, value in arguments.items())
    later = "".join(f" (lengthened at step {step})" for step in record["lengthened_at"])
    sizes = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in data.items() if isinstance(value, int))
    return f"""---
library_name: transformers
pipeline_tag: {task}
{language}model-index:
- name: {json.dumps(arguments["output_dir"])}
  results:
  - task:
      type: {task}
    dataset:
      name: {json.dumps(arguments["data"])}
      type: {json.dumps(arguments["data"])}
      split: test
    metrics:
{listed}
---
# {arguments["output_dir"]}

A DistilBERT ({task}), trained from `{arguments["model"]}` on `{arguments["data"]}`: {sizes}.

## Test results ({test["n"]} texts or tokens)

| metric | value |
|---|---|
{table}
{interval}
## Intended use

Teaching, and {use}. The files load with
`transformers.AutoTokenizer` and its Auto model classes{only}.

## Out of scope

Decisions about people. Texts of other kinds or languages, and moderation, unless it was measured there first. Judging
what a text is about, or whether it is true: it was asked for neither.

## Limits

{limits}
It was trained here on `{arguments["data"]}` only; other topics and other languages were not tested. It reproduces biases
of its training texts, names and origins of people among them.

## Training

| argument | value |
|---|---|
{recipe}

{record["steps"]} steps{later}, {record["epochs"]} whole epochs, {record["seconds"]:.0f} seconds of training
on {where};
best step {record["best_step"]}; torch {record["versions"]["torch"]}.
"""
