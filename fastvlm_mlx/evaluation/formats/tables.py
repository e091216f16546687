"""How VLMEvalKit's tables are scored, by the names of their files.

As vlmeval/dataset/image_vqa.py, image_mcq.py and image_yorn.py of
github.com/open-compass/VLMEvalKit have it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """What the name of a table says about it.

    Attributes:
        name: of the benchmark.
        label: for the reader.
        metric: empty if its questions tell.
        suffix: None if its questions tell.
        split: the only one that is asked; empty for all.
    """

    name: str
    label: str
    metric: str = ""
    suffix: str | None = None
    split: str = ""


_TABLES = {
    "ai2d_test": Table("ai2d", "AI2D test", "letter"),
    "chartqa_test": Table("chartqa", "ChartQA test", "relaxed"),
    "docvqa_val": Table("docvqa", "DocVQA val", "anls"),
    "gqa_testdev_balanced": Table("gqa", "GQA testdev balanced", "gqa"),
    "infovqa_val": Table("infovqa", "InfoVQA val", "anls"),
    "mmmu_dev_val": Table("mmmu", "MMMU validation", "mmmu", split="validation"),
    "ocrbench": Table("ocrbench", "OCRBench", "contained", ""),
    "pope": Table("pope", "POPE", "yes_no"),
    "realworldqa": Table("realworldqa", "RealWorldQA", "letter"),
    "scienceqa_test": Table("scienceqa", "ScienceQA-IMG test", "scienceqa"),
    "seedbench_img": Table("seedbench", "SEED-Bench image", "letter"),
    "textvqa_val": Table("textvqa", "TextVQA val", "vqa"),
}


def table_of(stem: str) -> Table:
    """The table of a file's name without its ending; one unknown has that as name."""
    # VLMEvalKit calls its own copies with files instead of base64 so.
    stem = stem.removesuffix("_local")
    return _TABLES.get(stem.lower()) or Table(stem.lower(), stem)
