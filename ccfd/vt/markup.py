"""How XML comes in and goes out.

Built as a tree, never by joining strings; read from libvirt only, whose parser is the stricter.
"""

import xml.etree.ElementTree as ET


def element(tag: str, text: str | None = None, /, **attributes: str | int) -> ET.Element:
    """Make an element; attributes are written in the order given."""
    made = ET.Element(tag, {name: str(value) for name, value in attributes.items()})
    made.text = text
    return made


def add(parent: ET.Element, tag: str, text: str | None = None, /, **at: str | int) -> ET.Element:
    """Make an element at the end of *parent*."""
    made = element(tag, text, **at)
    parent.append(made)
    return made


def render(tree: ET.Element) -> str:
    """Write *tree* as indented XML."""
    ET.indent(tree)
    return ET.tostring(tree, encoding="unicode")


def parse(text: str) -> ET.Element:
    """Read XML that libvirt wrote."""
    return ET.fromstring(text)  # noqa: S314 - libvirt's own output holds no entities
