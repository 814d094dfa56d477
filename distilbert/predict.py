"""A trained model at work: verdicts on reviews, words for a [MASK]."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.sources import Part

from .cli import flag, parse, printable, user_errors
from .errors import UserError
from .files import read_json
from .logits import evaluating, predict_logits
from .metrics import softmax
from .model import DistilBertForMaskedLM, DistilBertForSequenceClassification
from .tokenizer import Tokenizer

TRAINED = "; or, after training of your own, model.head_is_fresh = False"


def check_pair(model: nn.Module, tokenizer) -> None:
    """Raises `UserError` when the tokenizer has ids that the model has no embedding for."""
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(f"the tokenizer has {len(tokenizer)} pieces, the model {model.config.vocab_size}: not a pair")


def trained_classifier(name: str, directory: Path) -> tuple[DistilBertForSequenceClassification, Tokenizer]:
    """What `directory` holds, which --model calls `name`. Raises `UserError` unless it is trained to tell two classes apart."""
    model = DistilBertForSequenceClassification.from_pretrained(directory)
    if model.head_is_fresh:
        raise UserError(f"--model {name} has no trained classifier; train one: python train_cls.py --model {name} …")
    if model.config.num_labels != 2:
        raise UserError(f"--model {name} tells {model.config.num_labels} classes apart, expected Negative and Positive")
    path = directory / "config.json"
    named = read_json(path).get("id2label") if path.exists() else None
    if not named or sorted(map(str, named.values())) == ["LABEL_0", "LABEL_1"]:  # transformers' own
        print(f"--model {name}: its classes have no names; 0 is taken for Negative, 1 for Positive", file=sys.stderr)
    tokenizer = Tokenizer.from_pretrained(directory)
    check_pair(model, tokenizer)
    return model, tokenizer


def verdicts(logits: np.ndarray, part: Part, metrics: dict) -> str:
    """The figures of a part, and five of its texts as they were judged: one wrong, if there is one."""
    low, high = metrics["accuracy_interval"]
    right = logits.argmax(axis=1) == part.labels
    lines = [
        f"test accuracy {metrics['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f}) on {metrics['n']} texts, "
        f"F1 {metrics['f1']:.4f}, ROC-AUC {metrics['roc_auc']:.4f}\n"
    ]
    chosen = np.concatenate([np.flatnonzero(~right)[:1], np.flatnonzero(right)])[:5]
    for i, confidence in zip(chosen, softmax(logits[chosen]).max(axis=1), strict=True):
        said, text = "Positive" if logits[i].argmax() else "Negative", printable(" ".join(part.texts[i].split()))
        lines.append(f"{'right' if right[i] else 'WRONG'}  {said} {confidence:.2f}  {text[:90]}{'…' if len(text) > 90 else ''}")
    return "\n".join(lines) + "\n"


def fill_mask(text: str, model: nn.Module, tokenizer, top: int = 5) -> list[list[tuple[str, float]]]:
    """For each [MASK] of the text, the `top` likeliest pieces with their probabilities.

    Raises `UserError` for a model loaded without a trained head, for a tokenizer with more pieces than the model knows, for
    a text without [MASK], and for one beyond the model's positions.
    """
    if model.head_is_fresh:
        raise UserError("this model's masked-LM head is untrained: train it first with python train_mlm.py --model …" + TRAINED)
    check_pair(model, tokenizer)
    limit = model.config.max_position_embeddings
    ids = torch.tensor([tokenizer.encode(text, limit)])
    masked, wanted = (ids[0] == tokenizer.mask_id).nonzero().flatten(), tokenizer.encode(text, None).count(tokenizer.mask_id)
    if not wanted:
        raise UserError(f'no [MASK] in {text[:60]!r}; write for example "The acting was [MASK]."')
    if len(masked) < wanted:
        raise UserError(f"a [MASK] of {text[:60]!r} lies beyond the {limit} tokens that the model reads; shorten the text")
    with evaluating(model):
        logits = model(ids.to(next(model.parameters()).device))[0].cpu()  # (T, V)
        probabilities, pieces = logits[masked].float().softmax(dim=1).topk(top)
    return [
        [(tokenizer.backend.id_to_token(int(piece)), float(p)) for piece, p in zip(*row, strict=True)]
        for row in zip(pieces, probabilities, strict=True)
    ]


def infer_reviews(reviews: str | list[str], model: nn.Module, tokenizer, batch_size: int = 32, max_length: int = 512):
    """Judges one review or a list -> (class, label, confidence), or a list of such tuples, in order.

    `tokenizer`: ours or one of transformers'. Texts are cut to `max_length` tokens, or to the model's positions if fewer.
    They are read as they stand: replace IMDb's "<br />" by line feeds first, as training does. An empty text is judged, too,
    but that means nothing: leave it out.
    Raises `UserError` for a model loaded without a trained head and for a tokenizer with more pieces than the model knows.
    """
    if getattr(model, "head_is_fresh", False):
        raise UserError("this model's classifier is untrained: train it first with python train_cls.py --model …" + TRAINED)
    check_pair(model, tokenizer)
    texts = [reviews] if isinstance(reviews, str) else list(reviews)
    if not texts:
        return []
    max_length = min(max_length, model.config.max_position_embeddings)
    if hasattr(tokenizer, "encode_batch"):
        encoded = tokenizer.encode_batch(texts, max_length)
    else:
        encoded = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    logits = predict_logits(model, [np.array(ids) for ids in encoded], model.config.pad_token_id, batch_size)
    names = model.config.id2label
    judged = [(int(p.argmax()), names[int(p.argmax())], float(p.max())) for p in softmax(logits)]  # p (C,)
    return judged[0] if isinstance(reviews, str) else judged


@dataclass(frozen=True)
class FillArguments:
    """Guesses the hidden words of a sentence."""

    model: str = flag("runs/mlm", "a run of train_mlm.py, or another masked LM")
    fill: str = flag("The acting was [MASK].", "a sentence with [MASK] in it")


def main(argv: list[str] | None = None) -> None:
    """`python -m distilbert.predict --fill "The acting was [MASK]."`: the five likeliest fillings of each [MASK]."""
    args = parse(FillArguments, argv)
    model, tokenizer = DistilBertForMaskedLM.from_pretrained(args.model), Tokenizer.from_pretrained(args.model)
    for number, guesses in enumerate(fill_mask(args.fill, model, tokenizer), 1):
        print(f"[MASK] {number} of {args.fill!r}")
        for piece, probability in guesses:
            print(printable(f"  {probability:.3f}  {piece}"))


if __name__ == "__main__":
    with user_errors():
        main()
