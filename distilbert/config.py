"""The configuration: every size the model has, under Hugging Face's field names."""

from dataclasses import asdict, dataclass, field, fields, replace

from .errors import UserError

_LIMITS = {  # beyond these a file is broken, and refused before anything is allocated
    "vocab_size": (5, 1_000_000),
    "max_position_embeddings": (3, 32_768),
    "dim": (1, 8_192),
    "hidden_dim": (1, 65_536),
    "n_layers": (1, 128),
    "n_heads": (1, 256),
    "pad_token_id": (0, 999_999),
    "initializer_range": (0.0, 10.0),
} | dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), (0.0, 0.99))
HEAD_DROPOUT = {"linear": 0.1, "pre_classifier": 0.2}  # the kinds of a classifier, and the dropout before its last Linear


@dataclass(frozen=True)
class DistilBertConfig:
    """Sizes of distilbert-base-uncased (Sanh et al. 2019, section 3): half of BERT-base's 12 blocks, all of its width.

    Raises `UserError` when a value is out of range, so a config that exists is one a model can be built from.
    """

    vocab_size: int = 30_522
    max_position_embeddings: int = 512
    dim: int = 768  # D
    hidden_dim: int = 3_072  # F
    n_layers: int = 6  # L
    n_heads: int = 12  # H
    dropout: float = 0.1  # after the embeddings and after each feed-forward
    attention_dropout: float = 0.1  # on the attention weights
    seq_classif_dropout: float | None = None  # before a classifier's last Linear; None: its HEAD_DROPOUT
    initializer_range: float = 0.02  # standard deviation of fresh weights
    pad_token_id: int = 0
    classifier_head: str = "linear"  # or "pre_classifier", which is transformers' own
    id2label: dict[int, str] = field(default_factory=lambda: {0: "Negative", 1: "Positive"})

    def __post_init__(self):
        if self.classifier_head not in list(HEAD_DROPOUT):  # a list: what a file says may have no hash
            raise UserError(f"config: classifier_head is {self.classifier_head!r}, expected 'linear' or 'pre_classifier'")
        if self.seq_classif_dropout is None:
            object.__setattr__(self, "seq_classif_dropout", HEAD_DROPOUT[self.classifier_head])  # it is frozen
        for name, (low, high) in _LIMITS.items():
            value, kinds = getattr(self, name), (int,) if isinstance(low, int) else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise UserError(f"config: {name} is {value!r}, expected {'a number' if float in kinds else 'a whole number'}")
            if not low <= value <= high:
                raise UserError(f"config: {name} is {value}, expected {low} to {high}")
        if self.dim % self.n_heads:
            raise UserError(f"config: dim {self.dim} does not divide into {self.n_heads} heads (n_heads)")
        if self.pad_token_id >= self.vocab_size:
            raise UserError(f"config: pad_token_id {self.pad_token_id} lies outside the vocabulary of {self.vocab_size}")
        if not 2 <= len(self.id2label) <= 1_000 or list(self.id2label) != list(range(len(self.id2label))):
            raise UserError(f"config: id2label has the keys {list(self.id2label)[:5]}, expected 0, 1, … (2 to 1000 classes)")

    @property
    def num_labels(self) -> int:
        return len(self.id2label)  # C

    def replace(self, **changes) -> "DistilBertConfig":
        """A copy with some fields changed (and checked)."""
        return replace(self, **changes)

    @classmethod
    def from_dict(cls, raw: dict) -> "DistilBertConfig":
        """From the content of a Hugging Face config.json (a BERT's: `foreign.config_of_bert` first). Unknown keys are ignored.

        Raises `UserError` for another architecture, another activation, or a norm epsilon that is not 1e-12.
        """
        if (family := raw.get("model_type", "distilbert")) != "distilbert":
            raise UserError(f"config: model_type is {family!r}, expected 'distilbert' or 'bert'")
        needed = {"activation": "gelu", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}
        for key, value in needed.items():
            if raw.get(key, value) != value:
                raise UserError(f"config: {key} is {raw[key]!r}, but this model has {value!r} only")
        known = {field.name for field in fields(cls)} - {"id2label"}
        values = {"classifier_head": "pre_classifier"}  # unless the file says another: transformers has only this one
        values |= {key: value for key, value in raw.items() if key in known}
        return cls(**values, **_labels(raw))

    def to_dict(self, architecture: str) -> dict:
        """The content of a config.json that `transformers` reads; `architecture` is its class, say "DistilBertModel"."""
        return asdict(self) | {
            "id2label": {str(i): name for i, name in self.id2label.items()},
            "label2id": {name: i for i, name in self.id2label.items()},
            "model_type": "distilbert",
            "architectures": [architecture],
            "activation": "gelu",
            "sinusoidal_pos_embds": False,
            "tie_word_embeddings": True,
            "dtype": "float32",
        }


def _labels(raw: dict) -> dict:
    """id2label with whole numbers as keys (JSON has only strings); the placeholders LABEL_0, LABEL_1 become our names."""
    if (names := raw.get("id2label")) is None:
        return {}
    try:
        ordered = {int(key): str(value) for key, value in sorted(names.items(), key=lambda item: int(item[0]))}
    except (AttributeError, ValueError):
        raise UserError(f"config: id2label is {str(names)[:60]!r}, expected an object of numbers to names") from None
    return {} if list(ordered.values()) == ["LABEL_0", "LABEL_1"] else {"id2label": ordered}
