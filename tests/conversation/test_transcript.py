"""Saved conversations: they go on the same, and damaged ones say so."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.conversation import transcript
from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.errors import (
    FastVLMError,
    ImageError,
)
from tests.support.mock_model import check, make_image, plain
from tests.support.pdf_files import numbered_page, pages_of


def saved(conversation: Conversation, folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "talk.json"
    conversation.save(path)
    return path, json.loads(path.read_text())


@pytest.mark.parametrize("kind", ["path", "image", "bytes"])
def test_a_loaded_conversation_goes_on_the_same(model, photo, tmp_path, kind):
    def source(seed: int):
        if kind == "image":
            return make_image(seed)
        path = tmp_path / f"{seed}.png"
        make_image(seed).save(path)
        return path if kind == "path" else path.read_bytes()

    conversation = Conversation(model, source(1), system="Be brief.", tiles=(1, 2))
    conversation.ask("What is it?", max_tokens=9)
    conversation.ask("And this?", source(2), max_tokens=9)
    next(conversation.stream("Cut short", max_tokens=9))
    conversation.ask("Stop", max_tokens=9, stop=["e"])
    conversation.add(source(3))
    path, values = saved(conversation, tmp_path)
    assert {("png" in entry) for entry in values["images"]} == {kind != "path"}

    model.feature_cache.clear()
    model.encoded = 0
    loaded = Conversation.load(model, path)
    assert model.encoded == 0
    assert plain(loaded) == plain(conversation)
    for question in ("Which?", "Sure?"):
        assert loaded.ask(question, max_tokens=9) == conversation.ask(
            question, max_tokens=9
        )
        check(loaded)
    assert model.encoded == 9
    assert [turn.text for turn in loaded.history] == [
        turn.text for turn in conversation.history
    ]
    assert [turn.finish_reason for turn in loaded.history] == [
        turn.finish_reason for turn in conversation.history
    ]
    loaded.reset()
    conversation.reset()
    assert loaded.ask("Again", max_tokens=5) == conversation.ask("Again", max_tokens=5)


def test_pages_of_a_pdf_are_found_again(model, tmp_path):
    pages_of(tmp_path / "a.pdf", [numbered_page(5), numbered_page(250)])
    names = [f"{tmp_path}/a.pdf#page={number}" for number in (1, 2)]
    conversation = Conversation(model, names[1])
    conversation.ask("What is it?", names[0], max_tokens=9)
    path, values = saved(conversation, tmp_path)
    assert {entry["path"] for entry in values["images"]} == set(names)
    assert len({entry["hash"] for entry in values["images"]}) == 2
    assert plain(Conversation.load(model, path)) == plain(conversation)


def test_the_file_says_what_is_needed(model, photo, tmp_path):
    conversation = Conversation(model, [photo, photo])
    conversation.ask("Käse \ud83d?", max_tokens=2)
    _, values = saved(conversation, tmp_path)
    assert values["format"] == "fastvlm-mlx conversation" and values["version"] == 1
    assert values["settings"] == {
        "system": None,
        "fit": "pad",
        "resolution": 128,
        "tiles": None,
    }
    user, answer = values["turns"]
    assert user == {"role": "user", "text": "Käse ??", "images": [0, 1]}
    assert len(answer["tokens"]) == 2
    assert values["images"][0]["path"] == str(photo)
    assert values["images"][0]["hash"] == values["images"][1]["hash"]
    # Nothing is left beside the file.
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "photo.png",
        "talk.json",
    ]


def test_files_that_say_pictures_are_read(model, photo, tmp_path):
    conversation = Conversation(model, photo)
    conversation.ask("What is it?", max_tokens=3)
    conversation.ask("And this?", make_image(4), max_tokens=3)
    path, values = saved(conversation, tmp_path)
    old = {**values, "pictures": values["images"]}
    for turn in old["turns"]:
        if "images" in turn:
            turn["pictures"] = turn.pop("images")
    del old["images"]
    path.write_text(json.dumps(old))
    loaded = Conversation.load(model, path)
    assert plain(loaded) == plain(conversation)
    assert [len(turn.images) for turn in loaded.history] == [1, 0, 1, 0]


def test_a_image_drawn_upon_is_saved_as_it_was_shown(model, tmp_path):
    image = make_image()
    conversation = Conversation(model, image)
    conversation.ask("What is it?", max_tokens=2)
    image.paste((255, 0, 0), (0, 0, 20, 20))
    path, _ = saved(conversation, tmp_path)
    Conversation.load(model, path)


def test_ids_that_are_not_ours_are_spelled_anew(model, tmp_path):
    conversation = Conversation(model)
    conversation.ask("Hi", max_tokens=3)
    path, values = saved(conversation, tmp_path)
    for ids in ([10**6], [-1], [5]):
        values["turns"][1] |= {"text": "A cat.", "tokens": ids}
        path.write_text(json.dumps(values))
        loaded = Conversation.load(model, path)
        assert loaded.state.pieces[-1] == model.tokenizer.encode("A cat.")
        loaded.ask("Why?", max_tokens=5)
        check(loaded)


def test_missing_and_changed_images(model, photo, tmp_path):
    conversation = Conversation(model, photo)
    conversation.ask("What is it?", max_tokens=2)
    path, _ = saved(conversation, tmp_path)
    make_image(5).save(photo)
    with pytest.raises(ImageError) as caught:
        Conversation.load(model, path)
    assert str(caught.value) == (
        f"{photo}: not the image that the conversation was about; put the old one"
        " back, or start a new conversation"
    )
    photo.unlink()
    with pytest.raises(ImageError) as caught:
        Conversation.load(model, path)
    assert str(caught.value) == f"{photo}: no such file; check the path"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda values: values.clear(), "no 'format'"),
        (lambda values: values.update(format="x"), "of another format"),
        (lambda values: values.update(version=2), "version 2, not 1"),
        (lambda values: values.pop("turns"), "no 'turns'"),
        (lambda values: values.update(turns=3), "'3' is not a list"),
        (lambda values: values["turns"].pop(), "questions and answers do not take"),
        (lambda values: values["turns"].reverse(), "questions and answers do not"),
        (lambda values: values["turns"][0].update(images=[7]), "list index out"),
        (lambda values: values["turns"][0].update(images=[-1]), "no image -1"),
        (lambda values: values["turns"][0].update(text=None), "'None' is not a str"),
        (lambda values: values["turns"][1].update(tokens=["a"]), "'a' is not a int"),
        (lambda values: values["settings"].update(tiles=[1]), "values to unpack"),
        (lambda values: values["settings"].update(resolution=100), "resolution 100"),
        (lambda values: values["settings"].update(fit="wide"), "fit 'wide'"),
        (lambda values: values["settings"].update(fit="w" * 5000), "fit 'wwww"),
        (lambda values: values["images"][0].update(hash=1), "'1' is not a str"),
        (
            lambda values: values.update(images=[{"png": "!", "hash": "0"}]),
            "base64",
        ),
        (lambda values: values.update(images=[{"hash": "0"}]), "no 'png'"),
    ],
)
def test_damaged_files(model, photo, tmp_path, change, fault):
    conversation = Conversation(model, photo)
    conversation.ask("What is it?", max_tokens=2)
    path, values = saved(conversation, tmp_path)
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(FastVLMError) as caught:
        Conversation.load(model, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a saved conversation (")
    assert fault in message and "\n" not in message
    assert len(message) < len(str(path)) + 250


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"[" * 100_000, b'"x"']
)
def test_files_that_are_no_conversation(model, tmp_path, content):
    path = tmp_path / "talk.json"
    path.write_bytes(content)
    with pytest.raises(FastVLMError) as caught:
        Conversation.load(model, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a saved conversation (")
    assert message.endswith("give a file that /save wrote") and "\n" not in message


def test_embedded_images_are_checked(model, tmp_path):
    conversation = Conversation(model, make_image())
    conversation.ask("What is it?", max_tokens=2)
    path, values = saved(conversation, tmp_path)
    values["images"][0]["png"] = base64.b64encode(b"not an image").decode()
    path.write_text(json.dumps(values))
    with pytest.raises(ImageError):
        Conversation.load(model, path)


def test_places_that_cannot_be_read_or_written(model, tmp_path):
    conversation = Conversation(model)
    missing = tmp_path / "none" / "talk.json"
    with pytest.raises(FastVLMError) as caught:
        conversation.save(missing)
    assert str(caught.value) == (
        f"{missing}: the conversation cannot be saved (No such file or directory);"
        " give another path"
    )
    with pytest.raises(FastVLMError) as caught:
        Conversation.load(model, missing)
    assert str(caught.value) == (
        f"{missing}: cannot be read (No such file or directory); check the path"
    )
    with pytest.raises(FastVLMError, match="cannot be saved"):
        conversation.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_conversations_only(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    conversation = Conversation(model)
    (tmp_path / "empty").touch(0o600)
    (tmp_path / "link").symlink_to("empty")
    for name in ("~/empty", tmp_path / "empty", tmp_path / "link"):
        conversation.save(name)
        assert Conversation.load(model, name).history == conversation.history
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o600
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "mine.json").write_text('{"format": "mine"}')
    os.mkfifo(tmp_path / "pipe")
    alien = "exists and is no saved conversation"
    for path, reason in (
        (tmp_path / "photo.png", alien),
        (tmp_path / "mine.json", alien),
        (tmp_path / "pipe", "is a device, a pipe or a socket"),
        ("/dev/null", "is a device, a pipe or a socket"),
        ("-", "cannot be written to standard output"),
        (tmp_path / ("long" * 75), "File name too long"),
    ):
        with pytest.raises(FastVLMError) as caught:
            conversation.save(path)
        assert str(caught.value) == (
            f"{path}: the conversation cannot be saved ({reason}); give another path"
        )
    with pytest.raises(
        FastVLMError, match=r"/home: .* \(names a folder\); give another"
    ):
        conversation.save(f"{tmp_path}/home/")
    assert (tmp_path / "photo.png").read_bytes() == b"\x89PNG"
    assert (tmp_path / "mine.json").read_text() == '{"format": "mine"}'
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["empty", "link", "photo.png", "mine.json", "pipe"]
    )


def test_saving_is_whole_or_not_at_all(model, tmp_path, monkeypatch):
    conversation = Conversation(model)
    path, before = saved(conversation, tmp_path)
    conversation.ask("Hi", max_tokens=2)

    def full(self: Path, data: bytes):
        os.close(os.open(self, os.O_CREAT | os.O_WRONLY))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        FastVLMError, match="saved .does not fit on its disk .*, .* free.;"
    ):
        conversation.save(path)
    monkeypatch.undo()
    assert json.loads(path.read_text()) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk.json"]


def test_a_file_larger_than_any_conversation(model, tmp_path, monkeypatch):
    monkeypatch.setattr(transcript, "_LARGEST", 3 << 20)
    path = tmp_path / "large.json"
    path.write_bytes(b" " * ((3 << 20) + 1))
    with pytest.raises(FastVLMError, match=r"large.json: .*more than 3 MB"):
        Conversation.load(model, path)
