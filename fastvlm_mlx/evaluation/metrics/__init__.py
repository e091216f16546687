"""The metrics by name."""

from fastvlm_mlx.evaluation.metrics.anls import ANLS
from fastvlm_mlx.evaluation.metrics.contained import CONTAINED
from fastvlm_mlx.evaluation.metrics.exact import EXACT
from fastvlm_mlx.evaluation.metrics.fields import FIELDS
from fastvlm_mlx.evaluation.metrics.gqa import GQA
from fastvlm_mlx.evaluation.metrics.letter import LETTER
from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.metrics.mmmu import MMMU
from fastvlm_mlx.evaluation.metrics.relaxed import RELAXED
from fastvlm_mlx.evaluation.metrics.scienceqa import SCIENCEQA
from fastvlm_mlx.evaluation.metrics.text import TEXT
from fastvlm_mlx.evaluation.metrics.vqa import VQA
from fastvlm_mlx.evaluation.metrics.yes_no import YES_NO

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        EXACT,
        TEXT,
        FIELDS,
        VQA,
        ANLS,
        RELAXED,
        GQA,
        YES_NO,
        LETTER,
        SCIENCEQA,
        MMMU,
        CONTAINED,
    )
}
