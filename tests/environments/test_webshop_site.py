import re
from html import unescape
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from agenttuning.environments.webshop.generator import generated_catalogue
from agenttuning.environments.webshop.site import serve
from agenttuning.errors import InfrastructureError


def get(site, path):
    with urlopen(site.url + path, timeout=10) as reply:
        return unescape(reply.read().decode())


def link(written, identifier):
    return re.search(rf'id="{re.escape(identifier)}" href="([^"]*)"', written)[1]


def option_form(written, name):
    """Return action and hidden fields of the form that holds an option's radio buttons."""
    form = next(
        form for form in re.findall(r'<form class="option".*?</form>', written, re.S) if f"<legend>{name}<" in form
    )
    hidden = re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', form)
    return re.search(r'action="([^"]*)"', form)[1], hidden


def test_a_purchase_by_plain_requests():
    catalogue = generated_catalogue("test")
    with serve(catalogue, instruction="buy <tea>") as site:
        start = get(site, "/")
        assert '<form id="search-form" action="/search" method="get">' in start
        assert "Instruction: buy <tea>" in start
        results = get(site, "/search?" + urlencode({"q": "Green TEA"}))
        results = get(site, link(results, "next"))
        asin = re.search(r'id="product-(\w+)"', results)[1]
        item = get(site, link(results, f"product-{asin}"))
        assert catalogue[asin].name in item
        chosen = {}
        for name, values in catalogue[asin].options.items():
            action, hidden = option_form(item, name)
            item = get(site, f"{action}?{urlencode([*hidden, ('option.' + name, values[-1])])}")
            chosen[name] = values[-1]
        assert len(re.findall(r" checked>", item)) == len(chosen)
        features = get(site, link(item, "features"))
        assert catalogue[asin].bullets[0] in features
        assert get(site, link(features, "prev")) == item
        assert not site.orders
        action = re.search(r'id="buy-form" action="([^"]*)"', item)[1]
        with urlopen(Request(site.url + action, data=b"", method="POST"), timeout=10) as reply:
            assert "Your order is placed." in reply.read().decode()
        assert [(order.asin, dict(order.chosen)) for order in site.orders] == [(asin, chosen)]


def test_wrong_addresses_are_not_found_and_buy_nothing():
    with serve(generated_catalogue("test")) as site:
        for path, data in (("/nowhere", None), ("/item/B0", None), ("/", b""), ("/search?q=tea", b"")):
            with pytest.raises(HTTPError, match="404"):
                urlopen(Request(site.url + path, data=data), timeout=10)
        assert not site.orders


def test_two_sites_run_side_by_side_and_a_taken_port_is_named():
    with serve(generated_catalogue("test")) as one, serve(generated_catalogue("shifted")) as two:
        assert one.url != two.url
        assert get(one, "/search?q=hammock") != get(two, "/search?q=hammock")
        port = int(one.url.rsplit(":", 1)[1])
        with (
            pytest.raises(InfrastructureError, match=f"port {port} cannot be opened"),
            serve(generated_catalogue("test"), port),
        ):
            pass
    with pytest.raises(OSError, match="refused"):
        urlopen(one.url, timeout=2)
