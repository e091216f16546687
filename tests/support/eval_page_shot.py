"""A screenshot of `eval --page` with the real demo model, for docs/evaluation.md.

    python -m tests.support.eval_page_shot

writes docs/images/page-eval.png.
"""

import tempfile
from contextlib import suppress
from pathlib import Path

from fastvlm_mlx.app import cli
from tests.support.page_browser import browsing, resize
from tests.support.page_shots import shoot
from tests.support.paths import EXAMPLES


def main() -> None:
    """Compares two resolutions and takes what is seen first."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "changed.html"
        command = ["eval", "demo", str(EXAMPLES), "--max-tokens", "96"]
        with suppress(SystemExit):
            cli.main([*command, "--against", "resolution=512", "--page", str(out)])
        with browsing(Path(folder) / "profile") as page:
            resize(page, 1180, 900)
            page.get(out.as_uri())
            shoot(page, "page-eval")


if __name__ == "__main__":
    main()
