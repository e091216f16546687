"""What a benchmark says of its machine, for tests of reports."""

MACHINE = {
    "chip": "Chip",
    "cores": 2,
    "memory": 2**34,
    "device": "cpu (Chip)",
    "blas": "BLAS",
    "commit": "1234567",
    "load": 0.5,
    "versions": {"system": "Linux", "mlx": "1", "mlx-lm": "1", "fastvlm-mlx": "1"},
}
