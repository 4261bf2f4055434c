"""The unlabelled attachment score: all words of all sentences, lost ones too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadapter.metrics.attachment import unlabelled_attachment_score

SENTENCES = st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9), min_size=1)


def padded(sentences, filler=-100):
    width = max(map(len, sentences))
    return np.array([[*one, *[filler] * (width - len(one))] for one in sentences])


@given(SENTENCES, st.integers(0, 20))
def test_the_score_is_the_share_of_right_words_whatever_the_padding(sentences, lost):
    references = padded([[head for head, _ in one] for one in sentences])
    predictions = padded([[guess for _, guess in one] for one in sentences], filler=0)
    words = sum(map(len, sentences)) + lost
    right = sum(head == guess for one in sentences for head, guess in one)
    score = unlabelled_attachment_score(predictions, references, references >= 0, words)
    assert score == pytest.approx(right / words)
    assert 0 <= score * words <= words - lost + 1e-9
    wider = [np.pad(one, ((0, 0), (0, 3)), constant_values=-100) for one in (predictions, references)]
    assert unlabelled_attachment_score(*wider, wider[1] >= 0, words) == score


def test_words_lost_to_truncation_are_wrong():
    # "I saw elephants yesterday ." was cut after its third word, and "Birds sing" was not.
    references, predictions = np.array([[2, 0, 2], [2, 0, -100]]), np.array([[2, 0, 1], [2, 0, 0]])
    assert unlabelled_attachment_score(predictions, references, references >= 0, words=7) == 4 / 7


@pytest.mark.parametrize("words", [0, 1])
def test_fewer_words_than_were_counted_are_refused(words):
    heads = np.array([[1, 0]])
    with pytest.raises(ValueError, match=f"words={words} is fewer than the 2 counted"):
        unlabelled_attachment_score(heads, heads, heads >= 0, words)
