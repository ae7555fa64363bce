import inspect
import random
import re
from collections import Counter

import pytest

from agenttuning.environments.base import Move, Step
from agenttuning.environments.mind2web import Mind2Web, ranking, thoughts
from agenttuning.environments.mind2web import tasks as tasks_module
from agenttuning.environments.mind2web.bundle import recorded, recorded_scores
from agenttuning.environments.mind2web.environment import Mind2WebSettings
from agenttuning.environments.mind2web.grammar import choose
from agenttuning.environments.mind2web.recorder import FOLDERS
from agenttuning.environments.mind2web.records import sample_id
from agenttuning.environments.mind2web.sites import SITES
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Task

ALL = 100_000
HINDSIGHT = ("expected", "correct", "gold", "positive", "right answer", "as recorded")


def play(env: Mind2Web, task: Task, seed: int) -> tuple[list[tuple[str, Move, Step]], dict]:
    """Let the demonstrator play through text and parser, as in a rollout."""
    shown = env.reset(task)
    expert = env.expert(task, random.Random(seed))
    steps: list[tuple[str, Move, Step]] = []
    move = next(expert)
    while True:
        parsed = env.parse(env.format(move.thought, move.action))
        assert (parsed.thought, parsed.action) == (move.thought, move.action)
        step = env.step(parsed.action)
        steps.append((shown, move, step))
        if step.done:
            return steps, env.close()
        shown = step.observation
        move = expert.send(step)


@pytest.fixture(scope="module")
def played():
    env = Mind2Web()
    found = []
    for seed, task in enumerate(env.tasks("train", ALL, 0)):
        steps, evidence = play(env, task, seed)
        found.append((task, steps, env.grade(task, evidence)))
    return found


def test_there_are_enough_recorded_tasks_and_splits_share_no_site():
    tasks = Counter(split for split, _ in recorded())
    assert tasks["train"] >= 180
    assert tasks["test"] >= 24
    assert tasks["shifted"] >= 12
    assert all(len(record.actions) >= 2 for _, record in recorded())
    sites = {split: {record.website for found, record in recorded() if found == split} for split in tasks}
    assert len(sites["train"]) >= 3
    assert sites["train"].isdisjoint(sites["test"] | sites["shifted"])
    assert sites["test"].isdisjoint(sites["shifted"])
    assert {site.name for site in SITES} == set().union(*sites.values())
    assert len({record.confirmed_task for _, record in recorded()}) == len(recorded())


def test_the_demonstrator_succeeds_on_train(played):
    assert sum(grade.reward >= 2 / 3 for *_, grade in played) / len(played) >= 0.95
    assert sum(grade.score for *_, grade in played) / len(played) >= 0.95


@pytest.mark.parametrize("split", ["test", "shifted"])
def test_on_other_splits_the_demonstrator_fails_only_where_the_ranker_did(split):
    env = Mind2Web()
    for seed, task in enumerate(env.tasks(split, 60, 1)):
        _, evidence = play(env, task, seed)
        reachable = not set(task.payload["positives"]).isdisjoint(task.payload["pool"])
        assert env.grade(task, evidence).score == float(reachable)


def test_tasks_are_the_same_for_the_same_seed_and_differ_for_another():
    env = Mind2Web()
    first = [task.id for task in env.tasks("train", 50, 3)]
    assert first == [task.id for task in Mind2Web().tasks("train", 50, 3)]
    assert first[:20] == [task.id for task in env.tasks("train", 20, 3)]
    assert first != [task.id for task in env.tasks("train", 50, 4)]
    assert len({task.id for task in env.tasks("train", ALL, 0)}) == sum(
        len(record.actions) for split, record in recorded() if split == "train"
    )


def test_every_recorded_action_has_the_scores_of_the_trained_ranker():
    scores = recorded_scores()
    keys = {sample_id(record, action) for _, record in recorded() for action in record.actions}
    assert scores.keys() == keys
    test = [record for split, record in recorded() if split == "test"]
    trained = ranking.recall(ranking.from_scores(scores, "recorded"), test, (10,))[10]
    assert trained > ranking.recall(ranking.bm25, test, (10,))[10]


def test_difficulty_is_what_right_answers_take(played):
    for task, steps, _ in played:
        if all(move.loss for _, move, _ in steps):
            assert task.difficulty == pytest.approx((len(steps) - 1) / (Mind2Web.max_steps - 1), abs=1e-4)
    assert len({task.difficulty for task, *_ in played}) > 1


def test_prompts_are_small_and_hold_the_choices(played):
    sizes = [sum(len(shown) for shown, *_ in steps) for _, steps, _ in played]
    assert sum(sizes) / len(sizes) < 5_000
    assert max(sizes) < 12_000
    for task, steps, _ in played[:100]:
        assert task.instruction in steps[0][0]
        for shown, move, _ in steps:
            letters = re.findall(r"^([A-F])\. ", shown, re.MULTILINE)
            assert letters[0] == "A"
            assert move.action.arguments["letter"] in letters
            html = shown.partition("\n\nWhich element")[0]
            assert all(f"id={number}" in html for number in range(len(letters) - 1))


def test_thoughts_cite_only_what_was_shown(played):
    """Every word of a thought that is neither a common one nor of a phrase stands in what was shown so far."""
    known = set(re.findall(r"\w+", inspect.getsource(thoughts).lower()))
    for _, steps, _ in played:
        seen: set[str] = set()
        for shown, move, _ in steps:
            seen |= set(re.findall(r"\w+", shown.lower()))
            assert set(re.findall(r"\w+", move.thought.lower())) <= seen | known


def test_thoughts_vary_and_have_no_hindsight(played):
    said = [move.thought for _, steps, _ in played for _, move, _ in steps]
    assert len(set(said)) / len(said) > 0.5
    assert not [thought for thought in said if any(word in thought.lower() for word in HINDSIGHT)]


def test_mistakes_come_at_their_rate_and_are_not_trained(played):
    share = sum(any(not move.loss for _, move, _ in steps) for _, steps, _ in played) / len(played)
    assert 0.05 < share < 0.25
    env = Mind2Web(Mind2WebSettings(mistake_rate=1.0))
    mistaken = 0
    for seed, task in enumerate(env.tasks("train", 80, 0)):
        steps, evidence = play(env, task, seed)
        slips = [index for index, (_, move, _) in enumerate(steps) if not move.loss]
        assert len(slips) <= 1
        assert slips != [len(steps) - 1]
        assert env.grade(task, evidence).score == 1.0
        assert env.grade(task, evidence).reward >= 2 / 3
        mistaken += len(slips)
    assert mistaken / 80 > 0.5


def test_doing_nothing_and_rejecting_everything_are_worth_nothing():
    env = Mind2Web()
    for task in env.tasks("train", 20, 0):
        env.reset(task)
        assert env.grade(task, env.close()).reward == 0.0
        env.reset(task)
        while not env.step(choose("A")).done:
            pass
        assert env.grade(task, env.close()).reward == 0.0


def test_a_letter_that_is_not_shown_is_an_error_and_costs_no_round():
    env = Mind2Web(Mind2WebSettings(top_k=3))
    (task,) = env.tasks("train", 1, 0)
    env.reset(task)
    step = env.step(choose("F", "CLICK"))
    assert step.error
    assert "from A to D" in step.observation
    assert env.close() == {"answers": []}


def test_episodes_leave_nothing_behind():
    env = Mind2Web()
    first, second = env.tasks("train", 2, 0)
    shown = env.reset(second)
    env.reset(first)
    env.step(choose("B", "CLICK"))
    assert env.reset(second) == shown
    assert env.close() == env.close() == {"answers": []}


def test_metrics_are_mind2webs():
    env = Mind2Web()
    (task,) = env.tasks("train", 1, 0)
    _, evidence = play(env, task, 0)
    found = env.metrics(task, evidence)
    assert found["element_acc"] == found["action_f1"] == found["step_sr"] == 1.0
    assert found["rounds"] == len(evidence["answers"])


def test_one_site_can_be_chosen_and_unknown_ones_are_refused():
    env = Mind2Web(Mind2WebSettings(families=("adminlte",)))
    assert {task.family for task in env.tasks("train", 30, 0)} == {"adminlte"}
    with pytest.raises(ConfigurationError, match="no family is called 'webshop'"):
        list(Mind2Web(Mind2WebSettings(families=("webshop",))).tasks("train", 1, 0))
    with pytest.raises(ConfigurationError, match="splits train, test, shifted"):
        list(env.tasks("dev", 1, 0))


def official(folder):
    """Some of the recorded tasks in the published layout."""
    for split, record in recorded()[::12]:
        target = folder / FOLDERS[split]
        target.mkdir(exist_ok=True)
        (target / f"{FOLDERS[split]}_{len(list(target.iterdir()))}.json").write_text(f"[{record.model_dump_json()}]")


def test_files_in_the_published_format_are_played_too(tmp_path, monkeypatch):
    (tmp_path / "mind2web").mkdir()
    official(tmp_path / "mind2web")
    env = Mind2Web(Mind2WebSettings(source="official"), str(tmp_path))
    some = [task.id for task in env.tasks("train", 6, 0)]
    monkeypatch.setattr(tasks_module, "BLOCK", 2)
    assert [task.id for task in env.tasks("train", 6, 0)] == some
    for split in ("train", "test"):
        tasks = list(env.tasks(split, 5, 0))
        assert {task.origin for task in tasks} == {"dataset"}
        for seed, task in enumerate(tasks):
            play(env, task, seed)
    assert list(env.tasks("shifted", 5, 0)) == []
    other = Mind2Web(Mind2WebSettings(source="official", path=str(tmp_path / "mind2web"), test_split="test_website"))
    assert {task.family for task in other.tasks("test", 5, 0)} == {"sb-admin-2"}
    assert {task.family for task in other.tasks("shifted", 5, 0)} == {"webshop"}


def test_missing_files_say_what_to_set():
    with pytest.raises(ConfigurationError, match=r"mind2web\.settings\.path or data\.root"):
        list(Mind2Web(Mind2WebSettings(source="official")).tasks("train", 1, 0))
    with pytest.raises(ConfigurationError, match=r"settings\.ranker: nowhere is not there"):
        list(Mind2Web(Mind2WebSettings(ranker="nowhere")).tasks("train", 1, 0))


def test_the_worked_example_is_on_no_split():
    (first, *_) = Mind2Web().demonstration()
    assert all(record.confirmed_task not in first.content for _, record in recorded())
    assert all(turn.loss is False for turn in Mind2Web().demonstration() if turn.role == "assistant")
