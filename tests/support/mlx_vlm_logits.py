"""Loads a folder with mlx-vlm itself and saves the last logits of the golden prompt.

Run by tests/convert/test_to_mlx_vlm.py in an environment that has mlx-vlm.

    python mlx_vlm_logits.py FOLDER GOLDEN.npz OUT.npy
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_vlm.models.fastvlm.config import VisionConfig  # pyright: ignore
from mlx_vlm.utils import load_model  # pyright: ignore

folder, golden, out = (Path(argument) for argument in sys.argv[1:])
# mlx-vlm keeps the encoder's sizes in class attributes, whatever config.json says.
sizes = json.loads((folder / "config.json").read_text())["vision_config"]
VisionConfig.layers = sizes["layers"]
VisionConfig.embed_dims = sizes["embed_dims"]
model = load_model(folder)
data = np.load(golden)
ids = [*data["ids_before"].ravel(), -200, *data["ids_after"].ravel()]
ids = mx.array([[int(i) for i in ids]])
result = model(ids, mx.array(data["image"]), mx.ones_like(ids))
np.save(out, np.array(result.logits[0, -1].astype(mx.float32)))
