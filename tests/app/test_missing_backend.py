"""A plain `pip install` on Linux, which brings MLX without what it computes with."""

from fastvlm_mlx.app import terminal


def test_mlx_without_a_backend_is_told_with_the_command():
    fault = ImportError(
        "libmlx.so: cannot open shared object file: No such file or directory",
        name="core",
    )
    line = terminal.describe(fault)
    assert line.startswith("this MLX has no backend")
    assert "pip install" in line and "'mlx[cpu]', or mlx[cuda13]" in line
    assert "reinstall" in terminal.describe(ImportError("no such thing", name="x"))
