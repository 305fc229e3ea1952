"""Everything the algorithm can refuse, as one tree. Status codes live in `api/errors.py`.

SemisupError
├── SpecError              a job spec that cannot be run          (code, param)
├── DataError              rows that cannot be used               (code, param, line)
│   └── DatasetRejected    a whole file, with every finding
├── NothingSelected        a selector kept no sample
├── NonFiniteLoss          training diverged
├── LmNotFound             a language model name nobody configured
├── KeepMismatch           a folder that holds another run's results
└── Stopped                the caller asked the run to stop
"""


class SemisupError(Exception):
    """Root of the tree. `code` is one of the documented error codes, `param` the dotted path of the field at fault."""

    code = "internal_error"

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


class NothingSelected(SemisupError):
    code = "no_samples_selected"

    def __init__(self, selector: str, candidates: int) -> None:
        self.selector, self.candidates = selector, candidates
        super().__init__(
            f"The {selector} selector kept 0 of {candidates} candidates.",
            hint="Loosen the selector, or add labeled examples so that more answers can be parsed.",
        )


class NonFiniteLoss(SemisupError):
    code = "diverged_nan"

    def __init__(self, stage: str, step: int) -> None:
        self.stage, self.step = stage, step
        super().__init__(f"The training loss of {stage} was not finite at step {step}.", hint="Lower the learning rate.")


class LmNotFound(SemisupError):
    code = "model_not_allowed"


class KeepMismatch(SemisupError):
    code = "other_run"


class Stopped(SemisupError):
    code = "stopped"
