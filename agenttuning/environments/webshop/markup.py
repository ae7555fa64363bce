"""A page as HTML: links for what leads on, a form for the search, radio buttons for options, a button to buy."""

from html import escape

from agenttuning.environments.webshop.addresses import OPTION, address, fields
from agenttuning.environments.webshop.shop import BUY, SEARCH, Button, Choice, Hit, Page, Part, SearchBox, State, Words

_FRAME = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>
body {{ font-family: sans-serif; margin: 2em auto; max-width: 60em }}
a.button, button {{ background: #eee; border: 1px solid #888; border-radius: 4px; color: #000; padding: 4px 10px }}
a.button {{ display: inline-block; margin: 2px; text-decoration: none }}
fieldset {{ display: inline-block; margin: 6px 0 }} .hit {{ border-top: 1px solid #ccc; padding: 6px 0 }}
</style></head>
<body><header><a id="home" href="/">WebShop</a></header>
{instruction}<main id="{kind}">
{body}
</main></body></html>
"""
_ROLES = {"heading": "h1", "title": "h2", "price": "p", "rating": "p", "text": "p"}


def html(page: Page, instruction: str | None = None) -> str:
    """Return a page as an HTML document; the instruction is shown above it where there is one."""
    shown = f'<p id="instruction">Instruction: {escape(instruction)}</p>\n' if instruction else ""
    body = "\n".join(_element(part, page) for part in page.parts)
    kind = page.state.sub_page or page.state.page
    return _FRAME.format(title=escape(_title(page)), instruction=shown, kind=kind, body=body)


def _element(part: Part, page: Page) -> str:
    match part:
        case Words(text=text, role=role):
            tag = _ROLES[role]
            return f'<{tag} class="{role}">{escape(text)}</{tag}>'
        case SearchBox():
            return (
                '<form id="search-form" action="/search" method="get"><input id="search-box" type="search" name="q" '
                f'placeholder="Search for products" required><button id="search-button">{SEARCH}</button></form>'
            )
        case Button(label=label, to=to) if label == BUY:
            return (
                f'<form id="buy-form" action="{escape(address(to))}" method="post">'
                f'<button id="buy-now">{escape(label)}</button></form>'
            )
        case Button(label=label, to=to):
            return f'<a class="button" id="{_identifier(label)}" href="{escape(address(to))}">{escape(label)}</a>'
        case Hit(product=product, to=to):
            return (
                f'<div class="hit"><a class="product" id="product-{escape(product.asin)}" href="{escape(address(to))}">'
                f'{escape(product.asin)}</a><p class="title">{escape(product.name)}</p>'
                f'<p class="price">{escape(product.tag)}</p></div>'
            )
        case Choice():
            return _choice(part, page.state)


def _choice(choice: Choice, state: State) -> str:
    """Return an option as a form of its own, which is sent when a value is chosen and keeps what else is chosen."""
    kept = [(name, value) for name, value in fields(state) if name != OPTION + choice.name]
    hidden = "".join(f'<input type="hidden" name="{escape(n)}" value="{escape(v)}">' for n, v in kept)
    name = escape(OPTION + choice.name)
    radios = "".join(
        f'<label><input type="radio" id="{_identifier(choice.name)}-{place}" name="{name}" value="{escape(value)}"'
        f' onchange="this.form.submit()"{" checked" if value == choice.chosen else ""}> {escape(value)}</label> '
        for place, (value, _) in enumerate(choice.values, start=1)
    )
    return (
        f'<form class="option" action="/item/{escape(state.asin)}" method="get">{hidden}<fieldset>'
        f"<legend>{escape(choice.name)}</legend>{radios}<noscript><button>Choose</button></noscript></fieldset></form>"
    )


def _identifier(label: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in label.lower()).split())


def _title(page: Page) -> str:
    words = next((part.text for part in page.parts if isinstance(part, Words)), "WebShop")
    return words if words == "WebShop" else f"{words} - WebShop"
