"""Whole-word masking: which tokens make a word, and how masks are drawn."""

import sys
from itertools import chain
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import CLS, MASK, PAD, SEP, UNK, VOCABULARY, bert_tokenizer, tiny_tokenizer

from clip_text.data import masking
from clip_text.data.corpus import Annotator
from clip_text.data.masking import IGNORED, Masking, Segmenter, mask_rng, word_starts
from clip_text.data.packing import STOP, WORD
from clip_text.errors import ClipTextError, DataError
from clip_text.tokenizer import Tokenizer

TOKENIZER = tiny_tokenizer()
MASKING = Masking.of(TOKENIZER)
SENTENCE = "红色的小狗running，在草地上跑。"


@pytest.fixture(scope="module")
def segment():
    return Segmenter()


def words(text, segment, tokenizer=TOKENIZER):
    """Tokens of a text, those of a word in one list."""
    ((ids, flags),) = Annotator(tokenizer, segment)([text])
    pieces = tokenizer.backend.convert_ids_to_tokens(ids.tolist())
    found = []
    for piece, flag in zip(pieces, flags, strict=True):
        if flag & WORD:
            found.append([])
        found[-1].append(piece)
    return found


# Words


def test_a_word_is_what_jieba_says_or_what_wordpiece_split(segment):
    assert words(SENTENCE, segment) == [
        *(["红", "色"], ["的"], ["小", "狗"], ["run", "##ning"]),
        *(["，"], ["在"], ["草", "地"], ["上"], ["跑"], ["。"]),
    ]


def test_words_are_found_by_hand_computed_offsets():
    pieces = ["红", "色", "dog", "##s", "狗", "##"]
    spans = [(0, 1), (1, 2), (3, 6), (6, 7), (8, 9), (9, 11)]
    # the segmenter splits dogs, WordPiece does not; a bare ## is typed and no piece
    starts = word_starts(pieces, spans, [0, 2, 3, 6, 7, 8, 9])
    assert starts.tolist() == [True, False, True, False, True, True]
    assert word_starts([], [], [0]).tolist() == []
    # SentencePiece counts the blank before a word
    assert word_starts(["▁a", "b"], [(1, 3), (3, 4)], [0, 1, 2]).tolist() == [True, False]


def test_a_user_dictionary_makes_words(segment, tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("草地上 100 n\n红色的小狗\n", encoding="utf-8")
    assert ["草", "地", "上"] not in words(SENTENCE, segment)
    own = Segmenter(file)
    assert ["草", "地", "上"] in words(SENTENCE, own)
    assert ["红", "色", "的", "小", "狗"] in words(SENTENCE, own)
    assert ["草", "地", "上"] not in words(SENTENCE, segment)  # the other one is not changed


def test_a_broken_user_dictionary_is_told_with_its_line(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("草地上\n红色 often n\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"words.txt, line 2, got '红色 often n'"):
        Segmenter(file)
    with pytest.raises(DataError, match=r"none\.txt, got nothing there"):
        Segmenter(tmp_path / "none.txt")


def test_without_jieba_the_install_command_is_told(monkeypatch):
    masking._usual.cache_clear()
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ClipTextError, match=r"pip install 'clip-text\[train\]'"):
        Segmenter()


@pytest.mark.parametrize("compat", ["clip_text", "cn_clip", "hf"])
def test_every_contract_finds_the_same_words(compat, segment):
    tokenizer = Tokenizer(bert_tokenizer(), 16, compat)
    assert words(SENTENCE, segment, tokenizer) == words(SENTENCE, segment)
    assert words("  红色 的\t小狗", segment, tokenizer) == [["红", "色"], ["的"], ["小", "狗"]]


def test_full_width_letters_are_a_word_and_a_sentence_end_is_seen(segment):
    assert words("ｄｏｇ狗", segment) == [["dog"], ["狗"]]
    ((_, flags),) = Annotator(TOKENIZER, segment)(["狗。猫！人"])
    assert ((flags & STOP) > 0).tolist() == [False, True, False, True, False]
    ((ids, flags),) = Annotator(TOKENIZER, segment)(["  "])
    assert len(ids) == len(flags) == 0


@given(st.text(alphabet="红色的小狗草地上 runig,。1￥🐶\t“é", max_size=40))
def test_no_piece_is_parted_from_its_word(text):
    segment = Segmenter()  # they share one dictionary
    assert list(chain(*words(text, segment))) == TOKENIZER.backend.convert_ids_to_tokens(
        TOKENIZER.token_ids([text], 999)[0][1:-1]
    )
    for word in words(text, segment):
        assert not (word[0].startswith("##") and len(word[0]) > 2)


# Masks


def drawn(ids, starts, seed=0, epoch=0, at=0):
    return MASKING.draw(np.array(ids), np.array(starts, bool), mask_rng(seed, epoch, at))


def long_text(count=2000):
    """A sequence of words of 1, 2, 3 and 4 tokens, specials at its ends; ids and starts."""
    usual = MASKING.replacements
    rng = np.random.default_rng(1)
    starts = np.concatenate([[True, *[False] * (1 + at % 4 - 1)] for at in range(count)])
    ids = rng.choice(usual, len(starts))
    return np.concatenate([[CLS], ids, [SEP]]), np.concatenate([[True], starts, [True]])


def interval(share, count, sigmas=4.0):
    """Where a binomial share lies but once in 16,000 times."""
    return sigmas * sqrt(share * (1 - share) / count)


def test_all_tokens_of_a_word_are_masked_together_and_specials_never():
    ids, starts = long_text(200)
    word = np.cumsum(starts)
    for epoch in range(20):
        inputs, labels = drawn(ids, starts, epoch=epoch)
        masked = labels != IGNORED
        for each in np.unique(word):
            assert len(set(masked[word == each])) == 1
        assert (labels[masked] == ids[masked]).all()
        assert (inputs[~masked] == ids[~masked]).all()
        assert not masked[0]
        assert not masked[-1]


def test_a_word_with_an_unknown_part_is_left_alone():
    ids, starts = [CLS, 10, UNK, 12, SEP, PAD], [True, True, False, True, True, True]
    for at in range(200):
        labels = drawn(ids, starts, at=at)[1]
        assert set(np.flatnonzero(labels != IGNORED)) <= {3}


def test_shares_are_15_and_80_10_10():
    ids, starts = long_text()
    epochs = 30
    inputs, labels = map(
        np.concatenate,
        zip(*(drawn(ids, starts, epoch=each) for each in range(epochs)), strict=True),
    )
    whole = np.tile(ids, epochs)
    masked = labels != IGNORED
    # words are drawn, so it is words whose number is binomial, at most
    per_word = 2000 * epochs
    assert masked.mean() == pytest.approx(0.15, abs=2 * interval(0.15, per_word))
    count = int(masked.sum())
    became = inputs[masked]
    assert (became == MASK).mean() == pytest.approx(0.8, abs=interval(0.8, count))
    # another token is sometimes drawn to be the same
    same = 0.1 + 0.1 / len(MASKING.replacements)
    assert (became == whole[masked]).mean() == pytest.approx(same, abs=interval(same, count))
    other = (became != MASK) & (became != whole[masked])
    assert other.mean() == pytest.approx(0.2 - same, abs=interval(0.2 - same, count))
    # and any token but a special one takes the place
    assert set(became[other]) == set(MASKING.replacements)
    assert not set(MASKING.replacements) & {PAD, UNK, CLS, SEP, MASK}


def test_a_long_word_is_masked_as_often_as_a_short_one_even_in_a_short_sequence():
    ids = [CLS, *range(10, 17), SEP]
    starts = [True, True, True, True, True, False, False, False, True]
    draws = 10_000
    masked = sum(drawn(ids, starts, at=at)[1] != IGNORED for at in range(draws)) / draws
    assert masked[[0, -1]].tolist() == [0, 0]
    assert masked[1:-1] == pytest.approx([0.15] * 7, abs=interval(0.15, draws))


def test_what_becomes_of_a_token_is_decided_for_each_by_itself():
    ids, starts = [CLS, 10, 11, SEP], [True, True, False, True]
    fates = set()
    for at in range(3000):
        inputs, labels = drawn(ids, starts, at=at)
        if labels[1] != IGNORED:
            fates.add((bool(inputs[1] == MASK), bool(inputs[2] == MASK)))
    assert fates == {(True, True), (True, False), (False, True), (False, False)}


def test_masks_differ_between_epochs_and_sequences_and_a_resumed_run_draws_the_same():
    ids, starts = long_text(200)
    seen = {
        (seed, epoch, at): drawn(ids, starts, seed, epoch, at)[1].tobytes()
        for seed in range(3)
        for epoch in range(3)
        for at in range(3)
    }
    assert len(set(seen.values())) == len(seen)
    for place, labels in seen.items():
        assert drawn(ids, starts, *place)[1].tobytes() == labels


@given(st.lists(st.tuples(st.integers(0, len(VOCABULARY) - 1), st.booleans()), max_size=30))
def test_whatever_the_sequence_only_words_without_specials_change(tokens):
    ids = np.array([token for token, _ in tokens], np.int64)
    starts = np.array([starts for _, starts in tokens], bool)
    starts[:1] = True
    inputs, labels = drawn(ids, starts)
    masked = labels != IGNORED
    assert not np.isin(ids[masked], MASKING.specials).any()
    assert (inputs[~masked] == ids[~masked]).all()
    assert (labels[masked] == ids[masked]).all()


def test_a_vocabulary_needs_a_mask_and_a_share_lies_between_0_and_1():
    backend = bert_tokenizer()
    backend.mask_token = None
    with pytest.raises(DataError, match="a vocabulary with a mask"):
        Masking.of(Tokenizer(backend, 16))
    with pytest.raises(ValueError, match=r"got 1\.5"):
        Masking.of(TOKENIZER, 1.5)


def test_unused_places_of_a_vocabulary_are_never_put_in():
    backend = bert_tokenizer([*VOCABULARY, "[unused7]", "<S>"])
    masking = Masking.of(Tokenizer(backend, 16))
    assert masking.replacements.max() == len(VOCABULARY) - 1
