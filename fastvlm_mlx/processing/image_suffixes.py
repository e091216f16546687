"""Which files of a folder are images, by the suffixes of their names."""

from functools import cache

from fastvlm_mlx.processing import heif

# Pillow knows these formats, but has no decoder for them, or runs a program for it.
_UNDECODED = frozenset("BUFR EPS GRIB HDF5 IPTC MPEG WMF".split())

# Other names of JPEG files, which Pillow opens by their content.
_JPEG = frozenset(".mpo .jps .jif .jfi .pjp .pjpeg".split())

# Photos and drawings that are not opened here. Whoever has a folder of them should
# hear that.
_FOREIGN = frozenset(
    ".heic .heif .hif .heics .heifs .avci .avcs .avif .avifs .jxl .jxr .wdp .hdp .jp2"
    " .j2k .jpf .jpx .webp .exr .hdr .dpx .xcf .kra .ora .svg .svgz .ai .eps .ps .wmf"
    " .emf .djvu .3fr .ari .arw .bay .cap .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq"
    " .k25 .kdc .mdc .mef .mos .mrw .nef .nrw .orf .ori .pef .ptx .raf .raw .rw2"
    " .rwl .rwz .sr2 .srf .srw .x3f".split()
)


def opened_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of all images that can be opened here.

    They are those of this Pillow and, where pillow-heif is installed, of HEIC images.
    """
    return _opened(heif.available())


@cache
def _opened(with_heif: bool) -> frozenset[str]:
    from PIL import Image

    Image.init()
    return frozenset(
        suffix
        for suffix, form in list(Image.registered_extensions().items())
        if form in Image.OPEN and form not in _UNDECODED
    ).union(_JPEG, heif.SUFFIXES if with_heif else ())


def foreign_suffixes() -> frozenset[str]:
    """The suffixes of images that are known, and not opened here."""
    return _FOREIGN - opened_suffixes()
