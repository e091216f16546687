"""Opens standard input, output and error on the null device where they are closed.

A daemon or a job runner may start a program with them closed. The next files that are
opened then get their numbers: MLX takes a file of number 0 for one that could not be
opened, and whatever prints would print into a model or an output.
"""

import os
import sys


def open_closed_descriptors() -> None:
    """Gives the descriptors 0, 1 and 2 the null device where they are closed.

    `sys.stdin`, `sys.stdout` and `sys.stderr`, which are None then, become text streams
    that read nothing and write nowhere.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, and those below are open by now.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            stream = os.fdopen(number, mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
