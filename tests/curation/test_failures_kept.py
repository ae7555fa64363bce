"""What curation makes of failures and of comparisons: cuts, masks, pairs, near duplicates, quotas, contamination."""

import orjson
import pytest
from episodes import OPENING, agent, steps, trajectory

from agenttuning.conversations.importing import ImportOptions, import_trajectories
from agenttuning.conversations.sources import source_records
from agenttuning.curation.run import curate
from agenttuning.recipe import validate_recipe
from agenttuning.storage import Store
from agenttuning.storage.segments import commit_segment, read_trajectories, table_trajectories
from agenttuning.trajectory import Action, Outcome, Task, Turn


def curated(tmp_path, trajectories, *rules, evaluation=None, **options):
    source, target = Store(str(tmp_path / "t")), Store(str(tmp_path / "c"))
    for number in range(0, len(trajectories), 3):
        commit_segment(source, "w", number, trajectories[number : number + 3])
    environments = {name: {} for name in dict.fromkeys(t.task.environment for t in trajectories)}
    recipe = validate_recipe({"environments": environments, "curation": {"rules": list(rules), **options}})
    report = curate(source, target, recipe, evaluation=evaluation)
    kept = {t.id: t for t in table_trajectories(target.read_table("kept.parquet"))}
    dropped = {row["id"]: row for row in target.read_table("dropped.parquet").to_pylist()}
    return report, kept, dropped, target


LOOP = steps(("go", "a"), ("turn", "b"), ("go", "a"), ("turn", "b"))


def test_a_bad_turn_is_dropped_cut_or_masked_as_the_recipe_says(tmp_path):
    circling = trajectory((*LOOP, agent("done")))
    last = trajectory(
        (agent("ls"), Turn(role="user", content="a [truncated because it is long]"), agent("b")), number=1
    )
    both = [circling, last]
    assert curated(tmp_path / "1", both, "repetition", "truncated")[0].kept == 0

    report, kept, _, _ = curated(tmp_path / "2", both, "repetition", "truncated", on_bad_turn="cut")
    assert [t.content for t in kept[circling.id].turns] == [t.content for t in circling.turns[:6]]
    assert kept[last.id].turns == last.turns[:4]
    assert (report.total.cut, report.total.masked) == ({"repetition": 1, "truncated": 1}, {})

    bad_turns = {"truncated": "mask"}
    report, kept, dropped, _ = curated(tmp_path / "3", both, "repetition", "truncated", bad_turns=bad_turns)
    assert [t.loss for t in kept[last.id].turns if t.role == "assistant"] == [False, True, False]
    assert dropped[circling.id]["rule"] == "repetition"
    assert "truncated (masked)" in report.text()


def test_pairs_hold_a_success_and_a_failure_of_the_same_task(tmp_path):
    won = [trajectory((agent("good", thought=f"{n}"),), attempt=n) for n in range(2)]
    lost = [trajectory((agent("bad"),), attempt=2 + n, reward=0.0) for n in range(3)]
    lost[2] = trajectory((agent("bad"),), attempt=9, outcome=Outcome.STEP_LIMIT)
    alone = [trajectory(number=7, reward=0.0), trajectory(number=8)]
    circling = trajectory((*LOOP, agent("x")), attempt=10)
    everything = [*won, *lost, *alone, circling]
    report, _, _, target = curated(tmp_path, everything, "reward", "form", "repetition", pairs=True)
    pairs = target.read_table("pairs.parquet").to_pylist()
    assert report.pairs == len(pairs) == 3
    assert {pair["rejected_id"] for pair in pairs} == {t.id for t in lost}
    assert {pair["chosen_id"] for pair in pairs} == {t.id for t in won}
    assert sorted(pair["rejected_by"] for pair in pairs) == ["form", "reward", "reward"]
    assert [turn["value"] for turn in pairs[0]["prompt"]] == [turn.content for turn in OPENING]
    assert (pairs[0]["chosen"][0]["from"], pairs[0]["chosen"][0]["loss"]) == ("gpt", True)
    assert pairs[0]["rejected"][0]["value"] == "I look.|bad"
    assert (pairs[0]["chosen_reward"], min(pair["rejected_reward"] for pair in pairs)) == (1.0, 0.0)
    assert not curated(tmp_path / "again", everything, "reward")[3].exists("pairs.parquet")


def test_nothing_that_is_written_holds_what_scrub_masks(tmp_path):
    mail = "jane@gmail.com"
    opening = (*OPENING[:2], Turn(role="user", content=f"Write to {mail}."))
    won, lost = (
        trajectory((agent(f"{word} {mail} joe@gmail.com"),), attempt=n, reward=1.0 - n, opening=opening)
        for n, word in enumerate(("mail", "call"))
    )
    task = Task(environment="os", split="train", instruction=f"Write to {mail}.")
    known = trajectory((agent("x", thought=f"It returned the expected answer {mail}."),), number=4, opening=opening)
    won, lost, known = (t.model_copy(update={"task": task, "evidence": {"sent": [mail]}}) for t in (won, lost, known))
    rules = ("reward", "hindsight", "scrub")
    report, kept, dropped, target = curated(tmp_path / "a", [won, lost, known], *rules, pairs=True)
    assert (report.total.tasks, list(kept), set(dropped)) == (1, [won.id], {lost.id, known.id})
    (pair,) = target.read_table("pairs.parquet").to_pylist()
    assert pair["task"] == task.id, "the task as it was played"
    assert [turn["value"] for turn in pair["prompt"]][-1] == "Write to <EMAIL_1>."
    assert pair["rejected"][0]["value"] == "I look.|call <EMAIL_1> <EMAIL_2>"
    for name in ("kept", "dropped", "pairs"):
        assert "gmail" not in str(target.read_table(f"{name}.parquet").to_pylist()), name
    target = curated(tmp_path / "b", [won, lost], "reward", pairs=True)[3]
    assert "gmail" in str(target.read_table("pairs.parquet").to_pylist()), "without the rule, as it was played"


def spoken(number: int, text: str, task: str, **more):
    opening = (*OPENING[:2], Turn(role="user", content=task))
    return trajectory((agent("x", thought=text),), number=number, opening=opening, **more)


LONG = " ".join(f"word{n}" for n in range(200))


def test_near_duplicates_of_texts_and_of_tasks_are_told_apart(tmp_path):
    tasks = [" ".join(f"{name}{n}" for n in range(40)) for name in "abc"]
    near = [spoken(1, LONG, tasks[0]), spoken(2, LONG + " more", tasks[0]), spoken(3, "Else.", tasks[1])]
    same_task = spoken(4, "Another way, " + LONG[::-1], tasks[1] + " more")
    everything = [*near, same_task, spoken(5, "Short.", tasks[2])]
    _, _, dropped, _ = curated(tmp_path / "1", everything, "near_duplicate")
    (row,) = dropped.values()
    assert row["rule"] == "near_duplicate"
    assert {row["id"], row["reason"].split()[1]} == {near[0].id, near[1].id}
    _, _, dropped, _ = curated(tmp_path / "2", everything, "near_task")
    assert {row["rule"] for row in dropped.values()} == {"near_task"}
    assert len(dropped) == 2
    assert len({near[0].id, near[1].id} & set(dropped)) == 1
    assert len({near[2].id, same_task.id} & set(dropped)) == 1
    assert curated(tmp_path / "3", everything, "near_duplicate", near_duplicate=1.0)[0].kept == 5


def test_a_quota_keeps_so_many_of_each_environment_over_all_families(tmp_path):
    everything = [trajectory(number=n, family="many" if n < 8 else "few") for n in range(10)]
    everything += [trajectory(number=n, environment="db") for n in range(2)]
    report, kept, dropped, _ = curated(tmp_path, everything, "reward", quota={"os": 4, "db": 5})
    assert {e: g.kept for e, g in report.environments.items()} == {"db": 2, "os": 4}
    assert sum(t.task.family == "few" for t in kept.values()) == 2
    assert {row["reason"] for row in dropped.values()} == {"os has its 4"}
    assert report.shortage == {"db": 3}
    assert "still missing 3 of db" in report.text()


def test_contamination_drops_what_holds_an_evaluation_sample_and_reports_the_rate(tmp_path):
    sample = " ".join(f"eval{n}" for n in range(20))
    dirty, half = spoken(1, "I copy.", sample), spoken(2, "I copy.", " ".join(sample.split()[:10]) + " else")
    rules = trajectory((agent("x"),), number=3, opening=(Turn(role="user", content=sample), *OPENING[1:]))
    everything = [dirty, half, rules]
    evaluation = {"bench": [sample, "another sample"]}
    report, kept, dropped, _ = curated(tmp_path, everything, "contamination", evaluation=evaluation)
    assert dropped[dirty.id]["reason"] == "contains 100% of sample 0 of bench (at most 50%)"
    assert set(kept) == {half.id, rules.id}, "prompt text is not compared"
    assert report.contamination == {"bench": {"samples": 2.0, "rate": 0.25, "over_20": 0.5, "over_80": 0.0}}
    assert "contamination of bench: 25.00%" in report.text()
    assert "contamination: compared with 1 evaluation splits of 2 samples" in report.text()
    assert curated(tmp_path / "off", everything, "reward", evaluation=evaluation)[0].kept == 3


def test_licence_and_terms_travel_and_what_was_scrubbed_is_counted(tmp_path):
    mail = spoken(1, "I write to jane@gmail.com.", "Write.", environment="db")
    own = spoken(2, "No mail.", "Read.", diagnostics={"licence": "MIT", "teacher_terms": "mine"})
    expert = spoken(3, "No mail, too.", "Read it.").model_copy(update={"policy": "expert"})
    options = {"licences": {"db": "CC-BY-4.0"}}
    report, kept, _, target = curated(tmp_path, [mail, own, expert], "scrub", **options)
    assert kept[mail.id].diagnostics == {"licence": "CC-BY-4.0", "teacher_terms": "not stated: the terms of p"}
    assert kept[own.id].diagnostics == {"licence": "MIT", "teacher_terms": "mine"}
    assert kept[expert.id].diagnostics["teacher_terms"] == "none: the environment's own expert"
    assert report.licences == {"CC-BY-4.0": 1, "MIT": 1, "not stated": 1}
    assert report.scrubbed == {"email": 1}
    for name in ("agentinstruct.jsonl", "messages.jsonl"):
        assert b"jane@" not in target.read(name)
    terms = curated(tmp_path / "2", [mail], "reward", teacher_terms="outputs may be trained on")[1][mail.id]
    assert terms.diagnostics["teacher_terms"] == "outputs may be trained on"


def test_the_report_has_the_papers_table_1(tmp_path):
    everything = [trajectory(number=n, reward=float(n > 1)) for n in range(4)]
    everything += [trajectory((*LOOP[:4], agent("z")), environment="db", number=n) for n in range(2)]
    everything.append(trajectory(environment="db", number=0, attempt=1, reward=0.0))
    report, _, _, _ = curated(tmp_path, everything, "reward", "repetition")
    assert report.table_1() == [
        ["task", "inst. from", "inst.", "inst. kept", "traj. kept", "turns", "ratio"],
        ["db", "generated", "2", "2", "2", "3.00", "100.00%"],
        ["os", "generated", "4", "2", "2", "1.00", "50.00%"],
        ["total", "", "6", "4", "4", "2.00", "66.67%"],
    ]
    assert report.text().splitlines()[-2:] == ["reward   1   2      3", "dropped nothing: repetition"]


def test_several_attempts_at_a_task_are_one_instruction_of_table_1(tmp_path):
    played = [trajectory((agent(f"{n}"),), number=n % 2, attempt=n, reward=float(n % 2)) for n in range(8)]
    report, _, _, _ = curated(tmp_path, played, "reward")
    assert report.table_1()[-1] == ["total", "", "2", "1", "4", "1.00", "50.00%"]
    assert (report.total.tasks, report.total.tasks_kept, report.total.collected, report.total.kept) == (2, 1, 8, 4)
    assert report.total.ratio == 0.5


@pytest.mark.parametrize("form", ["agentinstruct", "messages"])
def test_what_was_imported_is_curated_and_exported_as_it_was(tmp_path, form):
    talk = [("human", None, "Rules."), ("gpt", False, "Ok."), ("human", None, "Count the rows of the table."),
            ("gpt", True, "I count.\nAction: Operation\n```sql\nSELECT COUNT(*) FROM t\n```"),
            ("human", None, "[(3,)]"), ("gpt", True, 'Action: Answer\nFinal Answer: ["3"]')]  # fmt: skip
    if form == "agentinstruct":
        good = {"conversations": [{"from": f, "loss": x, "value": v} for f, x, v in talk], "id": "db_1"}
        known = {**good, "conversations": [dict(turn) for turn in good["conversations"]], "id": "db_2"}
        known["conversations"][5]["value"] = "The query returned the expected answer.\n" + talk[5][2]
    else:
        function = {"name": "execute_sql", "arguments": '{"query":"SELECT 1"}'}
        call = {"id": "c", "type": "function", "function": function}
        said = [
            {"role": "user", "content": "Count the rows."},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        said += [{"role": "tool", "content": "3", "tool_call_id": "c"}, {"role": "assistant", "content": "3 rows."}]
        good = {"id": "db_1", "messages": said, "tools": [{"type": "function", "function": {"name": "execute_sql"}}]}
        hindsight = {"role": "assistant", "content": "", "reasoning_content": "The query returned the expected answer."}
        known = {**good, "id": "db_2", "messages": [*said[:3], {**hindsight, "tool_calls": [call]}]}
    twin = {**good, "id": "db_3"}
    (tmp_path / "in.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in (good, known, twin)))
    source, target = Store(str(tmp_path / "t")), Store(str(tmp_path / "c"))
    import_trajectories(str(tmp_path / "in.jsonl"), source, ImportOptions(environment="db", reward=1.0))
    report = curate(source, target, validate_recipe({}))
    assert {rule: n for rule, n in report.total.dropped.items() if n} == {"hindsight": 1, "duplicate": 1}
    ((_, _, record),) = source_records(str(tmp_path / "c" / f"{form}.jsonl"), "x")
    for turn in record.get("messages", []):
        turn.pop("loss", None)
    assert {key: record[key] for key in good} == good
    beside = {key: record[key] for key in record.keys() - good.keys()}
    if form == "agentinstruct":
        assert beside == {}
    else:
        assert (
            beside.items()
            >= {"environment": "db", "reward": 1.0, "outcome": "completed", "policy": "published"}.items()
        )


def test_what_curation_wrote_is_imported_and_kept_again(tmp_path):
    choose = Action(name="choose", arguments={"letter": "B", "operation": "CLICK", "value": ""})
    page = Turn(role="user", content="Task: fly from Rome\nB. departure field")
    thought = "The task flies from Rome; B is the departure field."
    clicked = Turn(
        role="assistant",
        content=f"Thought: {thought}\nAnswer: B.\nAction: CLICK",
        loss=True,
        thought=thought,
        action=choose,
    )
    played = trajectory((clicked,), "mind2web", opening=(*OPENING[:2], page), reward=0.7, family="airline")
    played = played.model_copy(update={"diagnostics": {"licence": "MIT", "teacher_terms": "mine"}})
    report, kept, _, _ = curated(tmp_path / "a", [played, played.model_copy(update={"id": "other"})], "reward")
    assert report.kept == 2
    again = Store(str(tmp_path / "b"))
    told = import_trajectories(str(tmp_path / "a" / "c" / "messages.jsonl"), again, ImportOptions())
    assert (told.without_reward, told.environments) == (0, {"mind2web": 2})
    read = {t.id: t for t in read_trajectories(again)}
    assert read.keys() == kept.keys()
    for name, t in read.items():
        before = kept[name]
        assert (t.reward, t.outcome, t.policy, t.task.family) == (0.7, before.outcome, "p", "airline")
        assert [(u.role, u.content, u.loss) for u in t.turns] == [(u.role, u.content, u.loss) for u in before.turns]
        assert t.turns[3] == clicked
        assert (t.diagnostics["licence"], t.diagnostics["teacher_terms"]) == ("MIT", "mine")
    twice = curate(again, Store(str(tmp_path / "c")), validate_recipe({"environments": {"mind2web": {}}}))
    assert (twice.kept, twice.total.dropped["duplicate"]) == (1, 1), "two attempts at one task"
