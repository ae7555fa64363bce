"""The project's own small sites: every page is well-formed, leads somewhere, and every script finds its elements."""

import re
from html.parser import HTMLParser

import pytest

from agenttuning.environments.mind2web import made_pages
from agenttuning.environments.mind2web.bundle import recorded
from agenttuning.environments.mind2web.made_pages import pages, slug
from agenttuning.environments.mind2web.scripts import scripts
from agenttuning.environments.mind2web.sites import SITES
from agenttuning.errors import DataError

MADE = [site.name for site in SITES if not site.package and not site.is_shop]
VOID = {"meta", "input"}


class Reader(HTMLParser):
    """Collects keys and links, and holds the tags to their order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.keys, self.links = [], set(), set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.keys.add(given.get("data-key"))
        self.links |= {given[name] for name in ("href", "action") if given.get(name)}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("site", MADE)
def test_pages_are_well_formed_and_lead_to_pages_of_the_site(site):
    found = pages(site)
    assert len(found) >= 7
    for text in found.values():
        assert Reader(text).links <= {*found, "#"}
    assert found == pages(site)


@pytest.mark.parametrize("site", MADE)
def test_scripts_name_keys_that_the_pages_have(site):
    keys = set().union(*(Reader(text).keys for text in pages(site).values()))
    for script in scripts(site):
        assert script.page in pages(site)
        for step in script.steps:
            assert set(re.findall(r'data-key="?([^\]"]+)', step.selector)) <= keys, script.name


def test_sites_differ_in_how_they_write_labels_and_buttons():
    texts = {site: "".join(pages(site).values()) for site in MADE}
    assert 0 < sum("placeholder=" in text for text in texts.values()) < len(MADE)
    assert 0 < sum("aria-label=" in text for text in texts.values()) < len(MADE)
    assert 0 < sum('type="submit" value=' in text for text in texts.values()) < len(MADE)


def test_no_recorded_page_holds_a_key_or_a_fault_of_its_description():
    for _, record in recorded():
        if record.website in MADE:
            assert all("data-key" not in a.cleaned_html and "None" not in a.cleaned_html for a in record.actions)


def test_a_site_or_a_part_that_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no pages for the site 'nowhere'"):
        pages("nowhere")
    (tmp_path / "odd.yaml").write_text(
        "{brand: Odd, labels: above, buttons: link, ids: words, menu: {index: A}, foot: [], "
        "pages: {index: [{video: x}]}}"
    )
    monkeypatch.setattr(made_pages, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=r"\['video'\] is no part; use one of heading, form"):
        pages("odd")
    (tmp_path / "odd.yaml").write_text(
        "{brand: Odd, labels: above, buttons: link, ids: words, menu: {index: A}, foot: [], "
        "pages: {index: [{form: x, to: index, button: Go, fields: [{slider: Volume}]}]}}"
    )
    with pytest.raises(DataError, match=r"\['slider'\] is no field; use one of text, area"):
        pages("odd")


def test_a_slug_is_words_and_hyphens():
    assert slug("Driver's age (years)") == "driver-s-age-years"
