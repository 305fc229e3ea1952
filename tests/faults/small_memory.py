"""A process with little memory: `python -m tests.faults.small_memory CACHE` trains in it, and says how it got through.

A process of its own, since an allocation that fails anywhere else than in torch may end it.
"""

import json
import resource
import sys
from pathlib import Path

from tests.semisup.test_fit import recipe
from worker.semisup.lm import Lab
from worker.semisup.spec import Training
from worker.semisup.stages.fit import Tokens, fit

ROWS, TOKENS = 64, 200
ROOM_BYTES = 500 << 20  # for the network and some of the rows; all of them at once take more than a gigabyte


def main() -> None:
    lab = Lab("bundled:1", name="bundled-1", cache=Path(sys.argv[1]), device="cpu", threads=1, precision="fp32")
    examples = [Tokens((10 + i, 20, 30), tuple(range(100 + i, 100 + i + TOKENS))) for i in range(ROWS)]
    in_use = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ROOM_BYTES, resource.RLIM_INFINITY))
    adapter = fit(lab, None, examples, recipe(batch_size=ROWS, micro_batch_size=ROWS, n_epochs=1), Training(), seed=1)
    sys.stdout.write(json.dumps({"loss": adapter.final_loss, "steps": adapter.steps, "notes": adapter.notes}) + "\n")


if __name__ == "__main__":
    main()
