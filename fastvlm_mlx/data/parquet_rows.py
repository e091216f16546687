"""Rows of parquet files, as the hub has data sets; images stay in the file.

Reading needs pyarrow, the extra `eval`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastvlm_mlx.data.stored_image import StoredImage
from fastvlm_mlx.errors import DataError, ImageError, quoted
from fastvlm_mlx.files.installation import pip_install

MAGIC = b"PAR1"  # at the beginning and at the end of each file


@dataclass(frozen=True)
class ParquetImage(StoredImage):
    """An image in a column of `{"bytes": ..., "path": ...}`, as datasets writes it.

    Attributes:
        path: the file.
        group: the row group.
        row: the row of the group.
        column: the name of the column.
    """

    path: Path
    group: int
    row: int
    column: str

    def read(self) -> bytes:
        where = f"{self.path}: {self.column} of row {self.row + 1}"
        try:
            data = _column(self.path, self.group, self.column)[self.row].as_py()
        except DataError as error:
            raise ImageError(str(error)) from error
        data = data.get("bytes") if isinstance(data, dict) else data
        if not isinstance(data, bytes) or not data:
            raise ImageError(f"{where}: holds no image; download the file again")
        return data


def columns_of(path: Path) -> list[str]:
    """The names of the columns.

    Raises:
        DataError: it cannot be read, or pyarrow is missing.
    """
    return list(_opened(path).schema_arrow.names)


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Goes on if the file has these columns.

    Raises:
        DataError: one is not there, the file cannot be read, or pyarrow is missing.
    """
    there = columns_of(path)
    for name in names:
        if name not in there:
            shown = ", ".join(there[:6])
            raise DataError(f"{path}: no column {name} ({shown}); give another file")


def parquet_rows(
    path: Path, columns: Sequence[str], images: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows, with a `ParquetImage` or None for each of `images`.

    Args:
        path: the file.
        columns: those whose values are read, where the file has them.
        images: columns of images, where the file has them.
    Raises:
        DataError: it cannot be read, or pyarrow is missing.
    """
    file = _opened(path)
    there = set(file.schema_arrow.names)
    wanted = [name for name in columns if name in there]
    present = [name for name in images if name in there]
    for group in range(file.num_row_groups):
        rows = _read(path, group, wanted).to_pylist()
        shown = {name: _is_there(path, group, name) for name in present}
        for row, values in enumerate(rows):
            for name in present:
                image = ParquetImage(path, group, row, name)
                values[name] = image if shown[name][row] else None
            yield values


def _is_there(path: Path, group: int, column: str) -> list[bool]:
    return _read(path, group, [column])[column].is_valid().to_pylist()


def _opened(path: Path) -> Any:
    try:
        # Imported here: an extra, and 60 ms.
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: parquet files need pyarrow; {pip_install('pyarrow')}"
        ) from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise _broken(path, error) from None


def _read(path: Path, group: int, columns: Sequence[str]) -> Any:
    file = _opened(path)
    import pyarrow

    try:
        return file.read_row_group(group, columns=list(columns))
    except (OSError, pyarrow.ArrowException) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: not a whole parquet file ({quoted(error)}); download it again"
    )


@lru_cache(maxsize=2)
def _column(path: Path, group: int, column: str) -> Any:
    """A column of a row group; questions are asked in order, so two are enough."""
    return _read(path, group, [column])[column]
