"""`video`: lines in every form, resumed runs, questions, summaries, contact sheets."""

import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx import load
from fastvlm_mlx.app.caption.captioner import Caption, Captioner
from fastvlm_mlx.errors import FastVLMError
from fastvlm_mlx.processing.chat_template import encode_turn
from tests.support.captions import captions_by
from tests.support.small_videos import stills, world_scenes, write_video
from training import drawing, questions

pytest_plugins = ["tests.support.video_runs"]
STARTS, ENDS = [0.0, 1.5, 3.0, 4.5], [1.5, 3.0, 4.5, 5.94]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_scene_once_with_its_time(quick_video, clip):
    out, err = quick_video(clip)
    assert re.fullmatch(
        r"00:00  mean .*\n00:01\.5  mean .*\n00:03  mean .*\n00:04\.5  mean .*\n", out
    )
    assert "4 scenes described in" in err
    assert "56 of 60 frames show nothing new" in err


def test_json_lines(quick_video, clip):
    out, _ = quick_video(clip, "--format", "jsonl", "-p", "What?")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(one["time"], one["end"]) for one in found] == list(
        zip(STARTS, ENDS, strict=True)
    )
    labels = {"video": str(clip), "model": "demo", "prompt": "What?"}
    assert all(labels.items() <= one.items() for one in found)
    assert {one["frames"] for one in found} == {"scenes"}


def test_a_table(quick_video, clip, tmp_path):
    quick_video(clip, "-o", tmp_path / "out.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [float(row["time"]) for row in rows] == STARTS
    assert all(row["caption"].startswith("mean") for row in rows)


def test_subtitles(video, clip, tmp_path, monkeypatch):
    said = iter(["One <b>", "two\n\nlines", "a --> b", "four"])
    answer = captions_by(lambda captioner, pixels: Caption(next(said), "stop"))
    monkeypatch.setattr(Captioner, "captions", answer)
    video(clip, "-o", tmp_path / "out.vtt")
    assert (tmp_path / "out.vtt").read_text() == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nOne &lt;b&gt;\n\n"
        "00:00:01.500 --> 00:00:03.000\ntwo\nlines\n\n"
        "00:00:03.000 --> 00:00:04.500\na --&gt; b\n\n"
        "00:00:04.500 --> 00:00:05.940\nfour\n\n"
    )
    said = iter(["One <b>", "two\n\nlines", "a --> b", "four"])
    video(clip, "-o", tmp_path / "out.srt")
    assert (tmp_path / "out.srt").read_text() == (
        "1\n00:00:00,000 --> 00:00:01,500\nOne <b>\n\n"
        "2\n00:00:01,500 --> 00:00:03,000\ntwo\nlines\n\n"
        "3\n00:00:03,000 --> 00:00:04,500\na -> b\n\n"
        "4\n00:00:04,500 --> 00:00:05,940\nfour\n\n"
    )
    assert not list(tmp_path.glob("*.part*"))


def test_frames_every_from_and_to(quick_video, clip):
    def starts(*options: str) -> list[float]:
        out, _ = quick_video(clip, "--format", "jsonl", *options)
        return [json.loads(line)["time"] for line in out.splitlines()]

    assert starts("--every", "1s") == [0, 2, 3, 5]
    assert starts("--every", "1000ms", "--from", "0:02", "--to", "4") == [2, 3]
    assert len(starts("--frames", "2")) == 2
    assert starts("--from", "2s") == [2, 3, 4.5]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.srt"])
def test_a_run_that_stopped_is_gone_on_with(
    quick_video, clip, tmp_path, name, monkeypatch
):
    whole = tmp_path / f"whole-{name}"
    quick_video(clip, "-o", whole)
    asked: list[int] = []
    usual = Captioner.captions

    def stops(self, pixels, size):
        if asked:
            raise KeyboardInterrupt
        asked.append(size)
        return usual(self, pixels, size)

    monkeypatch.setattr(Captioner, "captions", stops)
    quick_video(clip, "-o", tmp_path / name, "--batch", "1", code=130)

    def counts(self, pixels, size):
        asked.append(size)
        return usual(self, pixels, size)

    monkeypatch.setattr(Captioner, "captions", counts)
    _, err = quick_video(clip, "-o", tmp_path / name)
    assert sum(asked) == 4 and "already described: 1 scene" in err
    assert (tmp_path / name).read_bytes() == whole.read_bytes()
    assert len(list(tmp_path.glob(f"{name}*"))) == 1


def test_a_scene_that_fails_is_tried_again(quick_video, clip, tmp_path, monkeypatch):
    usual = Captioner.captions
    fails = captions_by(lambda captioner, pixels: FastVLMError("too long"))
    monkeypatch.setattr(Captioner, "captions", fails)
    out = tmp_path / "out.srt"
    _, err = quick_video(clip, "-o", out, code=1)
    assert "error: too long" in err and "0 scenes described" in err
    assert f"{out}: not written, as 4 of 4 scenes failed; the others are kept" in err
    assert not out.exists()
    monkeypatch.setattr(Captioner, "captions", usual)
    quick_video(clip, "-o", out)
    assert out.read_text().count("mean") == 4


def test_what_others_wrote_is_kept(quick_video, clip, tmp_path):
    for name in ("out.srt", "out.jsonl", "sheet.jpg"):
        (tmp_path / name).write_text("mine")
    for option, name in (
        ("-o", "out.srt"),
        ("-o", "out.jsonl"),
        ("--sheet", "sheet.jpg"),
    ):
        _, err = quick_video(clip, option, tmp_path / name, code=1)
        assert name in err and "exists" in err
        assert (tmp_path / name).read_text() == "mine"


def test_other_frames_are_another_file(quick_video, clip, tmp_path):
    quick_video(clip, "-o", tmp_path / "out.jsonl")
    _, err = quick_video(clip, "-o", tmp_path / "out.jsonl", "--every", "2s", code=1)
    assert "holds descriptions of frames 'scenes'; choose another -o" in err


def test_a_contact_sheet(quick_video, clip, tmp_path):
    quick_video(clip, "--sheet", tmp_path / "sheet.jpg")
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.size == (2 * (256 + 8) + 8, 2 * (256 + 22 + 8) + 8)
        # The first scene's own colours are in its cell.
        cell = np.asarray(sheet.crop((8, 8, 264, 264)), np.float32)
        assert np.abs(cell - drawing.render(world_scenes(4)[0])).mean() < 10


def test_facts_of_every_scene_are_right(video, tmp_path):
    """Of ten facts about the scenes of a video the demo model tells nine at least."""
    scenes = world_scenes(8, shapes=1, first=2_000_000_000)
    path = write_video(
        tmp_path / "clip.mp4", stills([drawing.render(s) for s in scenes], 1.0, 5)
    )
    out, _ = video(path, "--format", "jsonl")
    found = [json.loads(line) for line in out.splitlines()]
    assert [one["time"] for one in found] == list(range(8))
    right = total = 0
    for one, scene in zip(found, scenes, strict=True):
        (shape,) = scene.shapes
        place = questions.place(shape.x, shape.y)
        for fact in (shape.colour, shape.kind, f"the {place}."):
            total += 1
            right += fact in one["caption"].lower()
    assert total == 24 and right / total >= 0.9


def test_a_schema_is_kept(video, clip, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"a": {"enum": ["x", "y"]}}}')
    out, _ = video(clip, "--schema", schema, "--format", "jsonl", "--to", "1s")
    assert json.loads(out)["caption"] in ({}, {"a": "x"}, {"a": "y"})


def test_one_answer_over_labelled_frames(video, clip, monkeypatch):
    from fastvlm_mlx.conversation.conversation import Conversation

    seen: list = []
    usual = Conversation.answer

    def answer(self, question, images, *args, **kwargs):
        seen.append((question, [(image.label, image.tokens) for image in images]))
        return usual(self, question, images, *args, **kwargs)

    monkeypatch.setattr(Conversation, "answer", answer)
    out, err = video(clip, "--ask", "What happens?")
    assert out or "the answer is empty" in err
    assert "4 frames: 00:00, 00:01.5, 00:03, 00:04.5" in err
    labels = [f"frame at {start} s:" for start in STARTS]
    assert seen == [("What happens?", [(label, 16) for label in labels])]


def test_many_scenes_give_eight_frames(video, tmp_path):
    images = [drawing.render(scene)[::2, ::2] for scene in world_scenes(20)]
    path = write_video(tmp_path / "clip.mp4", stills(images, 1.0, 5))
    _, err = video(path, "--ask", "What happens?")
    assert "8 frames: 00:00, " in err


def test_a_label_stands_before_its_image():
    tokenizer = load("demo").tokenizer
    pieces = encode_turn(tokenizer, "Why?", [0, 1], labels=["at 1 s:", ""])
    texts = [tokenizer.decode(p) if isinstance(p, list) else "" for p in pieces]
    assert texts[0].endswith("user\nat 1 s:\n")
    assert texts[2] == "\n" and texts[4].startswith("\nWhy?")


def test_a_summary_is_made_of_the_lines(video, clip, tmp_path, monkeypatch):
    from fastvlm_mlx.app.video import summary

    asked: list[str] = []
    monkeypatch.setattr(summary, "PROMPT", "Sum up:\n{}")
    from fastvlm_mlx.conversation.conversation import Conversation

    usual = Conversation.answer

    def answer(self, question, images, *args, **kwargs):
        asked.append(question)
        return usual(self, question, images, *args, **kwargs)

    monkeypatch.setattr(Conversation, "answer", answer)
    out, _ = video(clip, "--summary", "-o", tmp_path / "out.jsonl")
    assert out.strip()
    captions = [one["caption"] for one in lines(tmp_path / "out.jsonl")]
    expected = "\n".join(
        f"{time} {caption}"
        for time, caption in zip(
            ["00:00", "00:01.5", "00:03", "00:04.5"], captions, strict=True
        )
    )
    assert asked == [f"Sum up:\n{expected}"]


def test_a_long_summary_is_made_in_parts(demo, monkeypatch):
    from fastvlm_mlx.app.video.records import Record
    from fastvlm_mlx.app.video.summary import summarize
    from fastvlm_mlx.conversation.conversation import Conversation
    from fastvlm_mlx.generation.sampling import Sampling

    asked: list[str] = []

    def answer(self, question, images, sampling):
        asked.append(question)
        yield SimpleNamespace(text=f"Part {len(asked)}.")

    monkeypatch.setattr(Conversation, "answer", answer)
    records = [
        Record("v", at, at + 1, "demo", "p", "scenes", f"a red circle, number {at}")
        for at in range(600)
    ]
    size = demo.config.context_size
    text = summarize(demo, records, Sampling(max_tokens=16))
    assert len(asked) > 1 and text == f"Part {len(asked)}."
    assert all(len(demo.tokenizer.encode(each)) < size for each in asked)
    told = "".join(asked)
    assert all(f"number {at}" in told for at in range(600))
    assert "00:00 Part 1." in asked[-1]
