"""Loads the model that the engine answers with, and its adapters."""

import os
from collections.abc import Sequence
from pathlib import Path

from fastvlm_mlx.adapters.apply import with_adapter
from fastvlm_mlx.app import session
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.app.server.engine.engine import Engine
from fastvlm_mlx.app.server.http.limits import Limits


def load_engine(
    name: str | None,
    limits: Limits,
    *,
    refresh: bool = False,
    adapters: Sequence[Path] = (),
    served_name: str | None = None,
    keep_features: int | None = None,
) -> Engine:
    """Loads the model on this thread, and beside it one with each adapter.

    Clients call it `served_name`, by default as it is called here.
    `keep_features` is how many bytes of encoded images are kept on disk.
    """
    found = session.read_adapters(adapters)
    name, model = session.open_model(name, refresh=refresh)
    packages.use_only(model, name)
    # Clients see the name of a folder, not the path to it.
    name = served_name or (Path(name).name if os.path.exists(name) else name)
    tuned = {each: with_adapter(model, adapter) for each, adapter in found.items()}
    engine = Engine(name, model, limits, tuned)
    for each in (model, *tuned.values()):  # not the image that warms the engine up
        session.keep_features(each, keep_features)
    return engine
