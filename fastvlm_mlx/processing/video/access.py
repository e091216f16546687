"""Which containers and protocols a video may have; everything else is refused.

FFmpeg opens hundreds of formats. Some of them, playlists above all, name other files
and addresses, which it would read: none of those is in these lists, and FFmpeg itself
is told to open nothing that is not.
"""

from collections.abc import Mapping

# FFmpeg's demuxers, each by all of its names.
CONTAINERS = {
    "mov,mp4,m4a,3gp,3g2,mj2": "MP4, MOV",
    "matroska,webm": "MKV, WebM",
    "avi": "AVI",
    "mpegts": "TS",
    "mpeg": "MPEG",
    "flv": "FLV",
    "asf": "WMV",
    "ogg": "Ogg",
    "gif": "GIF",
}
NAMED = ", ".join(CONTAINERS.values())

# By the scheme of an address: what FFmpeg may speak, and the demuxers besides those
# above, of cameras in a network.
_WEB = "http,https,tcp,tls"
_CAMERA = "rtsp,rtp,udp,tcp"
PROTOCOLS: Mapping[str, tuple[str, str]] = {
    "http": (_WEB, "mpjpeg"),
    "https": (_WEB, "mpjpeg"),
    "rtsp": (_CAMERA, "rtsp"),
    "rtsps": (f"{_CAMERA},tls,srtp", "rtsp"),
}
# Devices of this machine, which no file can name.
DEVICES = ("avfoundation", "v4l2", "video4linux2,v4l2", "dshow")

_PLAYLISTS = (
    (b"#EXTM3U", "an HLS playlist"),
    (b"ffconcat", "a list of FFmpeg's"),
    (b"[playlist]", "a playlist"),
    (b"[Reference]", "a playlist"),
    (b"<asx", "a playlist"),
    (b"<ASX", "a playlist"),
    (b"<MPD", "a DASH playlist"),
    (b"<SmoothStreamingMedia", "a playlist"),
    (b"v=0", "a session description (SDP)"),
    (b"RTSPtext", "a playlist"),
    (b"rtsp://", "a playlist"),
)


def playlist(head: bytes) -> str | None:
    """What kind of playlist begins with `head`, the first bytes of a file; or None."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<?xml"):
        text = text.partition(b"?>")[2].lstrip()
    found = (kind for start, kind in _PLAYLISTS if text.startswith(start))
    return next(found, None)


def options(scheme: str | None) -> dict[str, str]:
    """FFmpeg's options that open nothing else; `scheme` None is a file or bytes.

    Raises:
        KeyError: nothing of that scheme may be opened.
    """
    protocols, more = ("file", "") if scheme is None else PROTOCOLS[scheme]
    return {
        "protocol_whitelist": protocols,
        "format_whitelist": ",".join(filter(None, (*CONTAINERS, more))),
    }
