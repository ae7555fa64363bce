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
    st.tuples(
        st.integers(0, 500).map(lambda n: f"id{n:03d}"),
        st.sampled_from(["a", "b"]),
        st.sampled_from("xyz"),
        st.sampled_from([None, 0, 1, 2, 3, 4]),
    ),
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
    counts = Counter(family for _, environment, family, _ in stay if environment == "a")
    full = Counter(family for _, _, family, _ in mine)
    for family, count in counts.items():
        assert count >= min(full[family], max(counts.values()) - 1)
        fifths = Counter(fifth for _, env, own, fifth in stay if (env, own) == ("a", family))
        there = Counter(fifth for _, _, own, fifth in mine if own == family)
        assert all(fifths[fifth] >= min(there[fifth], max(fifths.values()) - 1) for fifth in there)


def test_what_is_easy_does_not_crowd_out_what_is_hard():
    kept = [(f"{n:03d}", "a", "x", 0 if n < 90 else 4) for n in range(100)]
    over = over_quota(kept, {"a": 16})
    assert sum(1 for name, _, _, fifth in kept if fifth == 4 and name not in over) == 8
    one_each = [(f"{family}{fifth}", "a", family, fifth) for family in "vwxyz" for fifth in range(5)]
    stay = {name for name, *_ in one_each} - over_quota(one_each, {"a": 5})
    assert {name[1] for name in stay} == set("01234"), "each family begins with another fifth"
