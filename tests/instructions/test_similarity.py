"""Repeated instructions are told from new ones."""

from hypothesis import given
from hypothesis import strategies as st

from agenttuning.instructions.similarity import Seen, jaccard, ngrams, normalised


def test_a_number_or_a_case_makes_no_other_task() -> None:
    seen = Seen(0.6)
    seen.add("Count the files of /root/a that are larger than 10 kB.")
    assert seen.repeats("count the files of /root/a that are larger than 25 kB!") == "duplicate"
    assert seen.repeats("Please count the files of /root/a that are larger than 10 kB.") == "near_duplicate"
    assert seen.repeats("Which user owns the newest file in /srv?") is None


@given(st.text(max_size=80), st.text(max_size=80))
def test_similarity_is_symmetric_and_bounded(left: str, right: str) -> None:
    one, other = ngrams(left), ngrams(right)
    assert 0 <= jaccard(one, other) <= 1
    assert jaccard(one, other) == jaccard(other, one)
    assert jaccard(one, one) == 1
    assert normalised(normalised(left)) == normalised(left)
