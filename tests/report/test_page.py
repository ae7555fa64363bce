import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from synthetic import HOSTILE, write_run

from agenttuning.report.page import build_report
from agenttuning.storage import Store

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and refuses tags that do not nest."""

    def __init__(self):
        super().__init__()
        self.stack, self.tags, self.attributes, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.stack == []
    return reader


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(run):
    return build_report(run)


def test_the_page_asks_nothing_of_a_network_and_runs_no_script(page):
    reader = read(page)
    assert "script" not in reader.tags
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "srcset", "action", "data"):
            assert value.startswith(("#", "data:,")), (tag, name, value)
    assert "@import" not in page
    assert "url(" not in page


def test_stored_text_is_escaped(page):
    assert "<script>alert" not in page
    assert HOSTILE in read(page).text


def test_navigation_leads_to_every_section(page):
    reader = read(page)
    ids = {value for _, name, value in reader.attributes if name == "id"}
    links = {value[1:] for tag, name, value in reader.attributes if (tag, name) == ("a", "href")}
    assert links <= ids
    assert links == {i for i in ids if f'<section id="{i}">' in page}


def test_charts_are_well_formed_named_and_carry_values(page):
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    labels = [ElementTree.fromstring(chart).get("aria-label") for chart in charts]
    assert len(charts) == 10
    assert all(labels)
    assert "Training loss by step" in labels
    assert "nan" not in "".join(charts).lower().replace("finance", "")


def test_the_page_adapts_to_light_and_dark_and_to_phones(page):
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


def test_the_numbers_are_those_of_the_run_directory(run, page):
    text = read(page).text.replace("\u00a0", " ")
    summary = run.read_json("summary.json")
    for which in ("base", "tuned"):
        rate = summary["held_in"][which]
        assert f"{100 * rate['success']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]" in text
        assert f"{rate['successes']}/{rate['episodes']}" in text
        assert f"{summary['general'][f'{which}_loss']:.4f}" in text
    curation = run.read_json("curated/report.json")
    assert f"of {curation['total']['collected']} collected" in text
    assert "13m09s" in text
    assert "8.8 GiB" in text
    assert "Packing fills 96.2 % of the rows." in text
    assert "2.20" in text
    assert "At every step each source was within 0.4 items of its share." in text
    assert "cut from 120 to 100 steps" in text


def table_of(page: str, word: str) -> list[list[str]]:
    """The rows of the first table whose head has a word."""
    (table,) = [t for t in re.findall(r"<table>.*?</table>", page, re.DOTALL) if f">{word}</th>" in t]
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in table.split("<tr>")]
    return [[cell.replace("\u00a0", " ") for cell in row] for row in rows if row]


def test_infrastructure_failures_are_counted_by_environment_and_kind(page):
    assert table_of(page, "request: rate_limit") == [
        [
            "environment",
            "actor lost",
            "environment hung",
            "environment lost",
            "request: rate_limit",
            "request: time_out",
        ],
        ["alfworld", "0", "2", "1", "0", "0"],
        ["os", "0", "0", "3", "0", "0"],
        ["requests and actors", "1", "0", "0", "41", "7"],
    ]


def test_several_attempts_have_their_chances(page):
    assert table_of(page, "pass@4") == [
        ["environment", "pass@1", "pass@2", "pass@3", "pass@4", "best reward"],
        ["os", "95.0 %", "98.3 %", "100.0 %", "100.0 %", "1.000"],
        ["db", "92.5 %", "96.7 %", "99.2 %", "100.0 %", "1.000"],
        ["alfworld", "90.0 %", "–", "–", "–", "–"],
    ]


def test_a_generation_without_failures_says_so(run, tmp_path):
    other = copy(run, Store(str(tmp_path / "demo")))
    manifest = run.read_json("trajectories/manifest.json")
    other.write_json("trajectories/manifest.json", {**manifest, "info": {"retried": {}}})
    text = read(build_report(other)).text
    assert "No infrastructure failure was met" in text
    assert "pass@" not in text


def test_failure_columns_add_up_to_the_episodes(page):
    table = page[page.index('<table class="modes">') :]
    table = table[: table.index("</table>")]
    rows = [list(map(int, re.findall(r'class="heat"[^>]*>(\d+)<', row))) for row in table.split("<tr>")]
    rows = [row for row in rows if row]
    assert [sum(column) for column in zip(*rows, strict=True)] == [24] * 6


def test_episodes_show_base_beside_tuned_and_mark_what_was_trained(page):
    text = read(page).text
    assert text.count("Solved after tuning") == 3
    assert text.count("A trajectory to learn from") == 3
    assert "not trained" in text
    assert 'class="turn assistant trained"' in page


def test_an_empty_directory_says_what_has_not_run(tmp_path):
    text = read(build_report(Store(str(tmp_path / "fresh")))).text
    assert "fresh" in text
    for what, verb in (
        ("Evaluation", "evaluate"),
        ("Curation", "curate"),
        ("Mixture", "mix"),
        ("Training", "train"),
        ("Episodes", "generate"),
    ):
        assert re.search(rf"{what}: not run yet\. agenttuning {verb} does it", text), what


PARTS = [
    "recipe.yaml",
    "trajectories/manifest.json",
    "curated/report.json",
    "curated/kept.parquet",
    "mixture/report.json",
    "training/metrics.jsonl",
    "training/trained.json",
    "evaluation/base/held_in.json",
    "evaluation/tuned/held_in.json",
    "evaluation/base/general.json",
    "evaluation/tuned/general.json",
    "summary.json",
    "timings.json",
    "evaluation/base/trajectories/segments/actor-0-000000.jsonl",
    "evaluation/tuned/trajectories/segments/actor-0-000000.jsonl",
]


def copy(run: Store, target: Store) -> Store:
    for name in run.list():
        target.write(name, run.read(name))
    return target


@pytest.mark.parametrize("part", PARTS)
def test_any_part_may_be_missing(run, tmp_path, part):
    other = copy(run, Store(str(tmp_path / "demo")))
    assert other.exists(part)
    other.delete(part)
    read(build_report(other))


@pytest.mark.parametrize("part", [p for p in PARTS if not p.endswith("metrics.jsonl")])
def test_a_damaged_part_is_named_and_the_rest_stands(run, tmp_path, part):
    other = copy(run, Store(str(tmp_path / "demo")))
    other.write(part, b'{"half": \xff\n' * 2)
    text = read(build_report(other)).text
    assert "Could not be read: " in text
    assert part.rsplit("/", 1)[-1] in text.replace(f"{tmp_path}", "")


@pytest.mark.parametrize("part", [p for p in PARTS if p.endswith((".json", ".yaml"))])
def test_a_part_of_another_shape_does_not_cost_the_page(run, tmp_path, part):
    other = copy(run, Store(str(tmp_path / "demo")))
    other.write(part, b'{"mixture": 3, "total": [], "test": null}')
    assert "AgentTuning report" in read(build_report(other)).text


def test_a_training_under_way_is_drawn_from_its_newest_checkpoint(run, tmp_path):
    other = Store(str(tmp_path / "demo"))
    lines = run.read("training/metrics.jsonl").splitlines(keepends=True)
    for step in (10, 20):
        other.write(f"training/checkpoints/step-{step:08d}/metrics.jsonl", b"".join(lines[:step]))
    assert "20 steps." in read(build_report(other)).text


def test_a_run_that_only_collected(run, tmp_path):
    other = Store(str(tmp_path / "demo"))
    for name in run.list(prefix="trajectories/"):
        other.write(name, run.read(name))
    text = read(build_report(other)).text
    assert "A trajectory to learn from" in text
    assert "Curation: not run yet" in text


def test_a_run_with_the_base_model_alone(run, tmp_path):
    other = Store(str(tmp_path / "demo"))
    for name in run.list(prefix="evaluation/base/"):
        other.write(name, run.read(name))
    text = read(build_report(other)).text
    assert "The base model" in text
    assert "2.8" in text
