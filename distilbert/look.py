"""A page to look inside a classifier: python -m distilbert.look "Not bad at all", or --serve to type reviews.

The page itself is look.html, a file that works alone: what there is to show is put into it as JSON.
"""

import base64
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

from .cli import flag, parse, printable, user_errors
from .errors import UserError
from .files import read_json, write_text


@dataclass(frozen=True)
class Arguments:
    """Shows what a trained classifier makes of a review, as a page for the browser."""

    text: str = flag("", "the review to look at", positional=True)
    model: str = flag("runs/cls", "a run of train_cls.py, or another trained classifier")
    output: str = flag("look.html", "the page to write")
    serve: bool = flag(False, "instead of writing a page, serve one on 127.0.0.1 where reviews are typed")
    port: int = flag(8000, "port of --serve; 0 for any that is free", low=0, high=65_535)


if __name__ == "__main__":  # --help and mistyped flags are answered here, before the seconds that importing torch takes
    with user_errors():
        parse(Arguments)

import numpy as np
import torch

from data.cls import truncate
from data.formats import with_line_breaks

from .directory import trained_with
from .explain import attention_and_decisions, integrated_gradients
from .hub import locate
from .model import DistilBertForSequenceClassification
from .predict import trained_classifier
from .serve import serve
from .tokenizer import Tokenizer, readable

TEMPLATE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class Reader:
    """A trained classifier with what its run says about reading: how long, from which end, <br /> or not, how confident."""

    name: str
    model: DistilBertForSequenceClassification
    tokenizer: Tokenizer
    max_length: int
    truncation: str
    keep_breaks: bool
    calibration: dict  # temperature, and fitted_on: how many texts, 0 for none

    @classmethod
    def from_pretrained(cls, name: str) -> "Reader":
        """From whatever `--model` accepts. Raises `UserError` unless it is a trained classifier of two classes."""
        directory = locate(name)
        model, tokenizer = trained_classifier(name, directory)
        own, record = trained_with(directory)
        calibration = directory / "calibration.json"
        scale = read_json(calibration) if calibration.exists() else {"temperature": 1.0}
        temperature = scale.get("temperature")
        if type(temperature) not in (int, float) or not 1e-6 < temperature < 1e6:  # the page's JSON has no infinity
            raise UserError(f"{calibration}: temperature is {temperature!r}, expected a positive number; write it anew "
                            f"with python evaluate.py --calibrate --model {name}")  # fmt: skip
        fitted_on = scale.get("fitted_on", 0)
        scale = {"temperature": temperature, "fitted_on": fitted_on if type(fitted_on) is int and fitted_on > 0 else 0}
        max_length, truncation = own.get("max_length", 512), own.get("truncation", "head")
        if type(max_length) is not int or max_length < 3 or truncation not in ("head", "tail", "head-tail"):
            raise UserError(f"{record}: max_length is {max_length!r} and truncation {truncation!r}, which no run writes")
        title = directory.resolve().name if directory == Path(name) else name
        max_length = min(max_length, model.config.max_position_embeddings)
        return cls(title, model.eval(), tokenizer, max_length, truncation, own.get("keep_breaks") is True, scale)

    def look(self, text: str) -> dict:
        """All that the page shows of a review, in JSON's types. Raises `UserError` when there is nothing to read in it."""
        text = with_line_breaks(text, self.keep_breaks)
        encoding = self.tokenizer.backend.encode(readable(text))
        kept = truncate(np.arange(len(encoding.ids)), self.max_length, self.truncation)
        if len(kept) == 2:  # [CLS] and [SEP]
            raise UserError("nothing to read: a review needs at least one word")
        ids = torch.tensor(encoding.ids)[kept][None]  # (1, T)
        weights, decisions = attention_and_decisions(self.model, ids)
        contributions, baseline, decision = integrated_gradients(self.model, ids, self.tokenizer.pad_id)
        if not all(map(math.isfinite, [*decisions.tolist(), *contributions.tolist(), baseline, decision])):
            raise UserError(f"{self.name}: its weights are so large that what it makes of this text is no number")
        temperature, labels = self.calibration["temperature"], self.model.config.id2label
        positive = float(torch.tensor(decision / temperature, dtype=torch.float64).sigmoid())
        return {
            "model": self.name,
            "text": text,
            "labels": [labels[0], labels[1]],
            "label": labels[int(positive > 0.5)],
            "confidence": max(positive, 1 - positive),
            "calibration": self.calibration,
            "decision": decision / temperature,
            "baseline": baseline / temperature,
            "decisions": (decisions / temperature).tolist(),
            "pieces": pieces(text, encoding, kept.tolist()),
            "contributions": (contributions / temperature).tolist(),
            "heads": weights.shape[1],
            "attention": packed(weights),
        }


def pieces(text: str, encoding, kept: list[int]) -> list[dict]:
    """Of each kept piece: its name, its spelling in the text, the gap in front of it, and the number of its word.

    `skipped` is how many pieces in front of it were cut away. Where none were, gaps and spellings make up the text.
    """
    found, word, end, last = [], -1, 0, -1
    for i in kept:
        skipped, own_word = i - last - 1, encoding.word_ids[i]
        start, stop = encoding.offsets[i]
        if own_word is None:  # [CLS] and [SEP] stand nowhere in the text: put them at its ends
            start = stop = 0 if i == 0 else len(text)
        word += skipped > 0 or own_word is None or own_word != encoding.word_ids[last]
        gap, spelled = "" if skipped else text[end:start], text[max(start, end) : stop]
        found.append({"piece": encoding.tokens[i], "text": spelled, "gap": gap, "word": word, "skipped": skipped})
        end, last = max(end, stop), i
    return found


def packed(weights: torch.Tensor) -> str:
    """Weights (L, H, T, T) as bytes, zlib's deflate and base64: round(255·√w), which keeps small weights apart from zero."""
    steps = (weights.sqrt() * 255).round().to(torch.uint8)
    return base64.b64encode(zlib.compress(steps.numpy().tobytes())).decode("ascii")


def page(data: dict) -> str:
    """look.html with the data in it. Neither `<` nor anything beyond ASCII is left, so no text can end the script element."""
    return TEMPLATE.read_text(encoding="utf-8").replace("@data@", json.dumps(data, allow_nan=False).replace("<", "\\u003c"))


def shown(reader: Reader, text: str) -> str:
    """The page with the form: of a review, of none yet, or with what is wrong with it."""
    try:
        data = reader.look(text) if text else {}
    except UserError as error:
        data = {"error": str(error)}
    return page({"serve": True, "model": reader.name, "text": text} | data)


def main(argv: list[str] | None = None) -> None:
    args = parse(Arguments, argv)
    if not args.text and not args.serve:
        raise UserError('no review given: python -m distilbert.look "Not bad at all", or --serve to type some')
    if Path(args.output).is_dir():
        raise UserError(f"--output {args.output}: a directory; give the name of a file, say {Path(args.output) / 'look.html'}")
    reader = Reader.from_pretrained(args.model)
    if args.serve:
        return serve(lambda text: shown(reader, text), args.text, args.port)
    data = reader.look(args.text)
    output = Path(args.output)
    file = output.is_file() or not output.exists()  # and no pipe, as /dev/stdout may be: its resolved name would open nothing
    write_text(output.resolve() if file else output, page(data))  # a link stays one
    print(printable(f"{data['label']} {data['confidence']:.3f}  wrote {args.output}"))


if __name__ == "__main__":
    with user_errors():
        main()
