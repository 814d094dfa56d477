"""data/sources.py: from what --data names to texts, labels and parts; and the corpus in data/sample/."""

import errno
import json
import re
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import imdb_members, write_tar
from hypothesis import given
from hypothesis import strategies as st

from data import sources
from data.formats import LONGEST
from data.sources import SAMPLE, Part, check_classes, cut_imdb, load, prepare, read_imdb, stratified
from distilbert.errors import UserError


def write(path, content: str | bytes) -> str:
    """Writes a file -> what to give as --data."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def unpack(folder, members):
    for name, content in members:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content(parts) -> dict:
    """Parts as plain values, without the names of their texts."""
    return {name: (part.texts, part.labels.tolist()) for name, part in parts.items()}


def part_of(texts, labels=None) -> Part:
    labels = [i % 2 for i in range(len(texts))] if labels is None else labels
    return Part.of(zip(texts, labels, [f"line {i}" for i in range(len(texts))], strict=True))


# ---- IMDb: what is read


def test_a_tarball_and_its_unpacked_folder_give_the_same_parts(tmp_path):
    members = imdb_members()
    expected = content(load(str(write_tar(tmp_path / "any.tar.gz", members))))
    unpack(tmp_path, members)
    assert {name: len(texts) for name, (texts, _) in expected.items()} == dict(train=18, validation=2, test=20, unlabelled=7)
    assert content(load(str(tmp_path / "aclImdb"))) == expected
    assert content(load(str(tmp_path))) == expected  # the folder around it
    assert content(load(str(write_tar(tmp_path / "plain.tar", members)))) == expected
    assert content(load(str(write_tar(tmp_path / "dots.tgz", [("./" + name, text) for name, text in members])))) == expected


def test_a_tarball_is_read_in_its_own_order_with_neg_before_pos(tmp_path):
    members = imdb_members()
    order = np.random.default_rng(5).permutation(len(members))
    shuffled = [members[i] for i in order]
    parts = read_imdb(write_tar(tmp_path / "imdb.tar.gz", shuffled))
    for part in ("train", "test"):
        expected = [pair for label in ("neg", "pos") for pair in shuffled if pair[0].startswith(f"aclImdb/{part}/{label}/")]
        assert parts[part].names == [name for name, _ in expected]
        assert parts[part].texts == [text.decode() for _, text in expected]
        assert parts[part].labels.tolist() == [0] * 10 + [1] * 10
    assert parts["unlabelled"].names == [name for name, _ in shuffled if "unsup" in name]
    assert (parts["unlabelled"].labels == -1).all()


@pytest.mark.parametrize("split", ["official", "seed-a", "seed-b"])
def test_the_official_split_is_the_same_whatever_the_archives_order_and_the_published_ones_are_not(tmp_path, split):
    members = imdb_members()
    shuffled = [members[i] for i in np.random.default_rng(5).permutation(len(members))]
    first, second = (load(str(write_tar(tmp_path / f"{i}.tar", order)), split) for i, order in enumerate((members, shuffled)))
    assert (content(first) == content(second)) == (split == "official")


def test_members_that_are_not_reviews_are_passed_over(tmp_path):
    members = imdb_members()
    others = [(name, b"\xff not a review") for name in ("aclImdb/README", "aclImdb/imdb.vocab", "aclImdb/train/urls_neg.txt")]
    others += [("aclImdb/train/neg/notes.txt", b"\xff"), ("aclImdb/train/neg/._0_3.txt", b"\xff"), ("other/0_3.txt", b"\xff")]
    directory = tarfile.TarInfo("aclImdb/train/neg")
    directory.type = tarfile.DIRTYPE
    archive = write_tar(tmp_path / "imdb.tar.gz", [(directory, b""), *others, *members, *others])
    assert content(load(str(archive))) == content(load(str(write_tar(tmp_path / "bare.tar.gz", members))))


@pytest.mark.parametrize("name", ["aclImdb/train/labeledBow.feat", "aclImdb/train/urls_unsup.txt"])
def test_the_large_members_of_the_official_archive_are_passed_over_too(tmp_path, name):
    members = imdb_members()
    archive = write_tar(tmp_path / "imdb.tar.gz", [(name, bytes(2 * LONGEST)), *members])  # the real ones: 21 MB, 2.4 MB
    assert content(load(str(archive))) == content(load(str(write_tar(tmp_path / "bare.tar.gz", members))))


def test_without_unlabelled_reviews_there_is_no_unlabelled_part(tmp_path):
    assert "unlabelled" not in load(str(write_tar(tmp_path / "imdb.tar.gz", imdb_members(unlabelled=0))))


def test_imdb_and_sst2_by_name_are_fetched_into_the_cache_with_their_checksums(tmp_path, cache, monkeypatch):
    imdb, fetched = write_tar(tmp_path / "imdb.tar.gz", imdb_members()), []
    sst2 = tmp_path / "sst2.zip"
    write_zip(sst2, "sentence\tlabel\ngood\t1\n")
    monkeypatch.setattr(sources, "download", lambda *a, **k: fetched.append((*a, k)) or (imdb if "aclImdb" in a[0] else sst2))
    assert content(load("imdb", "seed-b")) == content(load(str(imdb), "seed-b"))
    assert content(load("sst2")) == {"test": (["good"], [1])}
    assert fetched == [
        (sources.IMDB, cache / "aclImdb_v1.tar.gz", {"sha256": sources.IMDB_SHA256}),
        (sources.SST2, cache / "SST-2.zip", {"md5": sources.SST2_MD5}),
    ]


# ---- IMDb: what is refused


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


HOSTILE = {
    "absolute path": member("/tmp/0_3.txt"),
    "backslash": member("\\0_3.txt"),
    "parent": member("aclImdb/../../0_3.txt"),
    "symlink": member("aclImdb/train/neg/99_3.txt", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": member("aclImdb/train/neg/99_3.txt", tarfile.LNKTYPE, "aclImdb/train/neg/0_3.txt"),
    "device": member("aclImdb/train/neg/99_3.txt", tarfile.CHRTYPE),
    "pipe": member("aclImdb/train/neg/99_3.txt", tarfile.FIFOTYPE),
    "gigabytes": member("aclImdb/train/neg/99_3.txt", size=3 << 30),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_member_is_refused_by_name_and_nothing_is_extracted(tmp_path, monkeypatch, kind):
    members = imdb_members()
    archive = write_tar(tmp_path / "imdb.tar.gz", [*members[:30], (HOSTILE[kind], b""), *members[30:]])
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    with pytest.raises(UserError, match=re.escape(repr(HOSTILE[kind].name))):
        load(str(archive))
    assert {path.name for path in tmp_path.rglob("*")} == {"imdb.tar.gz", "inside"}


def flip(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :]


BROKEN = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "cut in its header": lambda raw: raw[:7],
    "not a tar": lambda raw: b"<html>404 Not Found</html>" * 99,
    "empty": lambda raw: b"",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_archive_is_said_to_be_broken_and_where_to_get_another(tmp_path, kind):
    archive = write_tar(tmp_path / "imdb.tar.gz", imdb_members(per_class=50))
    data = write(archive, BROKEN[kind](archive.read_bytes()))
    with pytest.raises(UserError, match="(?s)" + re.escape(data) + r": a broken archive.*https://ai\.stanford\.edu"):
        load(data)


@pytest.mark.parametrize("name", ["imdb.tar.gz", "imdb.tar"])
def test_a_broken_archive_is_said_in_two_lines_at_most(tmp_path, name):
    with pytest.raises(UserError) as caught:
        load(write(tmp_path / name, BROKEN["not a tar"](b"")))
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("place", [-6, -2])  # in the checksum of the content, in its length
def test_an_archive_whose_own_checksum_differs_is_refused(tmp_path, place):
    archive = write_tar(tmp_path / "imdb.tar.gz", imdb_members())
    raw = archive.read_bytes()
    with pytest.raises(UserError, match="a broken archive"):
        load(write(archive, flip(raw, len(raw) + place)))


def header_of(raw: bytes, folder: str, number: int) -> int:
    """Where the header of a folder's review stands in a plain tar."""
    return [place for place in range(0, len(raw), 512) if raw[place:].startswith(f"aclImdb/{folder}/".encode())][number]


def test_a_plain_tar_that_ends_within_a_review_is_refused(tmp_path):
    archive = write_tar(tmp_path / "imdb.tar", imdb_members(unlabelled=0))
    raw = archive.read_bytes()
    with pytest.raises(UserError, match="a broken archive"):
        load(write(archive, raw[: header_of(raw, "train/pos", -1) + 512 + 5]))


@pytest.mark.parametrize("damage", ["turned over", "cut"])
def test_a_plain_tar_with_a_damaged_header_is_refused_and_not_read_in_part(tmp_path, damage):
    archive = write_tar(tmp_path / "imdb.tar", imdb_members())
    raw = archive.read_bytes()
    header = header_of(raw, "train/pos", 3)
    with pytest.raises(UserError, match="a broken archive"):
        load(write(archive, flip(raw, header + 150) if damage == "turned over" else raw[: header + 100]))


@pytest.mark.parametrize("missing", ["train/neg", "train/pos", "test/neg", "test/pos"])
def test_a_missing_folder_is_named(tmp_path, missing):
    members = [pair for pair in imdb_members() if missing not in pair[0]]
    for data in (write_tar(tmp_path / "imdb.tar.gz", members), unpack(tmp_path / "folder", members)):
        with pytest.raises(UserError, match=f"{re.escape(str(data))}: holds no aclImdb/{missing}/"):
            load(str(data))


@pytest.mark.parametrize(
    ("text", "complaint"), [(b"caf\xe9", "byte 3 is not UTF-8"), (b"", "an empty text"), (b" \n\t ", "an empty text")]
)
def test_an_undecodable_or_empty_review_is_named(tmp_path, text, complaint):
    members = [*imdb_members(), ("aclImdb/train/pos/99_8.txt", text)]
    with pytest.raises(UserError, match=f"aclImdb/train/pos/99_8.txt.*{complaint}"):
        load(str(write_tar(tmp_path / "imdb.tar.gz", members)))


def test_a_break_becomes_a_line_break_unless_it_is_kept(tmp_path):
    members = [*imdb_members(), ("aclImdb/test/pos/9_9.txt", b"One.<br /><br />Two.<BR>")]
    archive = str(write_tar(tmp_path / "imdb.tar.gz", members))
    assert load(archive)["test"].texts[-1] == "One.\n\nTwo.<BR>"
    assert load(archive, keep_breaks=True)["test"].texts[-1] == "One.<br /><br />Two.<BR>"


def test_a_text_of_breaks_alone_is_empty(tmp_path):
    with pytest.raises(UserError, match="line 2 holds an empty text"):
        load(write(tmp_path / "a.txt", "good\n<br /><br />\n"))


# ---- IMDb: how it is cut


def test_the_official_split_takes_a_stratified_tenth_of_train_and_leaves_the_test_alone(tmp_path):
    whole = read_imdb(write_tar(tmp_path / "imdb.tar.gz", imdb_members(per_class=30)))
    parts, again = cut_imdb(whole, "official"), cut_imdb(whole, "official")
    assert Counter(parts["validation"].labels.tolist()) == {0: 3, 1: 3}
    assert Counter(parts["train"].labels.tolist()) == {0: 27, 1: 27}
    assert sorted(parts["validation"].names + parts["train"].names) == sorted(whole["train"].names)
    assert parts["test"].names == whole["test"].names
    assert parts["unlabelled"].names == whole["unlabelled"].names
    assert parts["validation"].names == again["validation"].names
    held = [f"aclImdb/train/{name}.txt" for name in ("neg/24_3", "neg/28_3", "neg/7_3", "pos/13_8", "pos/20_8", "pos/29_8")]
    assert parts["validation"].names == held  # other ones would be reviews that earlier runs were trained on
    assert len(load(str(tmp_path / "imdb.tar.gz"))["validation"]) == 6  # and it is what --data gives when nothing is said


def test_seed_a_is_torchs_random_split_of_the_test_with_seed_23(tmp_path):
    whole = read_imdb(write_tar(tmp_path / "imdb.tar.gz", imdb_members(per_class=30)))
    parts, n = cut_imdb(whole, "seed-a"), 60
    split = torch.utils.data.random_split(range(n), [n // 5, 4 * n // 5], generator=torch.Generator().manual_seed(23))
    for name, chosen in zip(("validation", "test"), split, strict=True):
        assert parts[name].names == [whole["test"].names[i] for i in chosen]
        assert parts[name].labels.tolist() == [whole["test"].labels[i] for i in chosen]
    assert parts["train"].names == whole["train"].names


def test_seed_b_is_numpys_permutation_of_train_with_seed_42(tmp_path):
    whole = read_imdb(write_tar(tmp_path / "imdb.tar.gz", imdb_members(per_class=30)))
    parts, order = cut_imdb(whole, "seed-b"), np.random.default_rng(42).permutation(60)
    assert parts["validation"].texts == [whole["train"].texts[i] for i in order[:6]]
    assert parts["train"].texts == [whole["train"].texts[i] for i in order[6:]]
    assert parts["train"].labels.tolist() == [whole["train"].labels[i] for i in order[6:]]
    assert parts["test"].names == whole["test"].names


@pytest.mark.parametrize("split", ["seed-a", "seed-b"])
def test_a_published_split_of_an_archive_in_another_order_is_said_to_hold_other_reviews(tmp_path, capsys, split):
    whole = read_imdb(write_tar(tmp_path / "imdb.tar.gz", imdb_members(per_class=30)))
    cut_imdb(whole, "official")
    assert capsys.readouterr().err == ""
    cut_imdb(whole, split)
    said = capsys.readouterr().err
    assert f"--split {split}: this archive begins with {whole['train'].names[0]}, not as the published one" in said
    whole["train"].names[0] = "aclImdb/train/neg/127_4.txt"
    cut_imdb(whole, split)
    assert capsys.readouterr().err == ""


# ---- leaks and subsets


def leaking_parts():
    return {
        "train": part_of(["own", "in validation", "twice", "twice", "in test", "in test", "in all"]),
        "validation": part_of(["in validation", "in both", "in all", "in all"]),
        "test": part_of(["in test", "in both", "in all"]),
    }


def test_a_training_text_that_is_held_out_too_is_dropped_and_counted():
    parts = leaking_parts()
    kept, dropped = prepare(parts)
    assert kept["train"].texts == ["own", "twice", "twice"]
    assert kept["train"].labels.tolist() == [0, 0, 1]
    assert dropped == 4
    assert len(parts["train"]) == 7  # what was handed in is as it was


def test_a_text_that_differs_from_a_held_out_one_in_capitals_or_blanks_at_its_ends_is_dropped_too():
    parts = {"train": part_of([" a gem.\n", "A GEM.", "A gem!", "A  gem."]), "test": part_of(["A gem."])}
    kept, dropped = prepare(parts)
    assert (kept["train"].texts, dropped) == (["A gem!", "A  gem."], 2)


def test_a_train_that_is_all_held_out_is_refused_with_the_flag_that_keeps_it():
    parts = {"train": part_of(["in test", "in validation"])} | {name: leaking_parts()[name] for name in ("validation", "test")}
    with pytest.raises(
        UserError, match=r"--data toy: every text to train on stands in validation or test; --keep_duplicates keeps it"
    ):
        prepare(parts, data="toy")
    assert prepare(parts, keep_duplicates=True)[0]["train"].texts == ["in test", "in validation"]


def test_validation_and_test_never_shrink_by_duplicates():
    parts = leaking_parts()
    kept, _ = prepare(parts)
    assert all(kept[name].texts == parts[name].texts for name in ("validation", "test"))


def test_keep_duplicates_keeps_them():
    parts = leaking_parts()
    kept, dropped = prepare(parts, keep_duplicates=True)
    assert content(kept) == content(parts)
    assert dropped == 0


def numbered_parts():
    """Three parts of 60, 30 and 30 different texts; a third is positive."""
    return {
        name: part_of([f"{name} {i}" for i in range(n)], [int(i % 3 == 0) for i in range(n)])
        for name, n in (("train", 60), ("validation", 30), ("test", 30))
    }


def test_sizes_are_exact_stratified_and_leave_the_rest_of_each_part_out():
    parts, (kept, dropped) = numbered_parts(), prepare(numbered_parts(), train_size=12, eval_size=6, seed=3)
    assert {name: Counter(part.labels.tolist()) for name, part in kept.items()} == {
        "train": {0: 8, 1: 4},
        "validation": {0: 4, 1: 2},
        "test": {0: 4, 1: 2},
    }
    for name, part in kept.items():
        assert set(part.texts) < set(parts[name].texts)  # disjoint parts stay disjoint
        assert len(set(part.texts)) == len(part)
    assert dropped == 0


def test_a_subset_depends_on_the_seed_alone():
    chosen = [prepare(numbered_parts(), train_size=12, eval_size=6, seed=seed)[0] for seed in (3, 3, 4)]
    assert content(chosen[0]) == content(chosen[1])
    for name in ("train", "validation", "test"):
        assert chosen[0][name].texts != chosen[2][name].texts


def test_sizes_beyond_a_part_take_all_of_it_and_one_size_leaves_the_others_alone():
    parts = numbered_parts()
    assert content(prepare(parts, train_size=1000, eval_size=1000)[0]) == content(parts)
    assert {name: len(part) for name, part in prepare(parts, train_size=10)[0].items()} == dict(
        train=10, validation=30, test=30
    )
    assert {name: len(part) for name, part in prepare(parts, eval_size=10)[0].items()} == dict(train=60, validation=10, test=10)


def test_a_size_counts_what_is_left_after_leaks_are_dropped():
    parts = numbered_parts()
    parts["train"] = part_of(parts["test"].texts + parts["train"].texts)
    kept, dropped = prepare(parts, train_size=60)
    assert (len(kept["train"]), dropped) == (60, 30)


@given(st.lists(st.integers(0, 1), max_size=70), st.integers(0, 80), st.integers(0, 3))
def test_stratified_cuts_in_two_and_keeps_the_proportions_to_within_one(labels, size, seed):
    labels = np.array(labels, dtype=np.int64)
    chosen, rest = stratified(labels, size, seed)
    assert sorted([*chosen, *rest]) == list(range(len(labels)))
    assert len(chosen) == min(size, len(labels))
    assert chosen.tolist() == sorted(chosen) and rest.tolist() == sorted(rest)
    for label in (0, 1):
        ideal = len(chosen) * (labels == label).sum() / max(len(labels), 1)
        assert abs((labels[chosen] == label).sum() - ideal) < 1


def test_stratified_is_chance_within_a_class_and_not_place():
    labels = np.repeat([0, 1], 50)
    first = [stratified(labels, 20, seed)[0] for seed in range(40)]
    counts = np.bincount(np.concatenate(first), minlength=100)
    assert counts.min() > 0  # 40 draws of a fifth: each is expected 8 times, and missing once in 7,500
    assert counts.max() < 40


# ---- tables

ROWS = [("A fine film.", 1, "train"), ("A dull one, alas.", 0, "validation"), ("Größe, façade, 映画", 1, "test")]
ROWS += [("Never again", 0, "train")]


def table(kind: str, rows, columns=("text", "label", "split")) -> str:
    """The rows as .jsonl, .csv or .tsv, nothing quoted that need not be."""
    if kind == "jsonl":
        return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    lines = [columns, *rows]
    quoted = [[f'"{value}"' if "," in str(value) and kind == "csv" else str(value) for value in row] for row in lines]
    return "".join(("," if kind == "csv" else "\t").join(row) + "\n" for row in quoted)


KINDS = pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])


@KINDS
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_table_with_a_split_column_gives_its_parts(tmp_path, kind, bom, newline):
    data = write(tmp_path / f"films.{kind}", bom + table(kind, ROWS).replace("\n", newline))
    for whole in (False, True):
        assert content(load(data, whole_tables=whole)) == {
            "train": ([ROWS[0][0], ROWS[3][0]], [1, 0]),
            "validation": ([ROWS[1][0]], [0]),
            "test": ([ROWS[2][0]], [1]),
        }


@KINDS
def test_a_table_without_a_split_column_is_cut_in_a_stratified_80_10_10(tmp_path, kind):
    rows = [(f"film {i}", int(i < 30)) for i in range(120)]
    data = write(tmp_path / f"films.{kind}", table(kind, rows, ("text", "label")))
    parts = load(data)
    counts = {name: Counter(part.labels.tolist()) for name, part in parts.items()}
    assert counts == {"train": {0: 72, 1: 24}, "validation": {0: 9, 1: 3}, "test": {0: 9, 1: 3}}
    assert sorted(text for part in parts.values() for text in part.texts) == sorted(text for text, _ in rows)
    assert content(load(data)) == content(parts)
    assert content(load(data, whole_tables=True)) == {"test": ([text for text, _ in rows], [label for _, label in rows])}


def test_a_table_is_cut_as_it_was_for_earlier_runs(tmp_path):
    """Which were trained on what another cut would hold out."""
    rows = [(f"film {i}", int(i < 5)) for i in range(20)]
    parts = load(write(tmp_path / "films.csv", table("csv", rows, ("text", "label"))))
    assert (parts["validation"].texts, parts["test"].texts) == (["film 12", "film 13"], ["film 4", "film 19"])


@KINDS
def test_a_columns_name_may_have_capitals(tmp_path, kind):
    """Else the parts of a file with "Split" would be cut anew, and what it holds out be trained on."""
    rows = [(f"film {i}", i % 2, ("train", "test")[i // 20]) for i in range(40)]
    parts = load(write(tmp_path / f"films.{kind}", table(kind, rows, ("Text", "LABEL", "Split"))))
    assert parts["test"].texts == [text for text, _, part in rows if part == "test"]


def test_an_imdb_that_holds_a_review_twice_is_refused(tmp_path):
    """As one that was unpacked inside itself does: it would be tested on 50,000 reviews, each of them twice."""
    members = imdb_members()
    inner = [(name.replace("aclImdb/", "aclImdb/aclImdb/"), content) for name, content in members[:1]]
    again = write_tar(tmp_path / "again.tar", [*members, *members[:1]])
    folder = tmp_path / "aclImdb"
    for name, content in members + inner:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for place in (again, folder):
        with pytest.raises(UserError, match=f"{place}: holds .*_3.txt and .*_3.txt, the same review"):
            load(str(place))


def test_a_folder_is_not_searched_beyond_where_imdb_has_its_reviews(tmp_path, monkeypatch):
    """Somebody's whole home, given by mistake, would take minutes."""
    (tmp_path / "home" / "deep").mkdir(parents=True)
    (tmp_path / "home" / "deep" / "note.txt").write_text("mine")
    monkeypatch.setattr("pathlib.Path.rglob", lambda *_: pytest.fail("it is searched"))
    with pytest.raises(UserError, match="home"):
        load(str(tmp_path / "home"))


def test_a_key_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="line 1 has two keys that differ in capitals or blanks only"):
        load(write(tmp_path / "films.jsonl", '{"text": "good", "label": 1, "Label": 0}\n'))


def test_a_column_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="has the column 'text' twice"):
        load(write(tmp_path / "films.csv", "text,label,Text\ngood,1,bad\n"))


def test_a_file_in_utf_16_is_told_how_to_become_utf_8(tmp_path):
    with pytest.raises(UserError, match=r"If it is UTF-16: iconv -f utf-16 -t utf-8"):
        load(write(tmp_path / "films.csv", "text,label\ngood,1\n".encode("utf-16")))


@KINDS
@pytest.mark.parametrize(
    ("negative", "positive"), [(0, 1), ("0", "1"), ("neg", "pos"), ("Negative", "POSITIVE"), (" neg ", "pos ")]
)
def test_a_label_may_be_a_number_or_a_word(tmp_path, kind, negative, positive):
    data = write(tmp_path / f"films.{kind}", table(kind, [("bad", negative), ("good", positive)], ("text", "label")))
    assert load(data, whole_tables=True)["test"].labels.tolist() == [0, 1]


@KINDS
def test_a_table_without_labels_is_unlabelled_and_glues_sentence_is_text(tmp_path, kind):
    data = write(tmp_path / f"films.{kind}", table(kind, [("good",), ("bad",)], ("sentence",)))
    assert content(load(data, whole_tables=True)) == {"test": (["good", "bad"], [-1, -1])}


def test_an_imdb_too_small_to_cut_is_not_told_how_tables_are_cut(tmp_path):
    with pytest.raises(UserError, match=r"the validation part is empty$"):
        load(str(write_tar(tmp_path / "imdb.tar", imdb_members(per_class=4))))


def test_csv_fields_may_hold_commas_quotes_and_newlines(tmp_path):
    data = write(tmp_path / "a.csv", 'label,text\n1,"He said: ""Go"", and\nwe went,\n\nall."\n0,plain "quotes" inside\n')
    part = load(data, whole_tables=True)["test"]
    assert part.texts == ['He said: "Go", and\nwe went,\n\nall.', 'plain "quotes" inside']
    assert part.labels.tolist() == [1, 0]


@pytest.mark.parametrize(("kind", "gap"), [("csv", ", "), ("tsv", " \t")])
def test_blanks_around_a_columns_name_are_no_part_of_it(tmp_path, kind, gap):
    """A column split that was not found would put its test texts into training."""
    line = gap.strip(" ")
    rows = ["text", "label", "split"], ["good", "1", "train"], ["bad", "0", "test"]
    data = write(tmp_path / f"a.{kind}", "\n".join([gap.join(rows[0]), *(line.join(row) for row in rows[1:])]) + "\n")
    assert {name: part.texts for name, part in load(data).items()} == {"train": ["good"], "test": ["bad"]}


def test_tsv_quotes_nothing(tmp_path):
    other = write(tmp_path / "b.tsv", 'text\tlabel\tmore\nGood\t1\t"{""a"": 1}"\n')
    assert load(other, whole_tables=True)["test"].texts == ["Good"], "what another column holds is nothing to us"
    data = write(tmp_path / "a.tsv", 'text\tlabel\n"Go" he said\t1\n"a quote that never ends, and a comma\t0\nit\'s "\t1\n')
    part = load(data, whole_tables=True)["test"]
    assert part.texts == ['"Go" he said', '"a quote that never ends, and a comma', "it's \""]
    assert part.labels.tolist() == [1, 0, 1]


GOOD = '{"text": "good", "label": 1}\n'
WRONG = {
    "label in jsonl": ("a.jsonl", GOOD + '{"text": "a", "label": 2}', "line 2 has the label '2', expected 0, 1, neg or pos"),
    "label in csv": ("a.csv", "text,label\ngood,1\nbad,terrible\n", "line 3 has the label 'terrible'"),
    "label in tsv": ("a.tsv", "text\tlabel\ngood\t-1\n", "line 2 has the label '-1'"),
    "label that is true": ("a.jsonl", '{"text": "a", "label": true}', "line 1 has the label 'true'"),
    "label that is a list": ("a.jsonl", '{"text": "a", "label": [1]}', "line 1 has the label '\\[1\\]'"),
    "empty label": ("a.csv", "text,label\ngood,\n", "line 2 has the label ''"),
    "no text in jsonl": (
        "a.jsonl",
        GOOD + "\n" + '{"review": "a", "label": 1}',
        "line 3 has no text; expected a column 'text'",
    ),
    "no text in csv": ("a.csv", "review,label\ngood,1\n", "line 2 has no text; expected a column 'text'"),
    "text that is a number": ("a.jsonl", '{"text": 5, "label": 1}', "line 1 has no text"),
    "text that is null": ("a.jsonl", '{"text": null, "label": 1}', "line 1 has no text"),
    "broken JSON": ("a.jsonl", GOOD + GOOD + '{"text": "cut off', "line 3 is not JSON"),
    "endless nesting": ("a.jsonl", "[" * 200_000, "line 1 is not JSON"),
    "a list": ("a.jsonl", GOOD + '["good", 1]', "line 2 is not an object"),
    "a string": ("a.jsonl", '"good"', "line 1 is not an object"),
    "false": ("a.jsonl", "false", "line 1 is not an object"),
    "split": ("a.csv", "text,label,split\ngood,1,dev\n", "split is 'dev', expected train, validation or test"),
    "split here and there": ("a.csv", "text,label,split\ngood,1,test\nbad,0,\n", "split is '', expected train"),
    "empty text": ("a.csv", 'text,label,split\ngood,1,test\n" ",0,test\n', "line 3 holds an empty text"),
    "bytes": ("a.csv", b"text,label\ncaf\xe9,1\n", "byte 14 is not UTF-8"),
    "bytes in text": ("a.txt", b"caf\xe9\n", "byte 3 is not UTF-8"),
    "no rows": ("a.csv", "text,label\n", "the train part is empty"),
    "too few rows": ("a.jsonl", GOOD * 9, "the validation part is empty; a table without a column split is cut 80/10/10"),
    "nothing": ("a.jsonl", "", "the train part is empty"),
    "blank lines": ("a.txt", "\n  \n", "the unlabelled part is empty$"),
    "comma without quotes": (
        "a.csv",
        "label,text\n1,good\n0,Not good, never\n",
        "line 3 has more fields than the header; .*quotes",
    ),
    "tab too many": ("a.tsv", "label\ttext\n1\tgood\n0\tbad\tfilm\n", "line 3 has more fields than the header$"),
    "tab too few": ("a.tsv", 'text\tlabel\n"good\nfilm"\t1\n', "line 2 has fewer fields than the header; .* several lines"),
    "comma too few": ("a.csv", "label,text\n1,good\n0\n", "line 3 has fewer fields than the header$"),
    "endless quote": ("a.csv", 'text,label\ngood,1\n"bad,0\nbad,0\n', "line 4 is not readable"),
    "quote in front of a word": ("a.csv", 'text,label\n"Alien" is dull,0\n', "line 2 is not readable"),
    "long field in csv": ("a.csv", "text,label\ngood,1\n" + "a" * (LONGEST + 1) + ",1\n", "line 3 is not readable .*limit"),
    "quotes doubled in tsv": (
        "a.tsv",
        'text\tlabel\n"He said ""no"" twice"\t0\n',
        r'line 2 doubles its quotes \(""\) as a .csv does',
    ),
    "long field in tsv": ("a.tsv", "text\tlabel\n" + "a" * (LONGEST + 1) + "\t1\n", "line 2 is not readable .*limit"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_table_is_said_with_its_name_and_line(tmp_path, case):
    name, text, complaint = WRONG[case]
    data = write(tmp_path / name, text)
    with pytest.raises(UserError, match=f"{re.escape(data)}: {complaint}"):
        load(data)


def test_an_archive_that_may_not_be_read_is_not_called_broken(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    archive = write_tar(tmp_path / "imdb.tar.gz", imdb_members())
    monkeypatch.setattr("data.formats.open", refuse, raising=False)
    with pytest.raises(PermissionError, match="Permission denied"):
        load(str(archive))


def test_a_line_that_is_null_is_not_an_object_either(tmp_path):
    with pytest.raises(UserError, match="line 2 is not an object"):
        load(write(tmp_path / "a.jsonl", GOOD + "null\n" + GOOD), whole_tables=True)


def test_a_field_of_one_mebibyte_is_still_read(tmp_path):
    data = write(tmp_path / "a.csv", "text,label\n" + "a" * LONGEST + ",1\n")
    assert len(load(data, whole_tables=True)["test"].texts[0]) == 1 << 20


def test_half_a_surrogate_pair_is_named_with_its_line(tmp_path):
    data = write(tmp_path / "a.jsonl", GOOD + '{"text": "smile \\ud83d", "label": 1}\n')
    with pytest.raises(UserError, match="line 2 holds half a surrogate pair"):
        load(data, whole_tables=True)


# ---- other formats


def write_zip(path, content: str, name: str = "SST-2/dev.tsv") -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return str(path)


def test_a_txt_is_one_unlabelled_document_a_line(tmp_path):
    parts = load(write(tmp_path / "a.txt", '\ufefffirst film\n\n  \nsecond film, "quoted"\r\nthird\tfilm'))
    assert content(parts) == {"unlabelled": (["first film", 'second film, "quoted"', "third\tfilm"], [-1, -1, -1])}
    assert parts["unlabelled"].names == ["line 1", "line 4", "line 5"]


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\x0c"])
def test_a_line_of_a_txt_ends_at_a_newline_only(tmp_path, character):
    assert len(load(write(tmp_path / "a.txt", f"one{character} film\nanother\n"))["unlabelled"]) == 2


def test_sst2s_zip_is_a_test_part(tmp_path):
    data = write_zip(tmp_path / "SST-2.zip", 'sentence\tlabel\na "gorgeous film \t1\ndull . \t0\n')
    assert content(load(data)) == {"test": (['a "gorgeous film ', "dull . "], [1, 0])}


def test_another_zip_is_refused(tmp_path):
    for data in (write_zip(tmp_path / "a.zip", "x", "CoLA/dev.tsv"), write(tmp_path / "b.zip", "<html>404</html>")):
        with pytest.raises(UserError, match=f"{re.escape(data)}: no readable SST-2/dev.tsv"):
            load(data)


def test_a_damaged_zip_is_refused(tmp_path):
    data = write_zip(tmp_path / "a.zip", "sentence\tlabel\n" + "".join(f"film {i**3}\t1\n" for i in range(300)))
    write(tmp_path / "a.zip", flip((tmp_path / "a.zip").read_bytes(), 60))
    with pytest.raises(UserError, match="no readable SST-2/dev"):
        load(data)


def test_a_zip_with_a_name_that_is_not_utf_8_is_refused(tmp_path):
    data = write_zip(tmp_path / "a.zip", "x", "SST-2/d\u00e9v.tsv")  # é: two bytes, of which one is left
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace("\u00e9".encode(), b"\xc3v"))
    with pytest.raises(UserError, match="no readable SST-2/dev"):
        load(data)


@pytest.mark.parametrize("name", ["a.parquet", "a", "a.json", "a.tsv.gz"])
def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path, name):
    with pytest.raises(UserError, match=r"unknown format; expected .*\.jsonl, \.csv, \.tsv or \.txt"):
        load(write(tmp_path / name, "x"))


@pytest.mark.parametrize("name", ["films.csv", "imdb.tar.gz", "aclImdb", "samples"])
def test_a_missing_file_is_said_to_be_missing(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: no such file, and not one of sample, imdb, sst2"):
        load(str(tmp_path / name))


# ---- what training asks for


def test_check_classes_gives_the_parts_that_were_asked_for():
    parts = numbered_parts()
    assert list(check_classes(parts, ("train", "test"), "films")) == ["train", "test"]


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ([0, 0, 1], "train has 1 texts of class 1, expected at least two"),
        ([0, 1, 1], "train has 1 texts of class 0"),
        ([1, 1, 1], "train has 0 texts of class 0"),
        ([0, 0, 1, 1, -1], r"line 4 \(train\) has no label"),
        ([], "train has 0 texts of class 0"),
    ],
)
def test_fewer_than_two_of_a_class_or_a_missing_label_is_refused(labels, complaint):
    with pytest.raises(UserError, match=f"--data films: {complaint}"):
        check_classes({"train": part_of(list("abcde"[: len(labels)]), labels)}, ("train",), "films")


def test_two_of_each_class_suffice_and_a_missing_part_is_named():
    parts = {"train": part_of(list("abcd"), [0, 1, 1, 0])}
    assert check_classes(parts, ("train",), "films") == parts
    with pytest.raises(UserError, match="--data films: has no test part"):
        check_classes(parts, ("train", "test"), "films")


# ---- the sample corpus

KIND_NAMES = {"plain", "negation", "mixed", "irony"}


@pytest.fixture(scope="module")
def labelled() -> list[dict]:
    return [json.loads(line) for line in (SAMPLE / "labelled.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def texts(labelled) -> list[str]:
    unlabelled = (SAMPLE / "unlabelled.jsonl").read_text("utf-8").splitlines()
    return [row["text"] for row in labelled] + [json.loads(line)["text"] for line in unlabelled]


def test_the_sample_has_400_labelled_reviews_or_more_in_fixed_parts_and_200_unlabelled_or_more(labelled):
    parts = load("sample")
    assert list(parts) == ["train", "validation", "test", "unlabelled"]
    assert sum(len(parts[name]) for name in ("train", "validation", "test")) == len(labelled) >= 400
    assert len(parts["unlabelled"]) >= 200
    assert (parts["unlabelled"].labels == -1).all()
    for name in ("train", "validation", "test"):
        assert parts[name].texts == [row["text"] for row in labelled if row["split"] == name]
    assert len(parts["train"]) > len(parts["test"]) > len(parts["validation"])


def test_the_sample_is_balanced_within_each_part_and_each_kind(labelled):
    counts = Counter((row["split"], row["kind"], row["label"]) for row in labelled)
    assert {(split, kind) for split, kind, _ in counts} == {
        (split, kind) for split in ("train", "validation", "test") for kind in KIND_NAMES
    }
    for split, kind, _ in counts:
        assert counts[split, kind, 0] == counts[split, kind, 1]


def test_the_samples_card_counts_right(labelled, texts):
    card = (SAMPLE / "README.md").read_text("utf-8")
    parts, kinds = Counter(row["split"] for row in labelled), Counter(row["kind"] for row in labelled)
    assert f"{len(labelled)} labelled and {len(texts) - len(labelled)} unlabelled" in card
    assert f"{parts['train']} train, {parts['validation']} validation, {parts['test']} test" in card
    assert all(f"`{kind}` ({count})" in card for kind, count in kinds.items())


def test_a_sample_review_has_25_to_100_words(texts):
    words = [len(text.split()) for text in texts]
    assert min(words) >= 25 and max(words) <= 100
    assert np.std(words) > 10  # of varied lengths


def test_no_two_sample_texts_are_alike_and_none_is_in_two_parts(texts):
    plain = [" ".join(re.findall(r"\w+", text.lower())) for text in texts]
    assert [text for text, count in Counter(plain).items() if count > 1] == []
    assert prepare(load("sample"))[1] == 0


def test_no_two_sample_reviews_share_their_first_eight_words(texts):
    openings = Counter(tuple(re.findall(r"[\w'’]+", text.lower())[:8]) for text in texts)
    assert [" ".join(words) for words, count in openings.items() if count > 1] == []
