"""Small benchmarks on disk, with the names, nesting and fields of the downloads.

Each function writes one below a folder and returns what a user would name. Their
sources are those of the modules in `fastvlm_mlx/evaluation/formats`.
"""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

Row = dict[str, Any]


def image_bytes(shade: int = 0, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 40, 90)).save(out, kind)
    return out.getvalue()


def put_image(path: Path, shade: int = 0, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_bytes(shade, kind))


def put_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def textvqa(root: Path, **more: Any) -> Path:
    """TextVQA_0.5.1_val.json and train_images/, two questions of one image."""
    rows = [
        {
            "question": "what is the brand of this camera?",
            "image_id": "003a8ae2ef43b901",
            "image_classes": ["Cassette deck", "Printer"],
            "flickr_original_url": "https://example.com/a_o.jpg",
            "flickr_300k_url": "https://example.com/a_z.jpg",
            "image_width": 1024,
            "image_height": 664,
            "answers": ["nous les gosses", *["dakota"] * 7, "dakota digital", "clos"],
            "question_tokens": ["what", "is"],
            "question_id": 34602,
            "set_name": "val",
        }
    ]
    rows.append({**rows[0], "question": "what does it say?", "question_id": 34603})
    rows[1].update(more)
    document = {
        "dataset_type": "val",
        "dataset_name": "textvqa",
        "dataset_version": "0.5.1",
        "data": rows,
    }
    put_json(root / "TextVQA_0.5.1_val.json", document)
    put_image(root / "train_images" / "003a8ae2ef43b901.jpg", 1, "JPEG")
    return root


def docvqa(root: Path, **more: Any) -> Path:
    """spdocvqa_qas/ of three splits and spdocvqa_images/, without documents/ in it."""
    rows: list[Row] = [
        {
            "questionId": 49153,
            "question": "What is the ‘actual’ value per 1000, during the year 1975?",
            "question_types": ["figure/diagram"],
            "image": "documents/pybv0228_81.png",
            "docId": 14465,
            "ucsf_document_id": "pybv0228",
            "ucsf_document_page_no": "81",
            "answers": ["0.28"],
            "data_split": "val",
        },
        {
            "questionId": 24580,
            "question": "What is name of university?",
            "question_types": ["table/list", "layout"],
            "image": "documents/nkbl0226_1.png",
            "docId": 7531,
            "ucsf_document_id": "nkbl0226",
            "ucsf_document_page_no": "1",
            "answers": ["university of california", "University of California"],
            "data_split": "val",
        },
    ]
    rows[1].update(more)
    head = {"dataset_name": "SP-DocVQA", "dataset_version": "1.0"}
    place = root / "spdocvqa_qas"
    hidden = [
        {k: v for k, v in row.items() if k not in ("answers", "question_types")}
        for row in rows
    ]
    for split, name, data in (
        ("val", "val_v1.0_withQT.json", rows),
        ("test", "test_v1.0.json", hidden),
        ("train", "train_v1.0_withQT.json", rows),
    ):
        put_json(place / name, {**head, "dataset_split": split, "data": data})
    for number, page in enumerate(("pybv0228_81", "nkbl0226_1")):
        put_image(root / "spdocvqa_images" / f"{page}.png", number)
        # What OCR found, a file for each page.
        put_json(root / "spdocvqa_ocr" / f"{page}.json", {"status": "Succeeded"})
    return root


def infovqa(root: Path, **more: Any) -> Path:
    """infographicsvqa_qas/ and infographicsvqa_images/."""
    row = {
        "questionId": 98313,
        "question": "Which social platform has heavy female audience?",
        "image_local_name": "20471.jpeg",
        "image_url": "https://example.com/20471.jpeg",
        "ocr_output_file": "20471.json",
        "answers": ["pinterest"],
        "data_split": "val",
        **more,
    }
    document = {"dataset_name": "infographicVQA", "data": [row]}
    place = root / "infographicsvqa_qas"
    put_json(place / "infographicsVQA_val_v1.0_withQT.json", document)
    put_image(root / "infographicsvqa_images" / "20471.jpeg", 3, "JPEG")
    return root


def chartqa(root: Path, **more: Any) -> Path:
    """`ChartQA Dataset` with train/, val/ and test/, each two files and png/."""
    place = root / "ChartQA Dataset"
    for split in ("train", "val", "test"):
        human = {
            "imgname": "41699051005347.png",
            "query": "How many food item is shown in the bar graph?",
            "label": "14",
        }
        machine = {
            "imgname": "two_col_20562.png",
            "query": "What was the value in 2019?",
            "label": "23.2%",
        }
        human.update(more)
        put_json(place / split / f"{split}_human.json", [human, human])
        put_json(place / split / f"{split}_augmented.json", [machine])
        put_image(place / split / "png" / "41699051005347.png")
        put_image(place / split / "png" / "two_col_20562.png", 5)
        (place / split / "tables").mkdir()
    return root


def gqa(root: Path, **more: Any) -> Path:
    """questions1.2/ of several splits and images/."""
    row = {
        "semantic": [
            {"operation": "select", "dependencies": [], "argument": "hat (1)"}
        ],
        "entailed": [],
        "equivalent": ["201307251"],
        "question": "Is it overcast?",
        "imageId": "n161313",
        "isBalanced": True,
        "groups": {"global": None, "local": "13-weather"},
        "answer": "no",
        "semanticStr": "select: hat",
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "types": {"detailed": "weather", "semantic": "global", "structural": "verify"},
        "fullAnswer": "No, it is clear.",
        **more,
    }
    for split in ("testdev_balanced", "testdev_all", "val_balanced"):
        document = {"201307251": row, "201640614": {**row, "answer": "yes"}}
        if split == "testdev_all":
            document["20"] = row
        put_json(root / "questions1.2" / f"{split}_questions.json", document)
    put_image(root / "images" / "n161313.jpg", 6, "JPEG")
    return root


def pope(root: Path, **more: Any) -> Path:
    """coco/ with the three files, and val2014/."""
    name = "COCO_val2014_000000310196.jpg"
    for hardness in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": number,
                "image": name,
                "text": f"Is there a {thing} in the image?",
                "label": label,
            }
            for number, (thing, label) in enumerate(
                (("snowboard", "yes"), ("car", "no")), start=1
            )
        ]
        rows[1].update(more)
        path = root / "coco" / f"coco_pope_{hardness}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    put_image(root / "val2014" / name, 7, "JPEG")
    return root


def scienceqa(root: Path, **more: Any) -> Path:
    """problems.json, pid_splits.json and images/test/."""
    problem = {
        "question": "Which of these states is farthest north?",
        "choices": ["West Virginia", "Louisiana", "Arizona", "Oklahoma"],
        "answer": 0,
        "hint": "",
        "image": "image.png",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "social science",
        "topic": "geography",
        "category": "Geography",
        "skill": "Read a map: cardinal directions",
        "lecture": "Maps have four cardinal directions.",
        "solution": "To find the answer, look at the compass rose.",
        "split": "test",
    }
    problems = {
        "4": problem,
        "5": {**problem, "image": None},
        "11": {
            **problem,
            "hint": "Figure: sturgeon.",
            "choices": ["no", "yes"],
            "answer": 1,
            "subject": "natural science",
            **more,
        },
        "12": {**problem, "split": "train"},
    }
    put_json(root / "problems.json", problems)
    splits = {"train": ["12"], "val": [], "test": ["4", "5", "11"], "minival": []}
    put_json(root / "pid_splits.json", splits)
    for number in ("4", "11"):
        put_image(root / "images" / "test" / number / "image.png", int(number))
    return root


def seedbench(root: Path, **more: Any) -> Path:
    """SEED-Bench.json and SEED-Bench-image/, whose files have no ending."""
    row = {
        "answer": "A",
        "choice_a": "One",
        "choice_b": "Two",
        "choice_c": "Three",
        "choice_d": "Four",
        "data_id": "1454426_2591111986",
        "data_type": "image",
        "question": "How many towels are in the image?",
        "question_id": "101669",
        "question_type_id": 5,
    }
    video = {
        **row,
        "data_id": "1.webm",
        "data_type": "video",
        "question_id": "10",
        "question_type_id": 10,
    }
    rows = [row, {**row, "question_id": "101670", "question_type_id": 6, **more}, video]
    types = {"Instances Counting": 5, "Spatial Relation": 6, "Action Recognition": 10}
    put_json(root / "SEED-Bench.json", {"questions": rows, "question_type": types})
    put_image(root / "SEED-Bench-image" / "1454426_2591111986", 9)
    return root
