"""Quotas: what is missing, what is left out, and what generation shall aim at."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agenttuning.curation.quota import aim, missing, over_quota


def test_missing_names_only_what_lacks():
    assert missing({"os": 3, "db": 9}, {"os": 5, "db": 9, "kg": 2}) == {"os": 2, "kg": 2}
    assert missing({"os": 3}, {}) == {}


def test_the_aim_grows_with_what_curation_dropped():
    quota = {"os": 100, "db": 100, "kg": 100, "alfworld": 100}
    rewarded, kept = {"os": 100, "db": 120, "kg": 40}, {"os": 80, "db": 110, "kg": 0}
    assert aim(quota, rewarded, kept) == {"os": 125, "db": 100, "kg": 100, "alfworld": 100}
    assert aim({"kg": 10}, {"kg": 40}, {}) == {"kg": 80}
    assert aim({"kg": 10}, {}, {}) == {"kg": 10}


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 60))
def test_the_aim_suffices_at_the_same_share(wanted, passed, stayed):
    stayed = min(passed, stayed)
    aimed = aim({"x": wanted}, {"x": passed}, {"x": stayed})["x"]
    assert aimed >= wanted
    if 0 < stayed < wanted:
        assert aimed * stayed / passed >= wanted - 1e-9
        assert aimed > passed or stayed >= wanted


rows = st.lists(
    st.tuples(st.integers(0, 500).map(lambda n: f"id{n:03d}"), st.sampled_from(["a", "b"]), st.sampled_from("xyz")),
    unique_by=lambda row: row[0],
    max_size=40,
)


@given(rows, st.integers(1, 12), st.randoms())
def test_families_take_turns_and_the_order_does_not_matter(kept, most, rng):
    over = over_quota(kept, {"a": most})
    shuffled = list(kept)
    random.Random(rng.random()).shuffle(shuffled)
    assert over_quota(shuffled, {"a": most}) == over
    stay = [row for row in kept if row[0] not in over]
    assert [row for row in kept if row[1] == "b"] == [row for row in stay if row[1] == "b"]
    mine = [row for row in kept if row[1] == "a"]
    assert sum(row[1] == "a" for row in stay) == min(most, len(mine))
    counts = Counter(family for _, environment, family in stay if environment == "a")
    full = Counter(family for _, _, family in mine)
    for family, count in counts.items():
        assert count >= min(full[family], max(counts.values()) - 1)
