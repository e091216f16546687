"""DataReport: what was read from a folder or file, counted."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataReport:
    """What was read, and what was left out.

    Attributes:
        path: the folder or file.
        samples: how many there are to learn from; `images` different ones in them,
            `turns` questions, `text_only` samples without an image.
        duplicates, empty_answers, failed: samples left out: the same images and texts
            once more, a blank answer, and captions that failed.
        cut_off: captions in `samples` that their greatest length ended.
        faults: bad rows, "file:line: what is wrong"; none unless `strict` was off.
        notes: lines about files of a folder that were left out.
    """

    path: str
    samples: int = 0
    images: int = 0
    turns: int = 0
    text_only: int = 0
    duplicates: int = 0
    empty_answers: int = 0
    failed: int = 0
    cut_off: int = 0
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line: what there is to learn from, and what was left out."""
        text = f"{count(self.samples, 'sample')}, {count(self.images, 'image')}"
        if self.turns != self.samples:
            text += f", {count(self.turns, 'question')}"
        if self.text_only:
            text += f", {self.text_only} without an image"
        if self.cut_off:
            text += f", {count(self.cut_off, 'answer')} cut off by their length"
        left_out = self.left_out()
        return f"{text}; left out: {left_out}" if left_out else text

    def left_out(self) -> str:
        """What was left out, counted; "" if nothing was."""
        counts = (
            (self.duplicates, "duplicate"),
            (self.empty_answers, "empty answer"),
            (self.failed, "failed caption"),
            (len(self.faults), "bad row"),
        )
        return ", ".join(count(number, what) for number, what in counts if number)


def count(number: int, what: str) -> str:
    """A number and what it counts, such as "2 samples"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
