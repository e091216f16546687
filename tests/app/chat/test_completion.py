"""Tab: what can follow the typed text."""

import pytest

from fastvlm_mlx.app.chat import completion

COMMANDS = ["/image", "/load", "/save"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("two words.png", "Anna's.png", "one.png", "one.jpg", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "my photos").mkdir()
    (tmp_path / "my photos" / "cat 1.png").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "added"),
    [
        ("/im", ["age "]),
        ("/image tw", [r"o\ words.png"]),
        ("/save tw", [r"o\ words.png"]),
        ("tw", [r"o\ words.png"]),
        (r"/image two\ w", ["ords.png"]),
        (r"/load two\ ", ["words.png"]),
        ("/image two w", ["ords.png"]),
        ("/image two ", ["words.png"]),
        ("/image 'two w", ["ords.png'"]),
        ('/image "two w', ['ords.png"']),
        ("/image one.png 'two", [" words.png'"]),
        ("/image one.png two", [r"\ words.png"]),
        ("/image on", ["e.jpg", "e.png"]),
        ("/image Ann", [r"a\'s.png"]),
        ("/image Anna's", [".png"]),
        ("/image 'Ann", []),
        ('/image "Ann', ["a's.png\""]),
        ("/image m", [r"y\ photos/"]),
        ("/image 'm", ["y photos/"]),
        (r"/image my\ photos/c", [r"at\ 1.png"]),
        ("/image my photos/c", ["at 1.png"]),
        ("/image ~/tw", [r"o\ words.png"]),
        ("/image ./.h", ["idden"]),
        ("What is in ./tw", [r"o\ words.png"]),
        ("What ", []),
        ("", []),
        ("/image nothing", []),
        ("/image \0", []),
    ],
)
def test_what_tab_adds(typed, added):
    assert completion.missing(typed, COMMANDS) == added


def test_a_command_alone_lists_the_folder(place):
    shown = completion.missing("/image ", COMMANDS)
    assert shown == [r"Anna\'s.png", r"my\ photos/", "one.jpg", "one.png"] + [
        r"two\ words.png"
    ]


def test_whole_paths_are_completed_where_commands_are(place):
    assert completion.missing(f"{place}/tw", COMMANDS) == [r"o\ words.png"]
