"""The whole vocabulary of a job: frozen, closed, every field with its bounds and its reason. Pydantic only, no torch.

`JobSpec` is what `method.semi_supervised` holds on the wire (plus the two file ids, which belong to the API), what
`spec.yaml` holds on the command line, and what a stage is given. "auto" means: decided from the language model's size and
the data, and written into the report (see `stages/fit.py`).
"""

from worker.semisup.spec.answer import (
    AnswerSpec,
    AutoAnswer,
    ChoiceAnswer,
    LabelAnswer,
    NumberAnswer,
    TextAnswer,
)
from worker.semisup.spec.base import (
    Auto,
    Spec,
)
from worker.semisup.spec.evaluation import (
    Evaluation,
)
from worker.semisup.spec.job import (
    PAPER,
    PROFILES,
    JobSpec,
    load_spec,
)
from worker.semisup.spec.propagation import (
    DEFAULT_COLLABORATORS,
    POOLED_COLLABORATORS,
    CalibrationSpec,
    Collaborator,
    Propagation,
    Resolve,
)
from worker.semisup.spec.selection import (
    Agreement,
    AutoSelection,
    Caps,
    ClassPercentile,
    KeepAll,
    Percentile,
    RandomShare,
    RiskControl,
    Selecting,
    SelectionSpec,
    Threshold,
)
from worker.semisup.spec.training import (
    Evolve,
    Format,
    LoraSpec,
    Training,
    Warmup,
)

__all__ = [
    "DEFAULT_COLLABORATORS",
    "PAPER",
    "POOLED_COLLABORATORS",
    "PROFILES",
    "Agreement",
    "AnswerSpec",
    "Auto",
    "AutoAnswer",
    "AutoSelection",
    "CalibrationSpec",
    "Caps",
    "ChoiceAnswer",
    "ClassPercentile",
    "Collaborator",
    "Evaluation",
    "Evolve",
    "Format",
    "JobSpec",
    "KeepAll",
    "LabelAnswer",
    "LoraSpec",
    "NumberAnswer",
    "Percentile",
    "Propagation",
    "RandomShare",
    "Resolve",
    "RiskControl",
    "Selecting",
    "SelectionSpec",
    "Spec",
    "TextAnswer",
    "Threshold",
    "Training",
    "Warmup",
    "load_spec",
]
