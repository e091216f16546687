"""Lets a package offer names whose modules are imported on first use (PEP 562)."""

TYPE_CHECKING = False  # see fastvlm_mlx/__init__.py
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def resolver(package: str, homes: "Mapping[str, str]") -> "Callable[[str], Any]":
    """The `__getattr__` of `package`; `homes` say in which module each name is.

    Modules are written without the leading `fastvlm_mlx.`.
    """

    def resolve(name: str) -> "Any":
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"fastvlm_mlx.{homes[name]}"), name)

    return resolve
