"""Jobs on the wire: OpenAI's objects, with the semi-supervised fields and what a job leaves behind beside them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from worker.semisup.spec import JobSpec, Spec, Training


class Asked(BaseModel):
    """A part of a request: closed, and nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Fork(Spec):
    """The job whose stages are taken over, as far as they would compute the same."""

    job: str = Field(description="A job of yours that has ended: succeeded, failed or cancelled.")
    round: int | None = Field(None, ge=1, description="Take over no round after this one.")


class SemiSupervised(JobSpec):
    """What is asked of a semi-supervised job: a job spec and the files it needs beside the labeled one."""

    unlabeled_file: str | None = Field(None, description="File id of the unlabeled rows. Without it the job is plain SFT.")
    test_file: str | None = Field(None, description="File id of labeled rows the report is made on.")
    from_job: str | None = Field(None, description="A succeeded job of yours: training goes on from its adapter.")
    fork: Fork | None = Field(None, description="Run an earlier job again with other settings; see docs/continue.md.")


class Supervised(Asked):
    hyperparameters: Training | None = None


class Method(Asked):
    type: Literal["supervised", "semi_supervised"]
    supervised: Supervised | None = None
    semi_supervised: SemiSupervised | None = None


MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class JobCreate(Asked):
    model: str | None = Field(
        None, description="A base language model (GET /v1/models), or ft:… to go on from it. Needed without from_job and fork."
    )
    training_file: str | None = Field(None, description="File id of the labeled rows. Needed without from_job and fork.")
    validation_file: str | None = None
    unlabeled_file: str | None = Field(
        None, description="As method.semi_supervised.unlabeled_file, for strictly typed clients."
    )
    test_file: str | None = Field(None, description="As method.semi_supervised.test_file.")
    from_job: str | None = Field(None, description="As method.semi_supervised.from_job.")
    fork: Fork | None = Field(None, description="As method.semi_supervised.fork.")
    method: Method | None = None
    semi_supervised: SemiSupervised | None = Field(None, description="As method.semi_supervised, beside a legal method.type.")
    hyperparameters: Training | None = None
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    suffix: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$", description="1 to 64 characters.")
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = Field(
        None, description="Also a carrier: 'semi.rounds': '3' is method.semi_supervised.rounds."
    )
    integrations: list[Any] | None = Field(None, description="None are served yet.")


class ForkOf(BaseModel):
    job: str
    round: int | None
    taken_over: list[str] = Field(description="Stages of that job whose outputs this one uses again.")
    run_again: list[str] = Field(description="Stages of that job that read something that is different here.")


class JobError(BaseModel):
    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    param: str | None = None


class Progress(BaseModel):
    model_config = ConfigDict(extra="allow")

    phase: str | None = None
    stage: str | None = None
    step: int = 0
    total: int = 0
    percent: float = 0.0
    round: int | None = Field(None, description="Null in stages that belong to no round.")
    rounds: int


class Queue(BaseModel):
    position: int = Field(description="Jobs of yours that come before this one.")


class FineTuningJob(BaseModel):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    started_at: int | None
    finished_at: int | None
    estimated_finish: int | None = None
    model: str
    fine_tuned_model: str | None
    organization_id: str = "org-default"
    status: str
    hyperparameters: dict[str, int | float | str]
    training_file: str
    validation_file: str | None
    unlabeled_file: str | None
    test_file: str | None
    from_job: str | None
    fork: ForkOf | None
    result_files: list[str]
    trained_tokens: int | None
    seed: int
    suffix: str | None
    error: JobError | None
    method: dict[str, Any]
    integrations: list[Any] = []
    metadata: dict[str, str]
    spec: dict[str, Any] = Field(description="The whole job spec, every default filled in.")
    phase: str | None
    progress: Progress
    queue: Queue | None
    cancel_requested_at: int | None
    pause_requested_at: int | None


class Event(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any] | None


class Checkpoint(BaseModel):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, Any]


class Round(BaseModel):
    """What its selection and its training said; once there is a report, all of the report's `rounds[]` (docs/report.md)."""

    model_config = ConfigDict(extra="allow")

    object: Literal["fine_tuning.job.round"] = "fine_tuning.job.round"
    number: int
    created_at: int


class Stage(BaseModel):
    object: Literal["fine_tuning.job.stage"] = "fine_tuning.job.stage"
    name: str
    status: str
    chunks: int | None
    chunks_done: int
    items: int | None
    step: int | None
    total: int | None
    opened_at: int
    done_at: int | None
    seconds: float | None
    taken_from: str | None = Field(description="The job that computed it, where this one took it over.")


class Sample(BaseModel):
    """One unlabeled row in one round: why it was kept or dropped, and what that rests on."""

    id: str = Field(description="<round>:<query id>")
    object: Literal["fine_tuning.job.sample"] = "fine_tuning.job.sample"
    query_id: str
    round: int
    prompt: str
    pseudo_response: str
    pseudo_label: str | None
    mean_nll: float | None
    agreement: float
    resolved_by: str
    verdict: str
    reason: str
    neighbours: list[Any]
    votes: list[Any]
    justification: dict[str, Any] | None


class Artifact(BaseModel):
    object: Literal["fine_tuning.job.artifact"] = "fine_tuning.job.artifact"
    path: str
    bytes: int
    sha256: str
    created_at: int
    file_id: str = Field(description="The same content under /v1/files/{file_id}/content.")
