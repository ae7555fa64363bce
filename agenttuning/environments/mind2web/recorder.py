"""Record tasks on real web pages: `python -m agenttuning.environments.mind2web.recorder OUT [SITE ...]`.

A headless Chromium plays the scripts of every site (see `scripts`) on its pages, served on loopback (see `sites`).
Before each action it takes a DOM snapshot (see `snapshot`), then carries the action out, and checks that a typed text
and a chosen option are really there. Requests to anywhere else are refused. OUT gets the published layout
(`train/`, `test_website/`, `test_domain/` with JSON files) and the packed `recorded.jsonl.xz`.

Recording needs npm, Chromium and the package `playwright`; playing recorded tasks needs none of them.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from agenttuning.environments.mind2web import bundle
from agenttuning.environments.mind2web.scripts import Script, ScriptStep, scripts
from agenttuning.environments.mind2web.shop_scripts import shop_scripts
from agenttuning.environments.mind2web.sites import SITES, Site, served
from agenttuning.environments.mind2web.snapshot import MARK, STYLES, Page, clean
from agenttuning.errors import AgentTuningError, ConfigurationError, DataError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator
    from playwright.sync_api import Page as Tab

FOLDERS = {"train": "train", "test": "test_website", "shifted": "test_domain"}
"""Our splits to the published folders."""
SETTLE_MS = 450
"""Wait before each snapshot: longer than what pages do after loading or scrolling, so that the same is recorded."""
ACTION_MS = 5_000
BINARIES = ("chromium", "chromium-browser", "google-chrome")
MARK_SCRIPT = """(element, [mark, click]) => {
    element.setAttribute(mark, 'own');
    if (!click) return;
    for (const label of element.labels || []) label.setAttribute(mark, 'same');
    if (element.control) element.control.setAttribute(mark, 'same');
}"""
STILL = "*, *::before, *::after { transition: none !important; animation: none !important; caret-color: transparent; }"


def chromium() -> str:
    """Return the path of an installed Chromium.

    Raises:
        ConfigurationError: there is none.
    """
    found = next(filter(None, map(shutil.which, BINARIES)), None)
    if found is None:
        raise ConfigurationError(f"recording needs one of {', '.join(BINARIES)}; install it (apt install chromium)")
    return found


@contextmanager
def browser() -> Iterator["Browser"]:
    """Start a headless browser and yield it.

    Raises:
        ConfigurationError: Chromium or playwright is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise ConfigurationError(
            "recording needs the package playwright; install it (pip install playwright)"
        ) from error
    with sync_playwright() as driver:
        # Chromium refuses its own sandbox to root; the pages are known packages and reach nothing but loopback.
        started = driver.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--force-device-scale-factor=1"]
        )
        try:
            yield started
        finally:
            started.close()


def record_site(started: "Browser", site: Site, only: Sequence[Script] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the packed record of each script of a site, its pages as texts in `actions[*].page`.

    Raises:
        DataError: a step's element is not there, or the step had not the effect it must have.
    """
    with served(site) as base:
        for script in only if only is not None else site_scripts(site):
            context = started.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
            try:
                context.route("**/*", lambda r: r.continue_() if r.request.url.startswith(base) else r.abort())
                tab = context.new_page()
                tab.goto(base + script.page, wait_until="load")
                actions, texts = [], []
                for number, step in enumerate(script.steps):
                    action, text = record_step(tab, script, number, step)
                    actions.append(action)
                    texts.append(text)
            finally:
                context.close()
            yield {
                "split": site.split, "annotation_id": _uid(script.name), "website": site.name, "domain": site.domain,
                "subdomain": site.subdomain, "confirmed_task": script.goal, "action_reprs": texts, "actions": actions,
            }  # fmt: skip


def site_scripts(site: Site) -> Iterator[Script]:
    """Yield the scripts of a site."""
    return shop_scripts(site.name) if site.is_shop else scripts(site.name)


def record_step(tab: "Tab", script: Script, number: int, step: ScriptStep) -> tuple[dict[str, Any], str]:
    """Snapshot the page, carry the step out, and return the packed action and its text.

    Raises:
        DataError: no element, or another effect than expected.
    """
    from playwright.sync_api import Error

    where = f"script {script.name}, step {number} ({step.op} {step.selector})"
    tab.wait_for_load_state("load")
    tab.add_style_tag(content=STILL)
    target = tab.locator(step.selector).locator("visible=true").first
    try:
        target.scroll_into_view_if_needed(timeout=ACTION_MS)
        tab.wait_for_timeout(SETTLE_MS)
        target.evaluate(MARK_SCRIPT, [MARK, step.op == "CLICK"])
        page = snapshot(tab)
        target.evaluate(
            "(e, mark) => document.querySelectorAll(`[${mark}]`).forEach(x => x.removeAttribute(mark))", MARK
        )
        _act(target, step)
    except Error as error:
        raise DataError(f"{where}: {error.message.splitlines()[0]}") from error
    positives = positive_ids(page, step.op)
    if not positives:
        raise DataError(f"{where}: the element is not on the recorded page")
    element = next(e for e in page.root.iter() if e.get("backend_node_id") == positives[0])
    action = {
        "action_uid": _uid(f"{script.name}-{number}"),
        "operation": {"op": step.op, "original_op": step.op, "value": step.value},
        "page": bundle.pack(page.root, page.boxes),
        "positives": positives,
    }
    shown = f"[{element.get('role') or element.tag}]  {_name(element)} -> {step.op}"
    return action, f"{shown}: {step.value}" if step.value else shown


def snapshot(tab: "Tab") -> Page:
    """Return the page of a tab as it is now."""
    session = tab.context.new_cdp_session(tab)
    try:
        return clean(session.send("DOMSnapshot.captureSnapshot", {"computedStyles": STYLES, "includeDOMRects": True}))
    finally:
        session.detach()


def positive_ids(page: Page, op: str) -> list[str]:
    """Return the ids of the right candidates, the script's own element first.

    Clicking what is inside a link or a button clicks it too, so for CLICK the candidates inside count as well.
    """
    found = [number for number in page.targets if number in page.boxes]
    if op == "CLICK":
        for element in page.root.iter():
            if element.get("backend_node_id") in page.targets:
                found += [
                    str(e.get("backend_node_id")) for e in element.iter() if e.get("backend_node_id") in page.boxes
                ]
    return list(dict.fromkeys(found))


def _act(target: "Locator", step: ScriptStep) -> None:
    if step.op == "CLICK":
        target.click(timeout=ACTION_MS)
    elif step.op == "TYPE":
        target.fill(step.value, timeout=ACTION_MS)
        if (found := target.input_value()) != step.value:
            raise DataError(f"{step.selector} holds {found!r} after typing {step.value!r}")
    else:
        target.select_option(label=step.value, timeout=ACTION_MS)
        found = target.evaluate("e => e.options ? e.options[e.selectedIndex].text : ''")
        if found.strip() != step.value:
            raise DataError(f"{step.selector} shows {found!r} after choosing {step.value!r}")


def _name(element: Element) -> str:
    own = " ".join(text.text or "" for text in element.iter("text")) if element.tag != "select" else ""
    given = (element.get(key) for key in ("aria_label", "placeholder", "title", "label", "value", "name", "id"))
    return (own or next(filter(None, given), "")).strip()[:60]


def _uid(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write(records: list[dict[str, Any]], out: Path) -> Path:
    """Write the published layout and the packed file below `out`; return the path of the packed file."""
    pages: dict[str, int] = {}
    for record in records:
        for action in record["actions"]:
            action["page"] = pages.setdefault(action["page"], len(pages))
    data = bundle.dump(records, list(pages))
    out.mkdir(parents=True, exist_ok=True)
    path = out / bundle.FILE
    path.write_bytes(data)
    found: dict[str, list[Any]] = {}
    for split, unpacked in bundle.unpack(data):
        found.setdefault(FOLDERS[split], []).append(unpacked.model_dump(mode="json"))
    for folder, items in found.items():
        (out / folder).mkdir(exist_ok=True)
        (out / folder / f"{folder}_0.json").write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return path


def main(arguments: Sequence[str]) -> int:
    """Record all sites, or those named, below the folder `arguments[0]`."""
    known = {site.name: site for site in SITES}
    if not arguments or any(name not in known for name in arguments[1:]):
        print(f"usage: recorder OUT [SITE ...]; sites: {', '.join(known)}", file=sys.stderr)
        return 2
    records: list[dict[str, Any]] = []
    started_at = time.monotonic()
    try:
        with browser() as started:
            for name in arguments[1:] or known:
                records += record_site(started, known[name])
        path = write(records, Path(arguments[0]))
    except AgentTuningError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    steps = sum(len(record["actions"]) for record in records)
    seconds = time.monotonic() - started_at
    print(
        f"{len(records)} tasks, {steps} steps, {path.stat().st_size:,} bytes packed, "
        f"{seconds:.0f} s ({seconds / max(steps, 1):.2f} s a step)"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
