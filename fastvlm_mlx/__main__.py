"""The entry of `fastvlm-mlx` and of `python -m fastvlm_mlx`.

It is small, so that Ctrl-C is heard before the command line is imported.
"""

import gc
import os
import signal

# As in `typing`, which is not worth its 10 ms here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

CANCELLED = 130


def main() -> "NoReturn":
    """Run the command line and exit; Ctrl-C ends it without a traceback."""
    # Modules and vocabularies are many objects that stay: to look through them for
    # garbage as often as Python does takes 0.05 s of a start.
    gc.set_threshold(50_000)
    # Where Ctrl-C is ignored, as behind `nohup` or `&`, it stays so.
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        # An exception in the middle of an import can be swallowed or reworded there.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(CANCELLED))
    from fastvlm_mlx.app import cli

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
