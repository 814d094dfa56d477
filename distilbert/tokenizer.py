"""Text ↔ ids. The WordPiece algorithm itself is the `tokenizers` library's; this says which vocabulary and which options."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers

from .errors import UserError
from .files import encodable, read_json, write_json, write_text
from .hub import locate

OPTIONS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BERTS = (None, "BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast")  # transformers' classes


def readable(text: str) -> str:
    """The text. Raises `UserError` where it holds half characters, as a command line's bytes that are not UTF-8 become."""
    if not encodable(text):
        raise UserError("the text is not readable: its bytes are not UTF-8")
    return text


def check_vocabulary(pieces: list[str], said: dict, path: Path) -> None:
    """Raises `UserError` where a list of pieces is not all that there is to BERT's WordPiece. `said`: tokenizer_config.json."""
    remedy = "write a tokenizer.json there: transformers.AutoTokenizer.from_pretrained(…).save_pretrained(…)"
    if (kind := said.get("tokenizer_class")) not in BERTS:
        raise UserError(f"{path}: {kind} may cut texts in another way than BERT's; {remedy}")
    added = said.get("added_tokens_decoder")
    added = [token.get("content") for token in added.values() if isinstance(token, dict)] if isinstance(added, dict) else []
    if (beside := path.with_name("added_tokens.json")).exists():
        added += read_json(beside)
    if others := [token for token in added if token not in SPECIAL_TOKENS]:
        raise UserError(f"{path}: has no place for the added token {others[0]!r}; {remedy}")
    capital = next((piece for piece in pieces if piece != piece.lower() and not re.fullmatch(r"[\[<].*[\]>]", piece)), None)
    if capital and not isinstance(said.get("do_lower_case"), bool):
        raise UserError(
            f"{path}: has capitals, as in {capital!r}, and nothing says whether texts keep theirs; copy tokenizer_config.json "
            'there, too, or write one that says {"do_lower_case": false} (true where texts are made lower case)'
        )


class Tokenizer:
    """BERT's WordPiece: lower case and accents off (if uncased), split at spaces and punctuation, then longest pieces first."""

    def __init__(self, backend: tokenizers.Tokenizer, source: str = "tokenizer"):
        backend.no_truncation()  # many published files have a length of their own switched on
        backend.no_padding()
        self.backend = backend
        self.special_ids = ids = [backend.token_to_id(token) for token in SPECIAL_TOKENS]
        if None in ids:
            raise UserError(f"{source}: has no {SPECIAL_TOKENS[ids.index(None)]}, expected BERT's five special tokens")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids
        self.size = max(backend.get_vocab().values()) + 1
        ends = [("[CLS]", self.cls_id), ("[SEP]", self.sep_id)]  # never the file's own rule: a broken one ends the process
        pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
        backend.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", pair, special_tokens=ends)

    @classmethod
    def from_pretrained(cls, model: str | Path) -> "Tokenizer":
        """From tokenizer.json, or else vocab.txt, of whatever `--model` accepts, by the options in tokenizer_config.json there.

        Raises `UserError` when neither file is usable, or a vocab.txt alone does not say how its pieces are to be used.
        """
        directory = locate(str(model))
        whole, words, config = (directory / name for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"))
        said = read_json(config) if config.exists() else {}
        options = {ours: said[theirs] for theirs, ours in OPTIONS.items() if isinstance(said.get(theirs), bool)}
        if said.get("strip_accents", True) is None:  # as lower case does
            options["strip_accents"] = None
        try:
            if whole.exists():
                backend = tokenizers.Tokenizer.from_file(str(whole))
                berts = isinstance(backend.normalizer, tokenizers.normalizers.BertNormalizer)
                obeyed = options if berts and said.get("tokenizer_class") in BERTS else {}
                for name, value in obeyed.items():
                    setattr(backend.normalizer, name, value)  # as in transformers (which has defaults for what is not said)
                tokenizer = cls(backend, str(whole))
                tokenizer.encode("ꙮ")  # a piece that hardly a vocabulary has: some files break only here
                return tokenizer
            if words.exists():
                # Not splitlines, which would also cut at pieces like U+2028 and shift every id after them.
                pieces = words.read_text(encoding="utf-8").removesuffix("\n").split("\n")
                check_vocabulary(pieces, said, words)
                return cls.from_vocabulary(pieces, str(words), **options)
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exceptions for a file it can't read
            raise UserError(f"{whole if whole.exists() else words}: not a tokenizer ({str(error)[:100]})") from None
        raise UserError(f"{directory}: holds neither tokenizer.json nor vocab.txt; copy one from the model it was made of")

    @classmethod
    def from_vocabulary(cls, vocabulary: list[str], source: str = "vocabulary", **options: bool) -> "Tokenizer":
        """From a list of pieces whose place is their id. `options`: BertNormalizer's, which are those of an uncased BERT."""
        ids = {piece: i for i, piece in enumerate(vocabulary)}
        backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
        backend.normalizer = tokenizers.normalizers.BertNormalizer(**options)
        backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        backend.decoder = tokenizers.decoders.WordPiece()
        backend.add_special_tokens([token for token in SPECIAL_TOKENS if token in ids])
        return cls(backend, source)

    @classmethod
    def from_texts(cls, texts: Iterable[str], size: int = 8_000) -> "Tokenizer":
        """A vocabulary of at most `size` from the text at hand: specials, characters, ##characters, then frequent words.

        A simple rule on purpose, and the same result on every machine: words by falling count, equal ones by alphabet.
        """
        normalise = tokenizers.normalizers.BertNormalizer(lowercase=True).normalize_str
        words = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", normalise(text)))
        characters = sorted({character for word in words for character in word})
        pieces = SPECIAL_TOKENS + characters + ["##" + character for character in characters]
        by_count = sorted(words, key=lambda word: (-words[word], word))
        return cls.from_vocabulary(list(dict.fromkeys(pieces + by_count))[:size])

    def __len__(self) -> int:
        """One more than the largest id: a file may leave ids out, or say a piece twice."""
        return self.size

    @property
    def continues(self) -> list[bool]:
        """For each id, whether its piece continues a word ("##ing"). Raises `UserError` where pieces do not show it."""
        prefix = getattr(self.backend.model, "continuing_subword_prefix", None)
        if not prefix:
            raise UserError("--whole_word_masking: this tokenizer's pieces do not show which of them go on within a word")
        return [(self.backend.id_to_token(i) or "").startswith(prefix) for i in range(len(self))]

    def encode(self, text: str, max_length: int | None = 512) -> list[int]:
        """Ids with [CLS] in front and [SEP] at the end; of what lies between, the end is cut to keep max_length in all."""
        return self.encode_batch([text], max_length)[0]

    def encode_batch(self, texts: list[str], max_length: int | None = None) -> list[list[int]]:
        """The same for each text, uncut if max_length is None. Raises `UserError` for one that UTF-8 can't hold."""
        if max_length is not None and max_length < 2:
            raise UserError(f"max_length is {max_length}, expected 2 at least, for [CLS] and [SEP]")
        encoded = [encoding.ids for encoding in self.backend.encode_batch_fast(list(map(readable, texts)))]
        if max_length is None:
            return encoded
        return [ids if len(ids) <= max_length else [*ids[: max_length - 1], ids[-1]] for ids in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """Text again, without special tokens, and lower case where the vocabulary is. `ids`: a list, or a row of a tensor."""
        return self.backend.decode(list(map(int, ids)), skip_special_tokens=True)

    def save_pretrained(self, directory: str | Path, max_length: int = 512) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer reads."""
        write_text(Path(directory) / "tokenizer.json", self.backend.to_str())
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",  # which takes tokenizer.json as it is
            "do_lower_case": getattr(self.backend.normalizer, "lowercase", False),
            "model_max_length": max_length,
            "model_input_names": ["input_ids", "attention_mask"],
        }
        names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}  # pad_token, unk_token, …
        write_json(Path(directory) / "tokenizer_config.json", config | names)
