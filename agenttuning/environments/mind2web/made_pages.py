"""HTML pages of the project's own small web sites, from their descriptions in `pages/*.yaml`. Pure but for reading.

A description names the brand, how the site writes its labels (`above`, `inside`, `aria` or `around` a field) and its
buttons (`button`, `input` or `link`), whether identifiers say anything (`ids: words` or `opaque`), the menu, the links
at the foot, and the parts of every page::

    pages:
      index:
        - {heading: Trains, text: Where to?}
        - {form: Find a train, to: results, button: Search, fields: [{text: From}, {select: Class, options: [A, B]}]}
        - {list: Offers, to: pay, buttons: [Choose], items: [[Night train, from 40]]}
        - {table: Fares, head: [Day, Fare], rows: [[Monday, "12"]]}
        - {links: More, items: [Lost property]}

A field is `text`, `area`, `select`, `radio` (both with `options`) or `check`. A form and a list lead to the page `to`.
Scripts find elements by `data-key`, the slug of their label; no recorded page holds it.
"""

from html import escape
from pathlib import Path
from typing import Any

import yaml

from agenttuning.errors import DataError
from agenttuning.trajectory import content_hash

FOLDER = Path(__file__).parent / "pages"
FIELDS = ("text", "area", "select", "radio", "check")
_STYLE = (
    "body { font-family: sans-serif; margin: 12px } nav a, footer a { margin-right: 14px } main { margin: 14px 0 }"
    " .item, form { border: 1px solid #ccc; margin: 8px 0; padding: 8px } .field { margin: 5px 0 }"
    " a.button, button { background: #eee; border: 1px solid #888; padding: 3px 9px; color: #000 }"
)


def pages(site: str) -> dict[str, str]:
    """Return the pages of a site by file name.

    Raises:
        DataError: the site has no description, or a part of a page or a field is none of those that the module names.
    """
    path = FOLDER / f"{site}.yaml"
    if not path.exists():
        raise DataError(f"no pages for the site {site!r}: {path} does not exist")
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {f"{name}.html": _Writer(given, site).page(parts) for name, parts in given["pages"].items()}


def slug(text: str) -> str:
    """Return the words of a text in lower case, joined by hyphens."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


class _Writer:
    """Writes one site's HTML in the site's style."""

    def __init__(self, given: dict[str, Any], site: str) -> None:
        self.given, self.site = given, site

    def page(self, parts: list[dict[str, Any]]) -> str:
        brand, links = self.given["brand"], self.given["menu"].items()
        menu = "".join(f'<a href="{page}.html"{_key(f"menu/{page}")}>{escape(text)}</a>' for page, text in links)
        foot = "".join(f'<a href="#">{escape(text)}</a>' for text in self.given["foot"])
        return (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(brand)}</title>'
            f"<style>{_STYLE}</style></head><body>"
            f"<header><a href=index.html>{escape(brand)}</a><nav>{menu}</nav></header>"
            f"<main>{''.join(map(self._part, parts))}</main><footer>{foot}</footer></body></html>"
        )

    def _part(self, part: dict[str, Any]) -> str:
        writers = {
            "heading": self._heading,
            "form": self._form,
            "list": self._list,
            "table": self._table,
            "links": self._links,
        }
        found = [kind for kind in writers if kind in part]
        if len(found) != 1:
            raise DataError(f"pages of {self.site}: {sorted(part)} is no part; use one of {', '.join(writers)}")
        return writers[found[0]](part)

    def _heading(self, part: dict[str, Any]) -> str:
        return f"<h1>{escape(part['heading'])}</h1><p>{escape(part.get('text', ''))}</p>"

    def _form(self, part: dict[str, Any]) -> str:
        fields = "".join(f'<div class="field">{self._field(field)}</div>' for field in part["fields"])
        button = self._button(part["button"], part["to"], submits=True)
        title = f"<h2>{escape(part['form'])}</h2>"
        return f'<form action="{part["to"]}.html" autocomplete="off">{title}{fields}{button}</form>'

    def _list(self, part: dict[str, Any]) -> str:
        shown = f"<h2>{escape(part['list'])}</h2>"
        for name, text in part["items"]:
            buttons = " ".join(self._button(button, part["to"]) for button in part["buttons"])
            title = f'<a href="{part["to"]}.html"{_key("title")}>{escape(name)}</a>'
            shown += f'<div class="item"><h3>{title}</h3><p>{escape(text)}</p>{buttons}</div>'
        return shown

    def _table(self, part: dict[str, Any]) -> str:
        head = "".join(f'<th><a href="#"{_key(slug(name))}>{escape(name)}</a></th>' for name in part["head"])
        rows = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in part["rows"])
        return f"<h2>{escape(part['table'])}</h2><table><tr>{head}</tr>{rows}</table>"

    def _links(self, part: dict[str, Any]) -> str:
        links = "".join(f'<li><a href="#"{_key(slug(text))}>{escape(text)}</a></li>' for text in part["items"])
        return f"<h2>{escape(part['links'])}</h2><ul>{links}</ul>"

    def _button(self, text: str, to: str, submits: bool = False) -> str:
        style, key = self.given["buttons"], _key(slug(text))
        if style == "link" or not submits:
            return f'<a class="button" role="button" href="{to}.html"{key}>{escape(text)}</a>'
        if style == "input":
            return f'<input type="submit" value="{escape(text)}"{key}>'
        return f'<button type="submit"{key}>{escape(text)}</button>'

    def _field(self, field: dict[str, Any]) -> str:
        found = [kind for kind in FIELDS if kind in field]
        if len(found) != 1:
            raise DataError(f"pages of {self.site}: {sorted(field)} is no field; use one of {', '.join(FIELDS)}")
        kind, label = found[0], field[found[0]]
        if kind == "radio":
            name = slug(label)
            shown = (
                f'<label><input type="radio" name="{name}" value="{option}"{_key(name)}>{option}</label> '
                for option in map(escape, field["options"])
            )
            return f"<p>{escape(label)}</p>{''.join(shown)}"
        number = slug(label) if self.given["ids"] == "words" else f"f{content_hash([self.site, label], 5)}"
        style = "around" if kind == "check" else self.given["labels"]
        said = {
            "inside": f' placeholder="{escape(label)}"',
            "aria": f' aria-label="{escape(label)}"',
        }.get(style, "")
        control = f'id="{number}"{said}{_key(slug(label))}'
        if kind == "select":
            options = "".join(f"<option>{escape(option)}</option>" for option in field["options"])
            control = f"<select {control}>{options}</select>"
        elif kind == "area":
            control = f"<textarea {control}></textarea>"
        else:
            secret = "password" if "password" in label.lower() else "text"
            control = f'<input type="{"checkbox" if kind == "check" else secret}" {control}>'
        if style == "above" or (style == "inside" and kind == "select"):
            return f'<label for="{number}">{escape(label)}</label> {control}'
        return f"<label>{escape(label)} {control}</label>" if style == "around" else control


def _key(text: str) -> str:
    return f' data-key="{escape(text)}"'
