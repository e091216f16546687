"""Turns over the same pictures: the cache, the history and the file always agree."""

import base64
import gc
import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import pytest

from fastvlm_mlx.attachment import Attachment
from fastvlm_mlx.conversation import Conversation, stream_once
from fastvlm_mlx.errors import (
    CheckpointError,
    ContextError,
    FastVLMError,
    ImageError,
    OptionError,
)
from fastvlm_mlx.memory import Memory, memory_of
from tests.mock_model import MockModel, greedy, picture


@pytest.fixture(scope="module")
def shared_model() -> MockModel:
    return MockModel()


@pytest.fixture
def model(shared_model: MockModel) -> MockModel:
    memory_of(shared_model).clear()
    shared_model.encoded = 0
    return shared_model


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    picture(1).save(path)
    return path


def check(conversation: Conversation):
    """The last answer is what everything computed anew gives, id by id, and what the
    cache holds is a beginning of the history."""
    *pieces, answer = conversation._past.pieces
    tokens = list(conversation.history[-1].tokens)
    assert tokens == answer
    assert tokens == greedy(conversation.model, pieces, len(tokens))
    offsets = {layer.offset for layer in conversation._past.cache}
    assert len(offsets) == 1 and offsets.pop() <= conversation.context_used


def plain(conversation: Conversation) -> str:
    """The whole history as text, control tokens and pictures included."""
    text = conversation.model.tokenizer._tokenizer
    return "".join(
        "<image>"
        if isinstance(piece, Attachment)
        else text.decode(piece, skip_special_tokens=False)
        for piece in conversation._past.pieces
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_follow_ups_are_as_if_computed_anew(model, count):
    conversation = Conversation(model, [picture(n) for n in range(count)])
    for question in ("What is it?", "And why?", "Since when?"):
        conversation.ask(question, max_tokens=9)
        check(conversation)
    assert model.encoded == count


def test_follow_up_reads_only_its_own_tokens(model):
    conversation = Conversation(model, picture())
    *_, first = conversation.stream("What is it?", max_tokens=9)
    *_, second = conversation.stream("And why?", max_tokens=9)
    assert (first.visual_tokens, first.cached_tokens) == (4, 0)
    assert (second.visual_tokens, second.cached_tokens) == (
        0,
        first.prompt_tokens + first.generated_tokens - 1,
    )
    assert model.encoded == 1
    assert conversation.context_used == second.prompt_tokens + 9


def test_history_is_the_template(model):
    conversation = Conversation(model, picture())
    first = conversation.ask("What is it?", max_tokens=4)
    second = conversation.ask("<|im_end|>?", max_tokens=4)
    assert plain(conversation) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n"
        f"<|im_start|>assistant\n{first}<|im_end|>\n"
        "<|im_start|>user\n<|im_end|>?<|im_end|>\n"
        f"<|im_start|>assistant\n{second}"
    )
    assert [(turn.role, turn.text) for turn in conversation.history] == [
        ("user", "What is it?"),
        ("assistant", first),
        ("user", "<|im_end|>?"),
        ("assistant", second),
    ]
    assert [len(turn.images) for turn in conversation.history] == [1, 0, 0, 0]


def test_system_prompt(model):
    conversation = Conversation(model, system="Be brief.")
    conversation.ask("Hi", max_tokens=2)
    assert plain(conversation).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    conversation = Conversation(model, system="")
    conversation.ask("Hi", max_tokens=2)
    assert plain(conversation).startswith("<|im_start|>user\nHi")


@pytest.mark.parametrize("how", ["add", "stream"])
def test_a_picture_joins_later(model, how):
    conversation = Conversation(model, picture(1))
    conversation.ask("What is it?", max_tokens=7)
    if how == "add":
        conversation.add(picture(2))
        conversation.ask("And this?", max_tokens=7)
    else:
        conversation.ask("And this?", picture(2), max_tokens=7)
    check(conversation)
    conversation.ask("Which is older?", max_tokens=7)
    check(conversation)
    assert [len(turn.images) for turn in conversation.history[::2]] == [1, 1, 0]
    assert plain(conversation).count("<image>") == 2
    assert model.encoded == 2


def test_tiles_and_resolution(model):
    conversation = Conversation(model, picture(), tiles=(2, 1), resolution=64)
    *_, last = conversation.stream("What is it?", max_tokens=3)
    assert (last.visual_tokens, model.encoded) == (3, 3)
    check(conversation)


def test_grid_pinpoints_choose_the_tiles():
    model = MockModel(grid_pinpoints=((128, 256), (256, 128)))
    conversation = Conversation(model, picture(0, (80, 30)))
    *_, last = conversation.stream("What is it?", max_tokens=2)
    assert last.visual_tokens == 3 * 4


def interrupt(conversation: Conversation, model, after: int):
    """Ctrl-C during the step after `after` chunks."""
    stream = conversation.stream("And why?", max_tokens=9)
    for _ in range(after):
        next(stream)
    logits = type(model).logits

    def interrupted(*_):
        conversation._past.cache[0].offset += 1
        raise KeyboardInterrupt

    type(model).logits = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    finally:
        type(model).logits = logits


@pytest.mark.parametrize("after", [1, 3])
def test_interrupt_inside_a_step_keeps_what_was_shown(model, after):
    conversation = Conversation(model, picture())
    conversation.ask("What is it?", max_tokens=7)
    interrupt(conversation, model, after)
    assert conversation.history[-1].finish_reason == "cancelled"
    assert conversation._past.cache[0].offset == 0
    check(conversation)
    conversation.ask("Go on", max_tokens=7)
    check(conversation)
    assert model.encoded == 1


def test_interrupt_before_the_first_chunk_forgets_the_question(model):
    conversation = Conversation(model, picture())
    conversation.ask("What is it?", max_tokens=7)
    before = plain(conversation)
    conversation.add(picture(2))
    interrupt(conversation, model, 0)
    assert plain(conversation) == before
    conversation.ask("What is it?", max_tokens=7)
    check(conversation)
    assert len(conversation.history[-2].images) == 1


@pytest.mark.parametrize("how", ["close", "drop", "next question", "cancel"])
@pytest.mark.parametrize("shown", [1, 4])
def test_answers_cut_short_go_on(model, how, shown):
    conversation, cancel = Conversation(model, picture()), threading.Event()
    stream = conversation.stream("What is it?", max_tokens=30, cancel=cancel)
    text = "".join(next(stream).text for _ in range(shown))
    if how == "close":
        stream.close()
    elif how == "drop":
        del stream
        gc.collect()
    elif how == "cancel":
        cancel.set()
        last = next(stream)
        text += last.text
        assert last.finish_reason == "cancelled"
    conversation.ask("And why?", max_tokens=7)
    assert conversation.history[1].text == text
    assert conversation.history[1].finish_reason == "cancelled"
    check(conversation)
    assert f"assistant\n{text}<|im_end|>\n<|im_start|>user" in plain(conversation)


def test_half_characters_are_not_kept(model):
    tokenizer = model.tokenizer
    conversation = Conversation(model)
    conversation.ask("Hi", max_tokens=3)
    ids = tokenizer.encode("a中文")
    logits, script = type(model).logits, iter([*ids, *ids])

    def scripted(self, inputs, cache):
        logits(self, inputs, cache)
        return (mx.arange(1600)[None] == next(script)).astype(mx.float32)

    type(model).logits = scripted
    try:
        stream = conversation.stream("Say it")
        while not (chunk := next(stream)).text.startswith("中"):
            pass
        chunk = next(stream)
        stream.close()
    finally:
        type(model).logits = logits
    assert chunk.text == ""
    assert conversation.history[-1].text == "a中"
    assert list(conversation.history[-1].tokens) == tokenizer.encode("a中")
    held = conversation._past.cache[0].offset
    assert held == conversation.context_used
    conversation.ask("And?", max_tokens=7)
    check(conversation)


def test_stop_text_cuts_history_and_cache(model):
    whole = Conversation(model, picture()).ask("What is it?", max_tokens=20)
    for stop in (whole[5:8], whole[9], whole[-6:-2]):
        conversation = Conversation(model, picture())
        shown = conversation.ask("What is it?", max_tokens=20, stop=[stop])
        assert shown == whole[: whole.index(stop)]
        assert conversation.history[-1].text == shown
        assert conversation.history[-1].finish_reason == "stop"
        tokens = conversation.history[-1].tokens
        assert model.tokenizer.decode(tokens) == shown
        conversation.ask("And why?", max_tokens=7)
        check(conversation)


def test_length_cut_goes_on(model):
    conversation = Conversation(model, picture())
    for count in (1, 2, 5):
        *_, last = conversation.stream("More", max_tokens=count)
        assert last.finish_reason == "length"
        check(conversation)


def test_one_encoding_serves_every_conversation(model):
    first = Conversation(model)
    *_, cold = first.stream("What is it?", picture(), max_tokens=5)
    *_, warm = Conversation(model).stream("What is it?", picture(), max_tokens=5)
    assert model.encoded == 1
    assert cold.cached_tokens == 0 < warm.cached_tokens < warm.prompt_tokens
    # Another picture shares what stands before it, a second question all up to it.
    *_, other = Conversation(model).stream("What is it?", picture(2), max_tokens=5)
    assert 0 < other.cached_tokens < warm.cached_tokens
    assert model.encoded == 2
    Conversation(model, picture(), resolution=64).ask("Hm", max_tokens=2)
    assert model.encoded == 3


def test_remembered_beginnings_change_nothing(model):
    texts = []
    for _ in range(2):
        conversation = Conversation(model, [picture(), picture(2)])
        texts.append(conversation.ask("What is it?", max_tokens=9))
        check(conversation)
        conversation.ask("And why?", max_tokens=9)
        check(conversation)
    assert texts[0] == texts[1]


def test_memory_is_bounded():
    store = Memory(limit=100)
    for key in "abc":
        store.put(key, [mx.zeros((10,))])
    assert (len(store), store.nbytes) == (2, 80)
    assert store.get("a") is None and store.get("c") is not None
    store.get("b")
    store.put("d", [mx.zeros((10,))])
    assert store.get("b") is not None and store.get("c") is None
    store.put("huge", [mx.zeros((1000,))])
    assert store.get("huge") is None and len(store) == 2
    store.clear()
    assert (len(store), store.nbytes) == (0, 0)


def test_context_error_comes_before_any_work(model):
    conversation = Conversation(model)
    conversation.context_size = 60
    conversation.ask("Hi", max_tokens=3)
    used, history = conversation.context_used, conversation.history
    model.encoded = 0
    with pytest.raises(ContextError) as caught:
        conversation.ask("What is it? " * 10, picture())
    needed = str(caught.value).split()[3]
    assert str(caught.value) == (
        f"the question needs {needed} tokens of context and {60 - used} of 60 are"
        " left; start over with /reset, or use fewer tiles or a lower --resolution"
    )
    assert int(needed) > 60 - used
    assert model.encoded == 0
    assert (conversation.context_used, conversation.history) == (used, history)
    conversation.reset()
    assert conversation.context_used == 0
    conversation.ask("Hi", max_tokens=3)
    check(conversation)


def test_pictures_that_do_not_fit_are_refused_at_once(model, monkeypatch):
    small = MockModel(context_length=10)
    with pytest.raises(ContextError, match="needs 65 tokens .* 10 of 10 are left"):
        Conversation(small, picture(), resolution=512)
    assert small.encoded == 0


def test_answer_is_clipped_to_what_is_left(model):
    conversation = Conversation(model, picture())
    conversation.context_size = 50
    *_, last = conversation.stream("What is it?", max_tokens=1000)
    assert last.finish_reason == "length"
    assert last.prompt_tokens + last.generated_tokens == 50
    assert conversation.context_used == 50
    with pytest.raises(ContextError, match="0 of 50 are left"):
        conversation.ask("And?")


@pytest.mark.parametrize(
    ("length", "positions", "size"), [(8192, 32768, 8192), (8192, 512, 512)]
)
def test_context_size(model, length, positions, size):
    text = {**cast(dict, model.config.text), "max_position_embeddings": positions}
    assert Conversation(MockModel(context_length=length, text=text)).context_size == (
        size
    )


def test_reset_keeps_the_first_pictures(model):
    conversation = Conversation(model, picture())
    first = conversation.ask("What is it?", max_tokens=7)
    conversation.ask("And this?", picture(2), max_tokens=7)
    conversation.reset()
    assert conversation.history == ()
    assert conversation.ask("What is it?", max_tokens=7) == first
    assert len(conversation.history[0].images) == 1
    check(conversation)


def test_one_answer_at_a_time(model):
    conversation = Conversation(model)
    stream = conversation.stream("Hi", max_tokens=9)
    faults = []

    def inside():
        logits = type(model).logits

        def slow(*arguments):
            try:
                conversation.ask("Me too")
            except FastVLMError as fault:
                faults.append(str(fault))
            return logits(*arguments)

        type(model).logits = slow
        try:
            next(stream)
        finally:
            type(model).logits = logits

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert faults and set(faults) == {
        "this conversation is still answering; wait for the answer, or start another"
        " conversation"
    }
    stream.close()
    check(conversation)


def test_conversations_share_a_model_across_threads(model):
    def talk(seed: int) -> list[str]:
        conversation = Conversation(model, picture(seed))
        return [
            conversation.ask(text, max_tokens=9, temperature=0.8, seed=seed)
            for text in ("What is it?", "And why?")
        ]

    expected = {seed: talk(seed) for seed in range(3)}
    memory_of(model).clear()
    said: dict[int, list[str]] = {}

    def run(seed: int):
        said[seed] = talk(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == expected


def test_stages_are_measured_on_request(model, photo):
    *_, quick = Conversation(model).stream("What is it?", photo, max_tokens=2)
    known = [name for name, value in asdict(quick.timings).items() if value]
    assert known == ["decode", "preprocess"]
    memory_of(model).clear()
    *_, slow = Conversation(model).stream("Hm?", photo, max_tokens=2, detailed=True)
    stages = asdict(slow.timings)
    assert all(stages.values())
    assert sum(stages.values()) <= slow.ttft


def test_stream_once(model, photo):
    text = Conversation(model, photo).ask("What is it?", max_tokens=5)
    chunks = stream_once(model, str(photo), "What is it?", max_tokens=5)
    assert "".join(chunk.text for chunk in chunks) == text
    assert model.ask([photo], "What is it?", max_tokens=5) == text
    assert model.conversation(photo).ask("What is it?", max_tokens=5) == text
    with pytest.raises(OptionError, match="tiles 0x2"):
        stream_once(model, photo, "Hm?", tiles=(0, 2))
    with pytest.raises(OptionError, match="temperature -1"):
        Conversation(model).stream("Hm?", temperature=-1)


def test_without_an_encoder():
    model = MockModel()
    model.config = type(model.config)(text=model.config.text)
    assert Conversation(model).ask("Hi", max_tokens=2)
    with pytest.raises(CheckpointError, match="no vision encoder; convert it"):
        Conversation(model, picture())


# Save and load.


def saved(conversation: Conversation, folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "talk.json"
    conversation.save(path)
    return path, json.loads(path.read_text())


@pytest.mark.parametrize("kind", ["path", "image", "bytes"])
def test_a_loaded_conversation_goes_on_the_same(model, photo, tmp_path, kind):
    def source(seed: int):
        if kind == "image":
            return picture(seed)
        path = tmp_path / f"{seed}.png"
        picture(seed).save(path)
        return path if kind == "path" else path.read_bytes()

    conversation = Conversation(model, source(1), system="Be brief.", tiles=(1, 2))
    conversation.ask("What is it?", max_tokens=9)
    conversation.ask("And this?", source(2), max_tokens=9)
    next(conversation.stream("Cut short", max_tokens=9))
    conversation.ask("Stop", max_tokens=9, stop=["e"])
    conversation.add(source(3))
    path, values = saved(conversation, tmp_path)
    assert {("png" in entry) for entry in values["pictures"]} == {kind != "path"}

    memory_of(model).clear()
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
    assert values["pictures"][0]["path"] == str(photo)
    assert values["pictures"][0]["hash"] == values["pictures"][1]["hash"]
    # Nothing is left beside the file.
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "photo.png",
        "talk.json",
    ]


def test_a_picture_drawn_upon_is_saved_as_it_was_shown(model, tmp_path):
    image = picture()
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
        assert loaded._past.pieces[-1] == model.tokenizer.encode("A cat.")
        loaded.ask("Why?", max_tokens=5)
        check(loaded)


def test_missing_and_changed_pictures(model, photo, tmp_path):
    conversation = Conversation(model, photo)
    conversation.ask("What is it?", max_tokens=2)
    path, _ = saved(conversation, tmp_path)
    picture(5).save(photo)
    with pytest.raises(ImageError) as caught:
        Conversation.load(model, path)
    assert str(caught.value) == (
        f"{photo}: not the picture that the conversation was about; put the old one"
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
        (lambda values: values["turns"][0].update(images=[-1]), "no picture -1"),
        (lambda values: values["turns"][0].update(text=None), "'None' is not a str"),
        (lambda values: values["turns"][1].update(tokens=["a"]), "'a' is not a int"),
        (lambda values: values["settings"].update(tiles=[1]), "values to unpack"),
        (lambda values: values["settings"].update(resolution=100), "resolution 100"),
        (lambda values: values["settings"].update(fit="wide"), "fit 'wide'"),
        (lambda values: values["pictures"][0].update(hash=1), "'1' is not a str"),
        (
            lambda values: values.update(pictures=[{"png": "!", "hash": "0"}]),
            "base64",
        ),
        (lambda values: values.update(pictures=[{"hash": "0"}]), "no 'png'"),
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


def test_embedded_pictures_are_checked(model, tmp_path):
    conversation = Conversation(model, picture())
    conversation.ask("What is it?", max_tokens=2)
    path, values = saved(conversation, tmp_path)
    values["pictures"][0]["png"] = base64.b64encode(b"not a picture").decode()
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


def test_saving_is_whole_or_not_at_all(model, tmp_path, monkeypatch):
    conversation = Conversation(model)
    path, before = saved(conversation, tmp_path)
    conversation.ask("Hi", max_tokens=2)

    def full(self: Path, data: bytes):
        os.close(os.open(self, os.O_CREAT | os.O_WRONLY))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FastVLMError, match="No space left on device"):
        conversation.save(path)
    monkeypatch.undo()
    assert json.loads(path.read_text()) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk.json"]


def test_reference_conversation(reference: Path, shared: Path):
    """The same over a checkpoint of a real layout."""
    from fastvlm_mlx import weights

    model = weights.load(reference / "llava-mini")
    pictures = [shared / "images" / name for name in ("astronaut.png", "coins.png")]
    conversation = model.conversation(pictures[:1])
    conversation.ask("Describe the image.", max_tokens=12)
    check(conversation)
    conversation.ask("And this one?", pictures[1], max_tokens=12)
    check(conversation)
    conversation.ask("Compare them.", max_tokens=12)
    check(conversation)
