"""XMP, the metadata of photos in files beside them: sets a property, all else kept.

Properties are those of Dublin Core: `description` and `title` are texts by language, of
which this sets the default one; `subject` is a bag of tags, to which it adds.
"""

import io
import re
from collections.abc import Iterator
from typing import Any, Literal
from xml.dom import minidom
from xml.etree import ElementTree
from xml.parsers import expat

from fastvlm_mlx.errors import OptionError, quoted

Field = Literal["description", "subject", "title"]

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
XML = "http://www.w3.org/XML/1998/namespace"

LARGEST = 64 * 2**20  # bytes; whole histories of edits have some
DEEPEST = 100  # elements in elements

_NEW = f"""<?xpacket begin="\N{BYTE ORDER MARK}" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="fastvlm-mlx">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="" xmlns:dc="{DC}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""

# What XML cannot hold, and what stands for these below.
_NO_TEXT = re.compile(
    "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\ufdd0-\ufdd2]"
)
# minidom of Python 3.11 writes these as they are, and a parser reads blanks for them.
_MARKS = {"\t": "\ufdd0", "\n": "\ufdd1", "\r": "\ufdd2"}
_REFERENCES = {"\ufdd0": "&#9;", "\ufdd1": "&#10;", "\ufdd2": "&#13;"}


class Packet:
    """What an XMP file holds.

    Args:
        data: the file's bytes; None is a new one.
    Raises:
        OptionError: it is no XMP, or none that can be written again without loss.
    """

    def __init__(self, data: bytes | None = None):
        data = _NEW.encode() if data is None else data
        parsed = _parsed(data)
        self._declared = parsed.version is not None
        again = _written(parsed, self._declared)
        if _canonical(data) != _canonical(again):
            raise OptionError("cannot be written again without loss")
        self._document = _parsed(again)
        root = self._document.documentElement
        places = [root, *_elements(root)] if root is not None else []
        found = [node for node in places if _is(node, RDF, "RDF")]
        if not found:
            raise OptionError("holds no XMP")
        self._rdf = found[0]

    def values(self, field: Field) -> list[str]:
        """The tags, or the text in each language, that a property has."""
        found: list[str] = []
        for place in self._descriptions():
            found.append(place.getAttributeNS(DC, field))
            for node in _elements(place, DC, field):
                items = _items(node)
                found += [_text(each) for each in items or [node]]
        return [text for text in found if text.strip()]

    def default(self, field: Field) -> str | None:
        """The text of a property in the default language."""
        for place in self._descriptions():
            for node in _elements(place, DC, field):
                for item in _items(node):
                    if item.getAttributeNS(XML, "lang") == "x-default":
                        return _text(item)
        return None

    def set(self, field: Field, value: str | list[str]) -> None:
        """Sets the default text of a property, or adds the tags that it has not."""
        place, node = self._property(field)
        container = _container(node)
        if container is None:
            plain = [
                text for text in (place.getAttributeNS(DC, field), _text(node)) if text
            ]
            for child in list(node.childNodes):
                node.removeChild(child)
            for name in list(dict(node.attributes.items())):
                if not name.startswith("xmlns"):
                    node.removeAttribute(name)
            kind = "Bag" if field == "subject" else "Alt"
            container = self._added(node, RDF, kind)
            if field == "subject":
                self._add_tags(container, plain)
        if place.hasAttributeNS(DC, field):
            place.removeAttributeNS(DC, field)
        if isinstance(value, list):
            self._add_tags(container, value)
        else:
            self._set_default(container, value)

    def data(self) -> bytes:
        """The file's bytes; the packet is not to be used after."""
        return _written(self._document, self._declared)

    def _descriptions(self) -> list[minidom.Element]:
        return _elements(self._rdf, RDF, "Description")

    def _property(self, field: Field) -> tuple[minidom.Element, minidom.Element]:
        """A property and the description that it is in; made if it is not there."""
        places = self._descriptions() or [self._description()]
        for place in places:
            for node in _elements(place, DC, field):
                return place, node
        # Some readers want one prefix for a namespace in the whole file.
        ready = [place for place in places if _prefix(place, DC) is not None]
        place = next(
            (place for place in ready if place.hasAttributeNS(DC, field)),
            (ready or places)[0],
        )
        return place, self._added(place, DC, field)

    def _description(self) -> minidom.Element:
        node = self._added(self._rdf, RDF, "Description")
        node.setAttributeNS(RDF, f"{node.prefix}:about", "")
        return node

    def _add_tags(self, bag: minidom.Element, tags: list[str]):
        there = {_text(item).casefold() for item in _elements(bag, RDF, "li")}
        for tag in map(_clean, tags):
            if tag.casefold() not in there:
                self._added(bag, RDF, "li", tag)
                there.add(tag.casefold())

    def _set_default(self, alternatives: minidom.Element, text: str):
        for item in _elements(alternatives, RDF, "li"):
            if item.getAttributeNS(XML, "lang") == "x-default":
                alternatives.removeChild(item)
        item = self._added(alternatives, RDF, "li", _clean(text))
        item.setAttributeNS(XML, "xml:lang", "x-default")
        # Readers take the first one for the default.
        first = alternatives.firstChild
        if first is not item:
            alternatives.insertBefore(item, first)

    def _added(
        self, parent: Any, namespace: str, name: str, text: str = ""
    ) -> minidom.Element:
        bound = _prefix(parent, namespace)
        prefix = bound or ("rdf" if namespace == RDF else "dc")
        node = self._document.createElementNS(namespace, f"{prefix}:{name}")
        if bound is None:
            node.setAttribute(f"xmlns:{prefix}", namespace)
        if text:
            node.appendChild(self._document.createTextNode(text))
        parent.appendChild(node)
        return node


def _parsed(data: bytes) -> Any:
    if len(data) > LARGEST:
        raise OptionError(f"has more than {LARGEST >> 20} MB")
    depth = 0

    def start(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise OptionError(f"has elements in each other, more than {DEEPEST} deep")

    def end(*_: object) -> None:
        nonlocal depth
        depth -= 1

    def doctype(*_: object) -> None:
        # Where entities are defined: XMP has none, and a kilobyte of them is gigabytes.
        raise OptionError("has a document type, which XMP never has")

    try:
        parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = start, end
        parser.StartDoctypeDeclHandler = doctype
        parser.Parse(data, True)
        return minidom.parseString(data)
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"is no XML ({quoted(error)})") from None


def _written(document: Any, declared: bool) -> bytes:
    """The bytes of a document; this marks letters in it, of which it is spoiled."""
    waiting = [document]
    while waiting:
        node = waiting.pop()
        waiting += node.childNodes
        if node.nodeType == node.TEXT_NODE:
            node.data = node.data.replace("\r", _MARKS["\r"])
        elif node.nodeType == node.ELEMENT_NODE:
            for attribute in node.attributes.values():
                value = attribute.value
                for letter, mark in _MARKS.items():
                    value = value.replace(letter, mark)
                if value != attribute.value:
                    attribute.value = value
    nodes = [node.toxml() for node in document.childNodes]
    if declared:
        nodes.insert(0, '<?xml version="1.0" encoding="UTF-8"?>')
    text = "\n".join(nodes) + "\n"
    for mark, reference in _REFERENCES.items():
        text = text.replace(mark, reference)
    return text.encode()


def _canonical(data: bytes) -> str:
    """One text for all ways to write the same XML, comments included."""
    return ElementTree.canonicalize(from_file=io.BytesIO(data), with_comments=True)


def _clean(text: str) -> str:
    return _NO_TEXT.sub("", text)


def _is(node: Any, namespace: str, name: str) -> bool:
    return node.namespaceURI == namespace and node.localName == name


def _elements(
    node: Any, namespace: str | None = None, name: str | None = None
) -> list[minidom.Element]:
    """The elements in a node, of one name or all."""
    return [
        child
        for child in node.childNodes
        if child.nodeType == child.ELEMENT_NODE
        and (name is None or _is(child, namespace or "", name))
    ]


def _container(node: Any) -> minidom.Element | None:
    """The bag, list or alternatives that a property is."""
    for child in _elements(node):
        if child.namespaceURI == RDF and child.localName in ("Alt", "Bag", "Seq"):
            return child
    return None


def _items(node: Any) -> list[minidom.Element]:
    container = _container(node)
    return [] if container is None else _elements(container, RDF, "li")


def _text(node: Any) -> str:
    return "".join(_texts(node))


def _texts(node: Any) -> Iterator[str]:
    for child in node.childNodes:
        if child.nodeType in (child.TEXT_NODE, child.CDATA_SECTION_NODE):
            yield child.data
        elif child.nodeType == child.ELEMENT_NODE:
            yield from _texts(child)


def _prefix(node: Any, namespace: str) -> str | None:
    """A prefix that stands for a namespace within `node`."""
    taken: set[str] = set()
    while node is not None and node.nodeType == node.ELEMENT_NODE:
        for name, value in node.attributes.items():
            start, _, prefix = name.partition(":")
            if start == "xmlns" and prefix and prefix not in taken:
                if value == namespace:
                    return prefix
                taken.add(prefix)
        node = node.parentNode
    return None
