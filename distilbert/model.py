"""DistilBERT, in the order a tensor meets it: ids → embeddings → L blocks → head → logits.

Sanh et al. 2019, "DistilBERT, a distilled version of BERT" (https://arxiv.org/abs/1910.01108): the encoder of BERT
(Devlin et al. 2018, https://arxiv.org/abs/1810.04805) with half of its blocks, and without token types and pooler.
The block itself is Vaswani et al. 2017, "Attention Is All You Need" (https://arxiv.org/abs/1706.03762), section 3.

    B  batch                  H  heads                      V  vocabulary
    T  tokens of a sequence   K  width of a head, D = H·K   M  masked positions of a batch
    D  width                  F  width of the feed-forward  C  classes        (but F.gelu, F.… are torch's functions)
    L  blocks                 R  rows of a sequence that are asked for: those that the head reads, or all T

A sequence is [CLS], the pieces of a text, [SEP]. [CLS] stands for no word, so its last vector is free to stand for the whole
text: all that a classifier reads. For a masked LM some pieces are hidden, most behind [MASK], and it predicts them.

A comment `# (B, T, D)` stands where the shape changes, and gives the shape of the line's result, or of each if there are
several. tests/test_shapes.py runs the code and holds every one of them against the tensor.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoint import Pretrained  # from_pretrained and save_pretrained
from .config import DistilBertConfig
from .errors import UserError
from .fast import LayerNorm, Linear, add_mask, draw_seed, has_fused_attention, keep_mask, piecewise

IGNORED = -100  # a label that counts for nothing, in cross-entropy's own convention
FAR_BELOW = -30_000.0  # added to a score, it makes the weight zero; -inf (and -1e9 in fp16) would give NaN where all is padding


class Dropout(nn.Module):
    """Sets each value to zero with probability p, and scales the others by 1/(1-p) (Srivastava et al. 2014).

    On a CPU from a cheaper generator than torch's (`keep_mask`): 16 random bits a value, below a threshold means "drop"; p is
    thus rounded to 1/65536. The mask is a function of `seed`, which torch's generator draws if none is given.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, seed: int | None = None) -> Tensor:
        if not x.is_cpu:
            return F.dropout(x, self.p, self.training)  # a GPU draws all of them at once
        dropped = round(self.p * 65_536)
        if not self.training or dropped == 0:
            return x
        return x * keep_mask(x, dropped, draw_seed() if seed is None else seed)


class Embeddings(nn.Module):
    """h₀ = dropout(norm(W[ids] + P[0..T-1])): what the token is, plus where it stands (BERT, section 3).

    BERT adds a third term for the segment: which of two texts a token belongs to. DistilBERT leaves it out; [SEP] still
    separates two texts. The positions are learned, so a sequence can't be longer than their table.
    """

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.dim, padding_idx=config.pad_token_id)
        self.positions = nn.Embedding(config.max_position_embeddings, config.dim)
        self.norm = LayerNorm(config.dim, eps=1e-12)  # BERT's; torch's default is 1e-5
        self.dropout = Dropout(config.dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        T, limit = input_ids.shape[1], self.positions.num_embeddings
        if limit < T:
            raise UserError(f"a sequence of {T} tokens is longer than the model's {limit} positions: cut it to {limit}")
        x = self.words(input_ids) + self.positions.weight[:T]  # (B, T, D)
        return self.dropout(self.norm(x))


class Attention(nn.Module):
    """softmax(q·kᵀ / √K)·v in each of H heads, then one Linear over the heads side by side (Vaswani, 3.2).

    Every query asks every key of its sequence "how much do you concern me?"; the softmax makes the answers weights,
    and the values are averaged with them. √K keeps the scores' spread near one: a sum of K products of independent numbers
    of mean 0 and variance 1 has variance K, and a softmax of numbers far apart has hardly any gradient.
    """

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = Linear(config.dim, 3 * config.dim)  # queries, keys, values: one product instead of three
        self.output = Linear(config.dim, config.dim)
        self.dropout = Dropout(config.attention_dropout)

    def forward(self, x: Tensor, mask: Tensor | None, x_rows: Tensor) -> Tensor:
        """Keys and values of x (B, T, D), queries of x_rows (B, R, D); mask (B, 1, 1, T) is added to scores -> (B, R, D)."""
        D = x.shape[2]
        if x_rows is x:  # queries, keys and values of all rows: one product
            q, k, v = self.qkv(x).chunk(3, dim=2)  # (B, T, D)
        else:
            q = F.linear(x_rows, self.qkv.weight[:D], self.qkv.bias[:D])  # (B, R, D)
            k, v = F.linear(x, self.qkv.weight[D:], self.qkv.bias[D:]).chunk(2, dim=2)  # (B, T, D)
        q = self.split_heads(q)  # (B, H, R, K)
        k, v = self.split_heads(k), self.split_heads(v)  # (B, H, T, K)
        p = self.dropout.p if self.training else 0.0
        if has_fused_attention(x, p):
            context = F.scaled_dot_product_attention(q, k, v, mask, p)  # what `attend` says, in one kernel
        else:  # where weights are many, a few sequences at a time, to fit a cache
            weights_of_one = self.n_heads * q.shape[2] * k.shape[2]
            context = piecewise(self.attend, (q, k, v, mask), weights_of_one, draw_seed() if p else 0)
        return self.output(context.transpose(1, 2).flatten(2))  # (B, R, D)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, seed: int) -> Tensor:
        scores = (q / math.sqrt(q.shape[3])) @ k.transpose(2, 3)  # (B, H, R, T)
        if mask is not None:
            add_mask(scores, mask)  # scores += mask
        weights = torch.softmax(scores, dim=3)
        context = self.dropout(weights, seed) @ v  # (B, H, R, K)
        return context

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.n_heads, -1)).transpose(1, 2).contiguous()  # (B, H, R, K)


class FeedForward(nn.Module):
    """W₂·gelu(W₁·x + b₁) + b₂, for each token by itself (Vaswani, 3.3, where it is ReLU). Two thirds of a block's parameters.

    GELU is x·Φ(x) with Φ the exact cumulative Gaussian (Hendrycks & Gimpel 2016), not its tanh approximation.
    """

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.expand = Linear(config.dim, config.hidden_dim)
        self.contract = Linear(config.hidden_dim, config.dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.expand(x))  # (B, R, F)
        return self.dropout(self.contract(hidden))  # (B, R, D)


class Block(nn.Module):
    """a = norm(attention(x) + x), then norm(feed_forward(a) + a).

    The norm comes *after* the sum (post-norm), as in Vaswani and BERT; later models put it before the sublayer, which
    trains more steadily when deep. DistilBERT has no dropout between attention and its sum; BERT does.
    """

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = LayerNorm(config.dim, eps=1e-12)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = LayerNorm(config.dim, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor | None, rows: Tensor | None = None) -> Tensor:
        x_rows = x if rows is None else take_rows(x, rows)  # (B, R, D)
        a = self.attention_norm(self.attention(x, mask, x_rows) + x_rows)
        return self.feed_forward_norm(self.feed_forward(a) + a)


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x (B, T, D) at the positions `rows` (B, R) of each sequence -> (B, R, D)."""
    return x.gather(1, rows.unsqueeze(2).expand(-1, -1, x.shape[2]))  # (B, R, D)


class DistilBertModel(nn.Module, Pretrained):
    """The encoder: ids to one vector a token, each of which has seen the whole sequence.

    `rows`: the positions that the head will read. Nothing behind the last block needs the others, so it computes its
    queries and everything after them for these rows only. Exact; of six blocks' work a classifier saves a seventh.
    """

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.apply(initialiser(config.initializer_range))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """input_ids (B, T) int64, attention_mask (B, T) with 1 = real and 0 = padding, rows (B, R) -> (B, R or T, D)."""
        x = self.embeddings(input_ids)  # (B, T, D)
        mask = None
        if attention_mask is not None:  # one row of numbers a sequence, added to the scores of all heads and queries
            mask = (attention_mask[:, None, None, :] == 0).to(x.dtype) * FAR_BELOW  # (B, 1, 1, T)
        for block in self.blocks[:-1]:
            x = block(x, mask)
        return self.blocks[-1](x, mask, rows)  # (B, R, D)


class MaskedLMHead(nn.Module):
    """logits = W·norm(gelu(A·h + a)) + b, with W the word embeddings themselves (BERT's code; its paper says "softmax" only).

    Tying them (Press & Wolf 2017) saves V·D parameters, a third of distilbert-base; and each softmax trains every row.
    """

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.transform = Linear(config.dim, config.dim)
        self.norm = LayerNorm(config.dim, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        hidden = self.norm(F.gelu(self.transform(hidden)))
        return F.linear(hidden, word_embeddings, self.bias)  # (..., V)


class DistilBertForMaskedLM(nn.Module, Pretrained):
    """Guesses hidden tokens from their surroundings (BERT, section 3.1, task 1)."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.config = config
        self.encoder = DistilBertModel(config)
        self.head = MaskedLMHead(config)
        self.head.apply(initialiser(config.initializer_range))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits of every position: (B, T), (B, T) -> (B, T, V)."""
        return self.head(self.encoder(input_ids, attention_mask), self.encoder.embeddings.words.weight)  # (B, T, V)

    def labelled_logits(self, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor, rows=None, chosen=None):
        """Logits (M, V) of the positions with a label (about 15%) and their labels (M,): the others skip the V·D product."""
        if rows is None:  # training hands them in, counted on the CPU: a count on a GPU would wait for all its queued work
            rows, chosen = labelled_rows(labels).values()  # (B, R), (M,)
        hidden = self.encoder(input_ids, attention_mask, rows).flatten(0, 1)[chosen]  # (M, D)
        targets = labels.gather(1, rows).flatten()[chosen]  # (M,)
        return self.head(hidden, self.encoder.embeddings.words.weight), targets  # (M, V), (M,)

    def loss(self, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor, rows=None, chosen=None) -> Tensor:
        """Mean cross-entropy, in nats, over the labels (B, T) that are not -100; zero, not NaN, where there are none."""
        logits, targets = self.labelled_logits(input_ids, attention_mask, labels, rows, chosen)  # (M, V), (M,)
        return F.cross_entropy(at_least_fp32(logits), targets, reduction="sum") / max(len(targets), 1)


def labelled_rows(labels: Tensor) -> dict[str, Tensor]:
    """Where labels are: `rows` (B, R), R the most that a sequence has, and `chosen` (M,): which of these B·R do have one."""
    labelled = labels != IGNORED
    R = max(int(labelled.sum(dim=1).max()), 1)  # a sequence with fewer gets other positions, too: `chosen` leaves them out
    rows = labelled.int().argsort(dim=1, descending=True, stable=True)[:, :R].contiguous()  # (B, R)
    return {"rows": rows, "chosen": labelled.gather(1, rows).flatten().nonzero()[:, 0]}


class ClassifierHead(nn.Module):
    """From the vector at [CLS] to logits.

    "linear": dropout, then one Linear. "pre_classifier", transformers' own: Linear, ReLU, dropout, Linear.
    """

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.pre_classifier = nn.Linear(config.dim, config.dim) if config.classifier_head == "pre_classifier" else None
        self.dropout = Dropout(config.seq_classif_dropout)
        self.output = nn.Linear(config.dim, config.num_labels)

    def forward(self, cls: Tensor) -> Tensor:
        if self.pre_classifier is not None:
            cls = torch.relu(self.pre_classifier(cls))
        return self.output(self.dropout(cls))  # (B, C)


class DistilBertForSequenceClassification(nn.Module, Pretrained):
    """Judges a whole text by the final vector of its first token, [CLS] (BERT, section 4.1)."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.config = config
        self.encoder = DistilBertModel(config)
        self.head = ClassifierHead(config)
        self.head.apply(initialiser(config.initializer_range))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T), (B, T) -> logits (B, C)."""
        first = input_ids.new_zeros(len(input_ids), 1)  # (B, 1)
        cls = self.encoder(input_ids, attention_mask, rows=first)[:, 0]  # (B, D)
        return self.head(cls)  # (B, C)

    def loss(self, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor) -> Tensor:
        """Mean cross-entropy, in nats, over the labels (B,)."""
        return F.cross_entropy(at_least_fp32(self(input_ids, attention_mask)), labels)


def at_least_fp32(logits: Tensor) -> Tensor:
    """Half precision becomes fp32: in bf16, with 8 significant bits, a loss near 10 would be a multiple of 1/16."""
    return logits if logits.dtype == torch.float64 else logits.float()


def initialiser(std: float):
    """For `module.apply`: normal(0, std) for matrices, zero for biases and the padding row; norms keep 1 and 0."""

    def init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    return init
