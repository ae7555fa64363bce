from xml.etree.ElementTree import Element, tostring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.mind2web import dom
from agenttuning.environments.mind2web.bundle import candidates, numbered, pack
from agenttuning.errors import DataError

FORM = numbered(
    '<html><div><div><label box="1,1,9,9"><text>Last name</text></label>'
    '<input box="1,1,9,9" type="text" placeholder="Enter it" input_value="Moss" class="x" />'
    '<select box="1,1,9,9"><option option_selected="true"><text>No</text></option>'
    "<option><text>Yes</text></option></select>"
    "</div></div><div /></html>"
)


@st.composite
def pages(draw):
    """A tree of up to 60 elements, each hung below an earlier one."""
    elements = [Element("html")]
    for number in range(draw(st.integers(1, 60))):
        parent = elements[draw(st.integers(0, len(elements) - 1))]
        element = Element(draw(st.sampled_from(["div", "a", "select", "button", "text"])))
        parent.append(element)
        if element.tag == "text":
            element.text = f"word {number}"
        else:
            elements.append(element)
    for number, element in enumerate(elements[0].iter(), 1):
        element.set("backend_node_id", str(number))
    return elements[0]


@given(pages(), st.data())
def test_pruning_a_pruned_page_gives_the_same(page, data):
    ids = [element.get("backend_node_id") for element in page.iter()]
    many = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=10, unique=True))
    few = data.draw(st.lists(st.sampled_from(many), min_size=1, max_size=5, unique=True))
    direct, twice = dom.prune(page, few), dom.prune(dom.prune(page, many), few)
    assert tostring(direct) == tostring(twice)
    assert set(few) <= set(dom.by_id(direct))


@given(pages(), st.data())
def test_every_choice_is_in_the_rendered_page(page, data):
    ids = [element.get("backend_node_id") for element in page.iter() if element.tag != "text"]
    few = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=5, unique=True))
    html = dom.render(dom.prune(page, few), {number: place for place, number in enumerate(few)})
    assert all(f"id={place}" in html for place in range(len(few)))


def test_rendering_shows_words_values_and_numbers():
    ids = [e.get("backend_node_id") for e in FORM.iter() if e.tag in {"label", "input"}]
    html = dom.render(dom.prune(FORM, ids), {ids[1]: 0})
    assert html == (
        "<html> <div> Last name <input id=0 text Enter it Moss /> "
        "<select> <option selected> No </option> <option> Yes </option> </select> </div> </html>"
    ).replace("<div> Last name", "<div> <label> Last name </label>")


def test_a_choice_is_short():
    element = numbered(f"<a><text>{'word ' * 40}</text></a>")
    assert dom.choice_text(element, 3) == f"<a id=3> {' '.join(['word'] * 10)}… </a>"


def test_a_page_that_is_not_well_formed_is_refused():
    with pytest.raises(DataError, match=r"x: cleaned_html is not well-formed"):
        dom.parse("<html><div></html>", "x")
    with pytest.raises(DataError, match="no backend_node_id"):
        dom.parse("<html />", "x")


def test_packing_keeps_boxes_and_numbers():
    page = numbered('<html><a box="1,2,3,4" role="tab"><text>Go</text></a></html>')
    found = candidates(page)
    assert list(found) == ["2"]
    assert '"bounding_box_rect": "1,2,3,4"' in found["2"].attributes
    again = numbered(pack(page, {"2": "1,2,3,4"}))
    assert candidates(again) == found
    assert tostring(again) == tostring(page)
