"""Faults of data, collected until all of it was looked at, and told in one line."""

from fastvlm_mlx.errors import DataError

SHOWN = 3  # faults that are told in full


class BadRow(Exception):
    """What is wrong with a row, in a few words; whoever reads the file adds where."""


class Faults(list[str]):
    """One text a fault, "file:line: what is wrong"."""

    def add(self, fault: str) -> None:
        """Collects a fault."""
        self.append(fault)

    def check(self, what: str, way_out: str) -> None:
        """Goes on if there are none.

        Args:
            what: what they are, such as "bad rows".
            way_out: what the user can do with "{them}".
        Raises:
            DataError: names the first few and counts the rest.
        """
        if not self:
            return
        text = "; ".join(self[:SHOWN])
        if len(self) > SHOWN:
            text += f"; and {len(self) - SHOWN} more"
        count = f"{len(self)} {what}: " if len(self) > 1 else ""
        advice = way_out.format(them="them" if len(self) > 1 else "it")
        raise DataError(f"{count}{text}; {advice}")
