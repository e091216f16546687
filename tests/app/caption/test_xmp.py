"""XMP files: what a maintained reader finds in them, and that nothing else changes."""

from pathlib import Path
from xml.etree import ElementTree

import pyexiv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm_mlx.app.caption.xmp import DC, RDF, Packet
from fastvlm_mlx.errors import OptionError

# As darktable 4 writes it: history in attributes and lists, tags, a German title.
DARKTABLE = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about=""
    xmlns:exif="http://ns.adobe.com/exif/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:dc="{DC}"
    xmlns:darktable="http://darktable.sf.net/"
   exif:DateTimeOriginal="2024:05:01 10:11:12"
   xmp:Rating="4"
   darktable:history_end="2"
   darktable:note="two&#10;lines &lt;&quot;&gt;&#9;">
   <dc:title>
    <rdf:Alt>
     <rdf:li xml:lang="de">Ein Hund</rdf:li>
    </rdf:Alt>
   </dc:title>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>Family</rdf:li>
     <rdf:li>dog</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <darktable:history>
    <rdf:Seq>
     <rdf:li
      darktable:num="0"
      darktable:operation="exposure"
      darktable:params="gz02eJxjYGBgkGAAgRNODESDBnsIHll8ANNSGQM="/>
    </rdf:Seq>
   </darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""

# As Lightroom writes it: no XML declaration, wrapper, comment, several descriptions.
LIGHTROOM = f"""<?xpacket begin="\N{BYTE ORDER MARK}" id="W5M0MpCehiHzreSzNTczkc9d"?>
<!-- not ours -->
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="" xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
    crs:Exposure2012="+0.35" crs:ToneCurve="a&#13;b"/>
  <rdf:Description rdf:about="" xmlns:p="{DC}">
   <p:description><rdf:Alt><rdf:li xml:lang="x-default">Old</rdf:li>
    <rdf:li xml:lang="fr">Vieux</rdf:li></rdf:Alt></p:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
TEXTS = ["A cat.", "naïve ☃ 🐈", 'a <b> & "c" \' ]]>', "two\nlines", "x" * 20_000]


def read(path: Path) -> dict:
    """What exiv2 reads."""
    image = pyexiv2.Image(str(path))
    try:
        return image.read_xmp()
    finally:
        image.close()


def write(path: Path, data: bytes | str | None, **values: str | list[str]) -> None:
    packet = Packet(data.encode() if isinstance(data, str) else data)
    for field, value in values.items():
        packet.set(field, value)  # type: ignore[arg-type]
    path.write_bytes(packet.data())


def rest(data: bytes) -> str:
    """All of a file but the three properties, in one form."""
    tree = ElementTree.fromstring(data, ElementTree.XMLParser())
    for place in tree.iter(f"{{{RDF}}}Description"):
        for name in ("description", "title", "subject"):
            for node in place.findall(f"{{{DC}}}{name}"):
                place.remove(node)
    return ElementTree.canonicalize(
        ElementTree.tostring(tree, encoding="unicode"), strip_text=True
    )


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:12])
def test_exiv2_reads_what_was_written(text, tmp_path):
    path = tmp_path / "cat.jpg.xmp"
    tags = ["cat", "naïve ☃", "black & white"]
    write(path, None, description=text, subject=tags, title=f"T {text}")
    assert read(path) == {
        "Xmp.dc.description": {'lang="x-default"': text},
        "Xmp.dc.subject": tags,
        "Xmp.dc.title": {'lang="x-default"': f"T {text}"},
    }


@pytest.mark.parametrize("data", [DARKTABLE, LIGHTROOM], ids=["darktable", "lightroom"])
def test_all_of_another_program_stays(data, tmp_path):
    before, path = tmp_path / "before.xmp", tmp_path / "after.xmp"
    before.write_text(data, encoding="utf-8")
    write(path, data, description="A dog.", subject=["Dog", "grass"], title="Dog")
    old, new = read(before), read(path)
    changed = {"Xmp.dc.description", "Xmp.dc.subject", "Xmp.dc.title"}
    kept = {key: value for key, value in old.items() if key not in changed}
    assert {key: value for key, value in new.items() if key not in changed} == kept
    assert kept
    default = 'lang="x-default"'
    assert new["Xmp.dc.description"][default] == "A dog."
    assert new["Xmp.dc.title"][default] == "Dog"
    if data == DARKTABLE:
        assert new["Xmp.dc.title"]['lang="de"'] == "Ein Hund"
        assert new["Xmp.dc.subject"] == ["Family", "dog", "grass"]
        assert new["Xmp.darktable.note"] == 'two\nlines <">\t'
    else:
        assert new["Xmp.dc.description"]['lang="fr"'] == "Vieux"
        assert new["Xmp.dc.subject"] == ["Dog", "grass"]
        text = path.read_text(encoding="utf-8")
        assert text.startswith("<?xpacket begin=") and "<!-- not ours -->" in text
        assert text.endswith('<?xpacket end="w"?>\n')
    assert rest(path.read_bytes()) == rest(data.encode())


def test_any_prefixes_will_do():
    data = LIGHTROOM.replace("rdf:", "r:").replace("xmlns:rdf", "xmlns:r")
    packet = Packet(data.encode())
    packet.set("description", "New")
    packet.set("subject", ["dog"])
    again = Packet(packet.data())
    assert again.values("description") == ["New", "Vieux"]
    assert again.values("subject") == ["dog"]


def test_written_again_it_is_the_same(tmp_path):
    for data in (DARKTABLE, LIGHTROOM):
        once = Packet(data.encode()).data()
        assert Packet(once).data() == once
        assert rest(once) == rest(data.encode())


@pytest.mark.parametrize(
    ("inner", "tags"),
    [
        ("<dc:subject>one</dc:subject>", ["one", "two"]),
        ("<dc:subject/>", ["two"]),
        (
            "<dc:subject><rdf:Seq><rdf:li>one</rdf:li></rdf:Seq></dc:subject>",
            ["one", "two"],
        ),
        (
            '<dc:subject rdf:parseType="Resource"><rdf:value>one</rdf:value>'
            "</dc:subject>",
            ["one", "two"],
        ),
    ],
)
def test_odd_forms_of_a_property(inner, tags, tmp_path):
    data = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
    <rdf:RDF xmlns:rdf="{RDF}" xmlns:dc="{DC}">
    <rdf:Description rdf:about="">{inner}</rdf:Description></rdf:RDF></x:xmpmeta>"""
    assert bool(Packet(data.encode()).values("subject")) == ("one" in tags)
    write(
        tmp_path / "a.xmp", data, subject=["Two", "two"] if len(tags) == 1 else ["two"]
    )
    found = read(tmp_path / "a.xmp")["Xmp.dc.subject"]
    assert [tag.lower() for tag in found] == tags


def test_a_property_that_is_an_attribute(tmp_path):
    data = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
    <rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about=""
    xmlns:q="{DC}" q:subject="one" q:title="Old" xmlns:dc="http://other/"/>
    </rdf:RDF></x:xmpmeta>"""
    packet = Packet(data.encode())
    assert packet.values("subject") == ["one"] and packet.values("title") == ["Old"]
    write(tmp_path / "a.xmp", data, subject=["two"], title="New")
    again = Packet((tmp_path / "a.xmp").read_bytes())
    assert again.values("subject") == ["one", "two"]
    assert again.values("title") == ["New"]
    assert read(tmp_path / "a.xmp")["Xmp.dc.title"] == {'lang="x-default"': "New"}


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_read_again(text):
    packet = Packet()
    packet.set("description", text)
    again = Packet(packet.data()).default("description")
    # What XML cannot hold is left out; the rest is as it was.
    legal = [c for c in text if c in "\t\n\r" or " " <= c and c not in "\ufffe\uffff"]
    assert again == "".join(c for c in legal if not "\ufdd0" <= c <= "\ufdd2")


ENTITIES = "".join(
    f'<!ENTITY {name} "{f"&{before};" * 10}">'
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            f'<!DOCTYPE x [<!ENTITY a "lol">{ENTITIES}]><x>&i;</x>'.encode(),
            "has a document type",
        ),
        (
            b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
            "has a document type",
        ),
        (b"<x>&undefined;</x>", "is no XML"),
        (b"no XML", "is no XML"),
        (b"<x>", "is no XML"),
        (b"\xff\xfe<", "is no XML"),
        (b'<?xml version="1.0" encoding="nothing"?><x/>', "is no XML"),
        (b"<x/>", "holds no XMP"),
        (b"<a>" * 5000 + b"</a>" * 5000, "more than 100 deep"),
        (f'<r:RDF xmlns:r="{RDF}">\ufdd0</r:RDF>'.encode(), "without loss"),
    ],
    ids=range(10),
)
def test_what_is_refused(data, why):
    with pytest.raises(OptionError, match=why):
        Packet(data)


def test_too_large(monkeypatch):
    monkeypatch.setattr("fastvlm_mlx.app.caption.xmp.LARGEST", 1000)
    with pytest.raises(OptionError, match="has more than 0 MB"):
        Packet(DARKTABLE.encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_other_encodings(encoding, tmp_path):
    data = DARKTABLE.replace("UTF-8", encoding.replace("-sig", "")).replace("4.4", "é")
    write(tmp_path / "a.xmp", data.encode(encoding), description="ü")
    text = (tmp_path / "a.xmp").read_text(encoding="utf-8")
    assert 'encoding="UTF-8"' in text and "Core é.0" in text
    assert read(tmp_path / "a.xmp")["Xmp.dc.description"] == {'lang="x-default"': "ü"}
