"""`python -m fastvlm_mlx` is the same as `fastvlm-mlx`."""

from fastvlm_mlx.app.cli import main

main()
