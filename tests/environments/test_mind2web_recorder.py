import copy
import shutil
import tarfile
import urllib.error
import urllib.request
from importlib.util import find_spec
from xml.etree.ElementTree import tostring

import pytest

from agenttuning.environments.mind2web import recorder, sites
from agenttuning.environments.mind2web.bundle import unpack
from agenttuning.environments.mind2web.records import load
from agenttuning.environments.mind2web.scripts import Script, ScriptStep, _step, scripts
from agenttuning.environments.mind2web.shop_scripts import COUNT, shop_scripts
from agenttuning.environments.mind2web.sites import SITES, Site
from agenttuning.environments.mind2web.snapshot import MARK, Page, clean
from agenttuning.errors import ConfigurationError, DataError, InfrastructureError


def needs_browser(test):
    """Mark what starts Chromium; skip it where there is none."""
    marks = (
        pytest.mark.browser,
        pytest.mark.skipif(
            not any(map(shutil.which, recorder.BINARIES)), reason="needs Chromium (apt install chromium)"
        ),
        pytest.mark.skipif(find_spec("playwright") is None, reason="needs playwright (pip install playwright)"),
    )
    for mark in marks:
        test = mark(test)
    return test


PAGE = """<!doctype html><html><head><title>Form</title>
<style>.gone { display: none } .faded { opacity: 0 }</style></head>
<body><script>let secret = 1</script><p class=gone>Never shown</p><div class=faded><a href=x>Faded link</a></div>
<form onsubmit="return false"><label for=name>Name</label><input id=name placeholder="Your name">
<label for=size>Size</label><select id=size><option>Small</option><option>Large</option></select>
<label for=agree>I agree</label><input id=agree type=checkbox>
<button id=send onclick="document.title='Sent'"><b>Send it</b></button></form>
<svg width=9 height=9><path d="M0 0h9"/></svg></body></html>"""
STEPS = (
    ScriptStep("TYPE", "#name", "Vera"),
    ScriptStep("SELECT", "#size", "Large"),
    ScriptStep("CLICK", "#agree", ""),
    ScriptStep("CLICK", "#send", ""),
)
SCRIPT = Script("local-0-0", "Send the form for Vera.", "form.html", STEPS)


def snapshot(nodes):
    """The reply of DOMSnapshot for nodes (type, name, value, parent, attributes, box, visibility, opacity)."""
    strings = []

    def place(text):
        if text not in strings:
            strings.append(text)
        return strings.index(text)

    shown = [i for i, node in enumerate(nodes) if node[5]]
    rare = {"index": [], "value": []}
    return {
        "documents": [
            {
                "nodes": {
                    "parentIndex": [node[3] for node in nodes],
                    "nodeType": [node[0] for node in nodes],
                    "nodeName": [place(node[1]) for node in nodes],
                    "nodeValue": [place(node[2]) for node in nodes],
                    "attributes": [[place(text) for pair in node[4].items() for text in pair] for node in nodes],
                    "isClickable": {"index": [i for i, node in enumerate(nodes) if node[1] == "A"]},
                    "inputChecked": {"index": []},
                    "optionSelected": {"index": []},
                    "inputValue": rare,
                    "textValue": rare,
                },
                "layout": {
                    "nodeIndex": shown,
                    "bounds": [nodes[i][5] for i in shown],
                    "styles": [[place(nodes[i][6]), place(nodes[i][7])] for i in shown],
                },
            }
        ],
        "strings": strings,
    }


BOX = [5.4, 6, 20, 10]
NODES = [
    (9, "#document", "", -1, {}, [0, 0, 99, 99], "visible", "1"),
    (10, "html", "", 0, {}, None, "", ""),
    (1, "HTML", "", 0, {}, [0, 0, 99, 99], "visible", "1"),
    (1, "BODY", "", 2, {}, [0, 0, 99, 99], "visible", "1"),
    (1, "A", "", 3, {"href": "/x", MARK: "same", "onclick": "y"}, BOX, "visible", "1"),
    (3, "#text", " Go\n on ", 4, {}, BOX, "visible", "1"),
    (1, "A", "", 3, {MARK: "own"}, BOX, "visible", "1"),
    (1, "P", "", 3, {}, BOX, "hidden", "1"),
    (3, "#text", "Hidden", 7, {}, BOX, "hidden", "1"),
    (1, "SCRIPT", "", 3, {}, None, "", ""),
    (1, "DIV", "", 3, {}, BOX, "visible", "0"),
    (3, "#text", "Faded", 10, {}, BOX, "visible", "1"),
]


def test_a_snapshot_is_reduced_to_what_is_visible():
    page = clean(snapshot(NODES))
    assert tostring(page.root, encoding="unicode") == (
        '<html backend_node_id="1"><body backend_node_id="2"><a href="/x" is_clickable="true" backend_node_id="3">'
        '<text backend_node_id="4">Go on</text></a><a is_clickable="true" backend_node_id="5" /></body></html>'
    )
    assert page.boxes == {"3": "5,6,20,10", "5": "5,6,20,10"}
    assert page.targets == ("5", "3")


def test_clicking_what_is_inside_counts_and_typing_there_does_not():
    page = clean(
        snapshot([*NODES, (1, "B", "", 4, {}, BOX, "visible", "1"), (3, "#text", "!", 12, {}, BOX, "visible", "1")])
    )
    inner = next(e.get("backend_node_id") for e in page.root.iter("b"))
    both = Page(page.root, page.boxes, page.targets)
    assert inner in recorder.positive_ids(both, "CLICK")
    assert inner not in recorder.positive_ids(both, "TYPE")
    assert recorder.positive_ids(both, "CLICK")[0] == page.targets[0]


def test_scripts_of_every_site_are_well_formed():
    names = [script.name for site in SITES for script in recorder.site_scripts(site)]
    assert len(names) == len(set(names))
    for site in SITES:
        found = list(recorder.site_scripts(site))
        assert len({script.goal for script in found}) == len(found)
        for script in found:
            assert len(script.steps) >= 2
            assert "{" not in script.goal
            assert all(step.value.lower() in script.goal.lower() for step in script.steps), script.name


def test_the_shop_sells_what_its_scripts_buy():
    found = list(shop_scripts("webshop"))
    assert len(found) == COUNT
    assert found == list(shop_scripts("webshop"))


@pytest.mark.parametrize("text", ["PRESS #x", "TYPE #x", "CLICK #x <- y", "CLICK "])
def test_a_step_of_another_form_is_refused(text):
    with pytest.raises(ValueError, match="is no step"):
        _step(text)


def test_a_site_without_scripts_is_refused():
    with pytest.raises(DataError, match="no scripts for the site 'nowhere'"):
        next(scripts("nowhere"))


def test_pages_and_mounted_libraries_are_served(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "library" / "dist").mkdir(parents=True)
    (tmp_path / "site" / "a.html").write_text("page")
    (tmp_path / "library" / "dist" / "b.js").write_text("script")
    (tmp_path / "secret").write_text("no")
    monkeypatch.setattr(sites, "fetch", lambda package: tmp_path / package)
    with sites.served(Site("local", "train", "d", "s", "site", mounts={"lib/b": ("library", "dist")})) as base:

        def get(path, data=None):
            return urllib.request.urlopen(base + path, data=data, timeout=5).read().decode()

        assert get("a.html?x=1") == "page"
        assert get("lib/b/b.js") == "script"
        assert get("a.html", data=b"x=1") == "page"
        for outside in ("../secret", "lib/b/../../secret", "%2e%2e/secret"):
            with pytest.raises(urllib.error.HTTPError):
                get(outside)


def test_a_package_that_cannot_be_fetched_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTTUNING_CACHE", str(tmp_path))
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "npm").write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    with pytest.raises(InfrastructureError, match=r"npm pack nothing@1\.0\.0 failed: no such package"):
        sites.fetch("nothing@1.0.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="needs npm"):
        sites.fetch("nothing@1.0.0")
    with pytest.raises(ConfigurationError, match="needs one of chromium"):
        recorder.chromium()


def test_a_half_unpacked_package_is_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTTUNING_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "pages.tgz", "w:gz") as tar:
        for name in ("package.json", "b.html"):
            (tmp_path / name).write_text(name)
            tar.add(tmp_path / name, f"package/{name}")
    (npm := tmp_path / "bin" / "npm").parent.mkdir()
    npm.write_text(f'#!/bin/sh\nfor folder; do :; done\ncp {tmp_path}/pages.tgz "$folder"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/bin:/usr/bin")

    def extract(self, member, *given, **more):
        if member.name == "b.html":
            raise OSError("disk full")
        return whole(self, member, *given, **more)

    whole = tarfile.TarFile.extract
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", extract)
        with pytest.raises(OSError, match="disk full"):
            sites.fetch("pages@1.0.0")
    folder = sites.fetch("pages@1.0.0")
    assert {path.name for path in folder.iterdir()} == {"package.json", "b.html"}
    assert list(folder.parent.iterdir()) == [folder]
    npm.write_text("#!/bin/sh\nexit 1\n")
    assert sites.fetch("pages@1.0.0") == folder


def test_unknown_sites_are_a_usage_error(capsys):
    assert recorder.main(["out", "nowhere"]) == 2
    assert "sites: gentelella" in capsys.readouterr().err


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "form.html").write_text(PAGE)
    site = Site("local", "test", "Office", "Forms", "local@1.0.0")
    with pytest.MonkeyPatch.context() as patch, recorder.browser() as started:
        patch.setattr(sites, "fetch", lambda package: folder)
        twice = [list(recorder.record_site(started, site, [SCRIPT])) for _ in range(2)]
        lost = Script("local-1-0", "Press it.", "form.html", (ScriptStep("CLICK", "#nothing", ""),))
        patch.setattr(recorder, "ACTION_MS", 300)
        with pytest.raises(DataError, match=r"script local-1-0, step 0 \(CLICK #nothing\)"):
            list(recorder.record_site(started, site, [lost]))
    return twice


@needs_browser
def test_recording_twice_gives_the_same(recorded):
    assert recorded[0] == recorded[1]


@needs_browser
def test_what_is_recorded_is_in_the_published_form(recorded, tmp_path):
    recorder.write(copy.deepcopy(recorded[0]), tmp_path)
    (item,) = load(tmp_path, "test_website")
    assert [(split, found) for split, found in unpack((tmp_path / "recorded.jsonl.xz").read_bytes())] == [
        ("test", item)
    ]
    assert item.action_reprs == (
        "[input]  Your name -> TYPE: Vera",
        "[select]  size -> SELECT: Large",
        "[input]  agree -> CLICK",
        "[button]  Send it -> CLICK",
    )
    first, second, third, last = item.actions
    assert "Never shown" not in first.cleaned_html
    assert "Faded" not in first.cleaned_html
    assert "secret" not in first.cleaned_html
    assert 'input_value="Vera"' in second.cleaned_html
    assert third.cleaned_html.index("option_selected") > third.cleaned_html.index("Small")
    assert [c.tag for c in third.pos_candidates] == ["input", "label"]
    assert [c.tag for c in last.pos_candidates] == ["button", "b"]
    assert last.pos_candidates[0].is_original_target
    assert not last.pos_candidates[1].is_original_target
