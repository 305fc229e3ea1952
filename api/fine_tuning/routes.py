"""/v1/fine_tuning/jobs: OpenAI's six, and the evidence beneath a job."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from api.bodies import JsonBody
from api.deps import After, PageOf10, PageOf20, Reader, Submitter
from api.downloads import download
from api.fine_tuning import evidence, service
from api.fine_tuning.evidence import SampleFilter
from api.fine_tuning.schemas import Artifact, Checkpoint, Event, FineTuningJob, JobCreate, Round, Sample, Stage
from api.once import OnceDep
from api.wire import KEYED, ListOf, refusals
from models.queries.evidence import SampleOrder

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine_tuning"], responses=KEYED)

CREATE_BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobCreate"}}}}
}
BODY_SCHEMAS = (JobCreate,)  # read by bodies.py, not by FastAPI: main.py puts them into the OpenAPI document

RoundNumber = Annotated[int | None, Query(ge=1, le=1000)]
Nll = Annotated[float | None, Query(allow_inf_nan=False)]


def _metadata(request: Request) -> dict[str, str]:
    """`metadata[team]=x`, as the stock client writes the filter."""
    items = request.query_params.multi_items()
    return {key[9:-1]: value for key, value in items if key.startswith("metadata[") and key.endswith("]")}


def _samples(
    round: RoundNumber = None,
    verdict: Literal["selected", "rejected"] | None = None,
    min_mean_nll: Nll = None,
    max_mean_nll: Nll = None,
    order: SampleOrder = "position",
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 20,
) -> SampleFilter:
    return SampleFilter(round, verdict, min_mean_nll, max_mean_nll, order, after, limit)


@router.post(
    "",
    operation_id="createFineTuningJob",
    response_model=FineTuningJob,
    responses=refusals(400, 409, 413, 415, 422),
    openapi_extra=CREATE_BODY,
)
def create_job(caller: Submitter, body: JsonBody, once: OnceDep) -> FineTuningJob | Response:
    return service.create(caller, body, once)


@router.get("", operation_id="listFineTuningJobs", responses=refusals(400))
def list_jobs(caller: Reader, page: PageOf20, metadata: Annotated[dict[str, str], Depends(_metadata)]) -> ListOf[FineTuningJob]:
    return service.listing(caller, metadata, page)


@router.get("/{job_id}", operation_id="retrieveFineTuningJob", responses=refusals(404))
def retrieve_job(caller: Reader, job_id: str) -> FineTuningJob:
    return service.retrieve(caller, job_id)


@router.post("/{job_id}/cancel", operation_id="cancelFineTuningJob", responses=refusals(404, 409))
def cancel_job(caller: Submitter, job_id: str) -> FineTuningJob:
    return service.cancel(caller, job_id)


@router.post("/{job_id}/pause", operation_id="pauseFineTuningJob", responses=refusals(404, 409))
def pause_job(caller: Submitter, job_id: str) -> FineTuningJob:
    return service.pause(caller, job_id)


@router.post("/{job_id}/resume", operation_id="resumeFineTuningJob", responses=refusals(404, 409))
def resume_job(caller: Submitter, job_id: str) -> FineTuningJob:
    return service.resume(caller, job_id)


@router.get("/{job_id}/events", operation_id="listFineTuningJobEvents", responses=refusals(400, 404))
def list_events(caller: Reader, job_id: str, page: PageOf20) -> ListOf[Event]:
    return evidence.events(caller, job_id, page)


@router.get("/{job_id}/checkpoints", operation_id="listFineTuningJobCheckpoints", responses=refusals(400, 404))
def list_checkpoints(caller: Reader, job_id: str, page: PageOf10) -> ListOf[Checkpoint]:
    return evidence.checkpoints(caller, job_id, page)


@router.get("/{job_id}/rounds", operation_id="listFineTuningJobRounds", responses=refusals(404))
def list_rounds(caller: Reader, job_id: str) -> ListOf[Round]:
    return evidence.rounds(caller, job_id)


@router.get("/{job_id}/stages", operation_id="listFineTuningJobStages", responses=refusals(404))
def list_stages(caller: Reader, job_id: str) -> ListOf[Stage]:
    return evidence.stages(caller, job_id)


@router.get("/{job_id}/samples", operation_id="listFineTuningJobSamples", responses=refusals(400, 404))
def list_samples(caller: Reader, job_id: str, asked: Annotated[SampleFilter, Depends(_samples)]) -> ListOf[Sample]:
    return evidence.samples(caller, job_id, asked)


@router.get("/{job_id}/samples/{query_id:path}", operation_id="retrieveFineTuningJobSample", responses=refusals(400, 404))
def retrieve_sample(caller: Reader, job_id: str, query_id: str, round: RoundNumber = None) -> Sample:
    return evidence.sample(caller, job_id, query_id, round)


@router.get("/{job_id}/artifacts", operation_id="listFineTuningJobArtifacts", responses=refusals(404))
def list_artifacts(caller: Reader, job_id: str) -> ListOf[Artifact]:
    return evidence.artifacts(caller, job_id)


@router.get(
    "/{job_id}/artifacts/{path:path}",
    operation_id="downloadFineTuningJobArtifact",
    responses=refusals(404, 416),
    response_class=Response,
)
def artifact_content(caller: Reader, job_id: str, path: str, request: Request) -> Response:
    return download(request, *evidence.artifact(caller, job_id, path))
