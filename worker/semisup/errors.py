"""Everything the algorithm can refuse, as one tree. Status codes live in `api/errors.py`.

SemisupError
├── SpecError              a job spec that cannot be run          (code, param)
├── DataError              rows that cannot be used               (code, param, line)
│   └── DatasetRejected    a whole file, with every finding
├── NonFiniteLoss          training diverged
├── OutOfMemory            one row alone does not fit
├── LmNotFound             a language model name nobody configured
├── EngineNotFound         the same for an engine
├── EngineRefused          an engine understood a request and will not answer it as asked
├── EngineAway             an engine did not answer for too long: the run may go on later (`again`)
├── KeepMismatch           a folder that holds another run's results
└── Stopped                the caller asked the run to stop
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.semisup.data import Adapter


class SemisupError(Exception):
    """Root of the tree. `code` is one of the documented error codes, `param` the dotted path of the field at fault."""

    code = "internal_error"
    again = False  # True: nothing is wrong with the job, and it may go on later from what is kept

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        line: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.line = line
        self.hint = hint


class SpecError(SemisupError):
    code = "invalid_value"


class DataError(SemisupError):
    code = "invalid_data"


class DatasetRejected(DataError):
    code = "invalid_file"


class NonFiniteLoss(SemisupError):
    code = "diverged_nan"

    def __init__(self, stage: str, step: int, last_good: "Adapter | None" = None) -> None:
        """`last_good`: the newest weights of that training that can be trusted, where there are some."""
        self.stage, self.step, self.last_good = stage, step, last_good
        super().__init__(f"The training loss of {stage} was not finite at step {step}.", hint="Lower the learning rate.")


class OutOfMemory(SemisupError):
    code = "out_of_memory"

    def __init__(self, what: str, stage: str) -> None:
        hint = "Lower hyperparameters.max_length or propagation.k, or run the job on a larger device."
        super().__init__(f"{what[0].upper()}{what[1:]} of {stage} does not fit into memory.", hint=hint)


class LmNotFound(SemisupError):
    code = "model_not_allowed"


class EngineNotFound(SemisupError):
    code = "unknown_engine"


class EngineRefused(SemisupError):
    code = "engine_refused"

    def __init__(self, engine: str, why: str, *, code: str | None = None, hint: str | None = None) -> None:
        self.engine = engine
        hint = hint or "The operator checks the engine's url, model and key; the server's own words are above."
        super().__init__(f"The engine {engine!r} refused: {why}", code=code, param="propagation.collaborators", hint=hint)


class EngineAway(SemisupError):
    code = "engine_unavailable"
    again = True

    def __init__(self, engine: str, why: str) -> None:
        self.engine = engine
        super().__init__(
            f"The engine {engine!r} gives no whole answer: {why}",
            param="propagation.collaborators",
            hint="Finished chunks are kept. Bring the engine back, or mark the collaborator as optional.",
        )


class KeepMismatch(SemisupError):
    code = "other_run"


class Stopped(SemisupError):
    code = "stopped"
