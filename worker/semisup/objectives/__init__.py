"""OBJECTIVES: how much each example's response loss counts. A pure function `(nll, mask, weight) -> (loss sum, norm)`.

nll and mask are (batch, longest response), weight is (batch,). The optimizer step divides the sums of all its micro-batches,
so a batch's loss does not depend on how it was cut. The table mirrors `spec.Evolve.objective`, and a test compares them.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from worker.semisup.objectives.sft import sft, weighted_sft

Objective = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

OBJECTIVES: Mapping[str, Objective] = {"sft": sft, "weighted_sft": weighted_sft}
