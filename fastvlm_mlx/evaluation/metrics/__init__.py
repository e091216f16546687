"""The metrics by name."""

from fastvlm_mlx.evaluation.metrics.exact import EXACT
from fastvlm_mlx.evaluation.metrics.metric import Metric

METRICS: dict[str, Metric] = {metric.name: metric for metric in (EXACT,)}
