"""Text to ids: the same as transformers from the same files, cut without losing [SEP], and a vocabulary that repeats."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from distilbert.errors import UserError
from distilbert.tokenizer import SPECIAL_TOKENS, Tokenizer

TEXTS = [
    "The café's naïve façade, déjà-vu! Don't don't DON'T...",
    "Unbelievable acting: 10/10, I loved it; you didn't?",
    "foo_bar x² 東京 2020 ½ हिन्दी 한국어 İstanbul ß 😀",
]
AWKWARD = [
    "",
    "   \t\r\n",
    "The cafe\u0301's NAÏVE façade",
    "unseenword Don'tlovedit",
    "a" * 100,
    "a" * 101,
    "東京は日本 2020年",
    "[MASK] it [SEP] x [CLS] [UNK][PAD]",
    "[mask] [ MASK ] [MASK]ed",
    "great<br /><br />film",
    "e\u0301 x\u0300 \u0301",
    "\u200bzero\ufeffwidth\u00adsoft\u00a0space\u3000wide",
    "\x00\x01bell\x07\x85\x1c",
    "İstanbul ß ſ ﬁ Ω",
    "😀👍🏽👩‍👩‍👧",
    "½ ² ① Ⅷ",
    "don't—stop…“quoted” «x» 10/10 $5 ~^`|",
    "foo_bar __x",
    "line\u2028and\u2029paragraph",
    "\ufffd\U0010ffff",
    "हिन्दी 한국어 ไทย עברית العربية",
]


def vocabulary_of(tokenizer: Tokenizer) -> list[str]:
    vocabulary = tokenizer.backend.get_vocab()
    return sorted(vocabulary, key=vocabulary.get)


def vocabulary_file(directory: Path, vocabulary: list[str]) -> Path:
    (directory / "vocab.txt").write_text("".join(piece + "\n" for piece in vocabulary), encoding="utf-8")
    return directory


# ---- equal to transformers


@pytest.mark.parametrize("text", AWKWARD)
def test_ids_equal_those_of_transformers_from_the_same_directory(tmp_path, text):
    mine = Tokenizer.from_texts(TEXTS)
    mine.save_pretrained(tmp_path, 512)
    back = Tokenizer.from_pretrained(tmp_path)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    bert = transformers.BertTokenizer.from_pretrained(tmp_path)
    assert mine.encode(text) == back.encode(text) == auto(text)["input_ids"] == bert(text)["input_ids"]
    assert mine.decode(mine.encode(text)) == back.decode(mine.encode(text))


@pytest.mark.parametrize("text", AWKWARD)
def test_ids_equal_those_of_transformers_from_the_same_vocabulary_file(tmp_path, text):
    vocabulary = vocabulary_of(Tokenizer.from_texts(TEXTS))
    vocabulary_file(tmp_path, [*vocabulary[7:], "[unused0]", *vocabulary[:7]])  # special tokens not in front
    mine = Tokenizer.from_pretrained(tmp_path)
    assert mine.encode(text) == transformers.BertTokenizer.from_pretrained(tmp_path)(text)["input_ids"]


@pytest.mark.parametrize("max_length", [2, 3, 8])
def test_a_cut_text_equals_transformers_truncation(tmp_path, max_length):
    mine = Tokenizer.from_texts(TEXTS)
    mine.save_pretrained(tmp_path, 512)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS + AWKWARD:
        assert mine.encode(text, max_length) == auto(text, truncation=True, max_length=max_length)["input_ids"]


def test_transformers_reads_length_names_and_special_tokens(tmp_path):
    Tokenizer.from_texts(TEXTS).save_pretrained(tmp_path)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).model_max_length == 512
    Tokenizer.from_texts(TEXTS).save_pretrained(tmp_path, 77)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto.is_fast and auto.model_max_length == 77
    assert list(auto("a film")) == ["input_ids", "attention_mask"]  # DistilBERT takes no token types
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_input_names"] == list(auto("a film"))
    assert [auto.pad_token, auto.unk_token, auto.cls_token, auto.sep_token, auto.mask_token] == SPECIAL_TOKENS
    assert auto.convert_tokens_to_ids(SPECIAL_TOKENS) == [0, 1, 2, 3, 4]


NORMALIZERS = {
    "accents kept": {"type": "BertNormalizer", "strip_accents": False},
    "chinese as words": {"type": "BertNormalizer", "handle_chinese_chars": False},
    "cased": {"type": "BertNormalizer", "lowercase": False, "strip_accents": True},
    "none": None,
    "others in a row": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]},
}
FOREIGN = "Schön SCHÖN schon 电影 film"
PIECES = [*SPECIAL_TOKENS, "schon", "schön", "Schon", "Schön", "SCHON", "SCHÖN", "film", "电", "影", "电影"]


@pytest.mark.parametrize("case", NORMALIZERS)
def test_transformers_reads_the_rules_of_a_saved_tokenizer_too(tmp_path, case):
    content = json.loads(Tokenizer.from_vocabulary(PIECES).backend.to_str())
    changed = NORMALIZERS[case] and content["normalizer"] | NORMALIZERS[case]
    if case == "others in a row":
        changed = NORMALIZERS[case]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"normalizer": changed}))
    mine = Tokenizer.from_pretrained(tmp_path)
    assert mine.encode(FOREIGN) != Tokenizer.from_vocabulary(PIECES).encode(FOREIGN)
    mine.save_pretrained(tmp_path / "again", 512)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "again")(FOREIGN)["input_ids"] == mine.encode(FOREIGN)


@pytest.mark.parametrize("option", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_the_options_beside_a_vocabulary_file_are_obeyed_as_transformers_obeys_them(tmp_path, option):
    vocabulary_file(tmp_path, PIECES)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, option: False}))
    mine = Tokenizer.from_pretrained(tmp_path)
    assert mine.encode(FOREIGN) != Tokenizer.from_vocabulary(PIECES).encode(FOREIGN)
    assert mine.encode(FOREIGN) == transformers.BertTokenizer.from_pretrained(tmp_path, **{option: False})(FOREIGN)["input_ids"]


# ---- encode, decode, lengths


def test_a_text_is_encoded_to_the_ids_computed_by_hand():
    vocabulary = ["[PAD]", "x", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##s", "!", "cafe"]
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (0, 2, 3, 4, 5)
    assert tokenizer.special_ids == [0, 2, 3, 4, 5]
    assert [i for i, continues in enumerate(tokenizer.continues) if continues] == [7, 8] and len(tokenizer.continues) == 11
    assert tokenizer.encode("Playing plays, CAFÉ!") == [3, 6, 7, 6, 8, 2, 10, 9, 4]
    ids = [3, 6, 7, 6, 8, 10, 9, 4, 0, 0]
    assert tokenizer.decode(ids) == tokenizer.decode(torch.tensor(ids)) == "playing plays cafe!"
    assert len(tokenizer) == 11


@pytest.mark.parametrize("max_length", [2, 3, 7, 17])
def test_a_cut_text_keeps_its_beginning_and_its_sep(max_length):
    tokenizer = Tokenizer.from_texts(TEXTS)
    whole = tokenizer.encode(TEXTS[1], max_length=None)
    assert len(whole) == 18
    ids = tokenizer.encode(TEXTS[1], max_length)
    assert ids == [*whole[: max_length - 1], tokenizer.sep_id] and len(ids) == max_length
    assert tokenizer.encode(TEXTS[1], len(whole)) == whole


def test_encode_cuts_at_512_and_encode_batch_does_not():
    tokenizer = Tokenizer.from_texts(TEXTS)
    text = "it " * 600
    assert len(tokenizer.encode(text)) == 512 and len(tokenizer.encode_batch([text])[0]) == 602


def test_a_batch_is_encoded_as_its_texts_one_by_one_without_padding():
    tokenizer = Tokenizer.from_texts(TEXTS)
    assert tokenizer.encode_batch(AWKWARD, 30) == [tokenizer.encode(text, 30) for text in AWKWARD]
    assert tokenizer.encode_batch([]) == []


# ---- files


def test_truncation_and_padding_in_a_tokenizer_file_are_switched_off(tmp_path):
    mine = Tokenizer.from_texts(TEXTS)
    switched_on = tokenizers.Tokenizer.from_str(mine.backend.to_str())
    switched_on.enable_truncation(6)
    switched_on.enable_padding(length=50)
    assert len(switched_on.encode(TEXTS[1]).ids) == 50
    switched_on.save(str(tmp_path / "tokenizer.json"))
    back = Tokenizer.from_pretrained(tmp_path)
    assert [back.encode(text) for text in TEXTS] == [mine.encode(text) for text in TEXTS]
    back.save_pretrained(tmp_path / "again", 512)
    saved = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert saved.truncation is None and saved.padding is None


def test_a_saved_tokenizer_comes_back_whole(tmp_path):
    mine = Tokenizer.from_texts(TEXTS)
    mine.save_pretrained(tmp_path / "new" / "folder", 512)
    back = Tokenizer.from_pretrained(tmp_path / "new" / "folder")
    assert back.backend.to_str() == mine.backend.to_str() and len(back) == len(mine)
    assert [back.encode(text) for text in AWKWARD] == [mine.encode(text) for text in AWKWARD]


def test_tokenizer_json_wins_over_vocab_txt(tmp_path):
    mine = Tokenizer.from_texts(TEXTS)
    mine.save_pretrained(vocabulary_file(tmp_path, [*SPECIAL_TOKENS, "other"]), 512)
    assert len(Tokenizer.from_pretrained(tmp_path)) == len(mine)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_a_missing_special_token_is_refused_by_name_and_file(tmp_path, token, file):
    vocabulary = [piece for piece in [*SPECIAL_TOKENS, "film"] if piece != token]
    if file == "vocab.txt":
        vocabulary_file(tmp_path, vocabulary)
    else:
        model = tokenizers.models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]")
        tokenizers.Tokenizer(model).save(str(tmp_path / file))
    with pytest.raises(UserError) as error:
        Tokenizer.from_pretrained(tmp_path)
    assert token in str(error.value) and str(tmp_path / file) in str(error.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b""),
        ("vocab.txt", b"\xff\xfe[PAD]"),
        ("vocab.txt", b""),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, file, content):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=file):
        Tokenizer.from_pretrained(tmp_path)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor vocab\.txt"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_vocabulary_file_with_windows_line_ends_is_the_same(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*SPECIAL_TOKENS, "film", ""]).encode())
    assert Tokenizer.from_pretrained(tmp_path).encode("film") == [2, 5, 3]


@pytest.mark.parametrize("piece", ["\u2028", "\x85", "\x1c"])
def test_only_a_line_feed_ends_a_line_of_a_vocabulary_file(tmp_path, piece):
    vocabulary_file(tmp_path, [*SPECIAL_TOKENS, piece, "film"])
    expected = transformers.BertTokenizer.from_pretrained(tmp_path)("film")["input_ids"]
    assert expected == [2, 6, 3]
    assert Tokenizer.from_pretrained(tmp_path).encode("film") == expected


def test_a_tokenizer_file_that_adds_no_cls_and_sep_is_mended(tmp_path):
    backend = Tokenizer.from_texts(TEXTS).backend
    backend.post_processor = tokenizers.processors.Sequence([])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode(TEXTS[1], 8)
    assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)


# ---- a vocabulary from texts


def test_a_vocabulary_is_specials_characters_and_words_by_count_then_alphabet():
    tokenizer = Tokenizer.from_texts(["bad ab", "bad ab. AB É"])
    expected = [*SPECIAL_TOKENS, ".", "a", "b", "d", "e", "##.", "##a", "##b", "##d", "##e", "ab", "bad"]
    assert vocabulary_of(tokenizer) == expected


def test_the_order_of_texts_does_not_change_the_vocabulary():
    assert vocabulary_of(Tokenizer.from_texts(TEXTS[::-1])) == vocabulary_of(Tokenizer.from_texts(iter(TEXTS)))


def test_another_process_makes_the_same_vocabulary():
    code = "import sys; from distilbert.tokenizer import Tokenizer; "
    code += "sys.stdout.write(Tokenizer.from_texts(['b a c d', 'É e? f-g']).backend.to_str())"
    root = Path(__file__).resolve().parent.parent
    results = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert results == {Tokenizer.from_texts(["b a c d", "É e? f-g"]).backend.to_str().encode()}


def test_a_vocabulary_has_at_most_8000_pieces_or_as_many_as_asked():
    texts = [f"{a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrst" for c in range(100)]
    assert len(Tokenizer.from_texts(texts)) == 8_000
    small = Tokenizer.from_texts([*texts, "frequent frequent"], size=87)
    assert len(small) == 87 and vocabulary_of(small)[:5] == SPECIAL_TOKENS
    words = [piece for piece in vocabulary_of(small) if len(piece) > 1 and not piece.startswith(("##", "["))]
    assert words[0] == "frequent"  # what is cut off is rare
    assert len(Tokenizer.from_texts([])) == 5


@pytest.mark.parametrize("size", [1, 7])
def test_a_text_has_no_unknown_piece_in_the_vocabulary_made_from_it(size):
    characters = [chr(code) for code in range(0, 0x30000, 23) if not 0xD800 <= code < 0xE000]  # not the surrogates
    texts = ["".join(characters[i : i + size]) for i in range(0, len(characters), size)]
    tokenizer = Tokenizer.from_texts(texts, size=1_000_000)
    for ids in tokenizer.encode_batch(texts):
        assert tokenizer.unk_id not in ids and ids[0] == tokenizer.cls_id and ids[-1] == tokenizer.sep_id


def test_a_cased_vocabulary_keeps_its_capitals_here_and_in_transformers(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "Film", "film"]) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    ours = Tokenizer.from_pretrained(tmp_path)
    assert ours.encode("Film film") == [2, 5, 6, 3]
    ours.save_pretrained(tmp_path / "saved", 512)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")("Film film")["input_ids"] == [2, 5, 6, 3]
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(
        UserError, match=r"vocab\.txt: has capitals, as in 'Film', and nothing says .*copy tokenizer_config\.json"
    ):
        Tokenizer.from_pretrained(tmp_path)


TOKENIZER_CLASSES = ["BertTokenizer", "DistilBertTokenizerFast", None, "PreTrainedTokenizerFast"]


@pytest.mark.parametrize("option", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
@pytest.mark.parametrize("kind", TOKENIZER_CLASSES)
@pytest.mark.parametrize("in_config", [True, False])
def test_the_options_beside_a_tokenizer_file_win_as_they_do_in_transformers(tmp_path, option, kind, in_config):
    name = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
    Tokenizer.from_vocabulary(PIECES, **{name[option]: not in_config}).backend.save(str(tmp_path / "tokenizer.json"))
    said = {"do_lower_case": True, option: in_config} | ({"tokenizer_class": kind} if kind else {})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    (tmp_path / "config.json").write_text('{"model_type": "distilbert"}')
    mine = Tokenizer.from_pretrained(tmp_path)
    assert mine.encode(FOREIGN) == transformers.AutoTokenizer.from_pretrained(tmp_path)(FOREIGN)["input_ids"]
    own = Tokenizer.from_vocabulary(PIECES, **{name[option]: in_config})
    assert (mine.encode(FOREIGN) == own.encode(FOREIGN)) == (kind != "PreTrainedTokenizerFast")


@pytest.mark.parametrize("strips", [True, False])
def test_an_option_of_none_beside_a_tokenizer_file_wins_and_one_that_is_missing_leaves_the_files_own(tmp_path, strips):
    Tokenizer.from_vocabulary(PIECES, strip_accents=strips, lowercase=True).backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "distilbert"}')
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"do_lower_case": true, "strip_accents": null}')
    both = Tokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert both[0].encode("schön") == both[1]("schön")["input_ids"] == Tokenizer.from_vocabulary(PIECES).encode("schön")
    config.write_text('{"do_lower_case": true}')
    assert Tokenizer.from_pretrained(tmp_path).backend.normalizer.strip_accents is strips


@pytest.mark.parametrize(
    ("beside", "match"),
    [
        (
            {"tokenizer_config.json": {"tokenizer_class": "BertJapaneseTokenizer"}},
            "BertJapaneseTokenizer may cut texts",
        ),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"6": {"content": "<br>"}}}},
            "no place for the added token '<br>'",
        ),
        ({"added_tokens.json": {"[unused0]": 5}}, r"no place for the added token '\[unused0\]'"),
    ],
    ids=["another class", "added in the configuration", "added beside it"],
)
def test_a_vocabulary_file_that_is_not_all_of_its_tokenizer_is_refused(tmp_path, beside, match):
    vocabulary_file(tmp_path, [*SPECIAL_TOKENS, "[unused0]", "film"])
    added = {str(i): {"content": token} for i, token in enumerate(SPECIAL_TOKENS)}
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.from_pretrained(tmp_path).encode("Film") == [2, 6, 3]
    for name, content in beside.items():
        (tmp_path / name).write_text(json.dumps(config | content if "config" in name else content))
    with pytest.raises(UserError, match=match + r".*write a tokenizer\.json there"):
        Tokenizer.from_pretrained(tmp_path)


def test_which_pieces_go_on_within_a_word_is_told_by_the_tokenizers_own_prefix(tmp_path):
    model = tokenizers.models.WordPiece(
        {piece: i for i, piece in enumerate([*SPECIAL_TOKENS, "film", "@@s", "##s"])},
        unk_token="[UNK]",
        continuing_subword_prefix="@@",
    )
    assert Tokenizer(tokenizers.Tokenizer(model)).continues == [False] * 6 + [True, False]
    pair = tokenizers.models.BPE({piece: i for i, piece in enumerate([*SPECIAL_TOKENS, "film"])}, [], unk_token="[UNK]")
    with pytest.raises(UserError, match=r"--whole_word_masking: .*do not show which of them go on within a word"):
        assert Tokenizer(tokenizers.Tokenizer(pair)).continues


@pytest.mark.parametrize("name", ["uncased", "cased", "none"])
def test_what_is_written_of_lower_case_is_what_the_tokenizer_does(tmp_path, name):
    tokenizer = Tokenizer.from_texts(["Film film"])
    tokenizer.backend.normalizer = (
        tokenizers.normalizers.BertNormalizer(lowercase=name == "uncased") if name != "none" else None
    )
    tokenizer.save_pretrained(tmp_path, 512)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["do_lower_case"] == (name == "uncased")
