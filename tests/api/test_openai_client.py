"""The unmodified `openai` client against a real server: a program changes its base_url, and nothing else."""

import asyncio
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.api.conftest import Uploads
from tests.api.rows import WEIGHTS, claim, fail, labeled, run_to_the_end, unlabeled
from tests.keys import KEY

MODEL = "semift-small"


def semi(unlabeled_file: str, **fields: Any) -> Any:
    return {"type": "semi_supervised", "semi_supervised": {"unlabeled_file": unlabeled_file, **fields}}


def test_files_go_up_are_read_listed_come_back_and_go(client: openai.OpenAI) -> None:
    content = labeled()
    made = client.files.create(file=("labeled.jsonl", content), purpose="fine-tune")
    assert (made.object, made.bytes, made.filename, made.purpose) == ("file", len(content), "labeled.jsonl", "fine-tune")
    ready = client.files.wait_for_processing(made.id, poll_interval=0.01, max_wait_seconds=120)
    assert ready.status == "processed"
    assert ready.contents == {"format": "jsonl", "rows": 12, "labeled": 12, "unlabeled": 0}  # type: ignore[attr-defined]
    assert ready.sha256 == hashlib.sha256(content).hexdigest()  # type: ignore[attr-defined]
    assert client.files.content(made.id).read() == content
    other = client.files.create(file=("logs.jsonl", unlabeled()), purpose="user_data")
    assert [file.id for file in client.files.list()] == [other.id, made.id]
    assert [file.id for file in client.files.list(order="asc")] == [made.id, other.id]
    assert [file.id for file in client.files.list(purpose="user_data")] == [other.id]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError) as gone:
        client.files.retrieve(made.id)
    assert gone.value.code == "file_not_found"
    assert [file.id for file in client.files.list(limit=1, after=made.id, order="asc")] == [other.id]


def test_a_dataset_hint_arrives_nested_as_the_client_flattens_it(client: openai.OpenAI) -> None:
    rows = "q,a,x\n" + "".join(f"question {i},{'ab'[i % 2]},\n" for i in range(6))
    extra: Any = {"dataset": {"mapping": {"input": "q", "target": "a"}, "labels": ["a", "b"]}}
    made: Any = client.files.create(
        file=("rows.csv", rows.encode()),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
        extra_body=extra,
    )
    assert made.dataset == {"mapping": {"input": "q", "target": "a"}, "labels": ["a", "b"]}
    assert made.contents["labeled"] == 6
    assert 3595 <= made.expires_at - made.created_at <= 3605


def test_a_semi_supervised_job_is_queued_with_every_default_filled_in(client: openai.OpenAI, upload: Uploads) -> None:
    job: Any = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=upload.labeled(),
        method=semi(upload.unlabeled(), rounds=3, propagation={"k": 2}, selection={"strategy": "agreement"}),
        suffix="my-team",
        seed=7,
        metadata={"team": "a"},
    )
    assert (job.object, job.status, job.seed, job.suffix, job.metadata) == (
        "fine_tuning.job",
        "queued",
        7,
        "my-team",
        {"team": "a"},
    )
    assert (job.finished_at, job.fine_tuned_model, job.error, job.result_files) == (None, None, None, [])
    selection = {k: v for k, v in job.method.semi_supervised["selection"].items() if k != "caps"}
    assert selection == {"strategy": "agreement", "min_agreement": 1.0}
    assert job.method.semi_supervised["rounds"] == job.progress["rounds"] == 3
    assert job.queue == {"position": 0}
    assert client.fine_tuning.jobs.retrieve(job.id) == job
    events = client.fine_tuning.jobs.list_events(job.id).data
    assert [event.message for event in events] == [f"Created fine-tuning job: {job.id}"]


CARRIERS: dict[str, Any] = {
    "method": lambda file: {"method": semi(file, rounds=3)},
    "extra_body": lambda file: {
        "hyperparameters": {"n_epochs": 4},
        "extra_body": {"method": semi(file, rounds=3)},
    },
    "top level": lambda file: {
        "method": {"type": "supervised"},
        "extra_body": {"unlabeled_file": file, "semi_supervised": {"rounds": 3}},
    },
    "metadata": lambda file: {"metadata": {"semi.unlabeled_file": file, "semi.rounds": "3", "team": "a"}},
    "the same thing twice": lambda file: {
        "method": semi(file, rounds=3),
        "metadata": {"semi.unlabeled_file": file, "semi.rounds": "3"},
    },
}


@pytest.mark.parametrize("carrier", list(CARRIERS))
def test_the_semi_supervised_fields_travel(client: openai.OpenAI, upload: Uploads, carrier: str) -> None:
    file = upload.unlabeled()
    job: Any = client.fine_tuning.jobs.create(model=MODEL, training_file=upload.labeled(), **CARRIERS[carrier](file))
    assert (job.unlabeled_file, job.spec["rounds"]) == (file, 3)
    assert job.method.type == ("supervised" if carrier == "top level" else "semi_supervised")
    assert job.method.semi_supervised["unlabeled_file"] == file
    assert job.hyperparameters.n_epochs == (4 if carrier == "extra_body" else "auto")


def test_without_an_unlabeled_file_it_is_plain_fine_tuning(client: openai.OpenAI, upload: Uploads) -> None:
    job: Any = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=upload.labeled(),
        hyperparameters={"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 0.5},
    )
    assert job.method.type == "supervised"
    assert (job.hyperparameters.n_epochs, job.hyperparameters.learning_rate_multiplier) == (3, 0.5)
    assert (job.unlabeled_file, job.spec["hyperparameters"]["n_epochs"]) == (None, 3)


def test_labels_in_the_unlabeled_file_are_said_to_be_ignored(client: openai.OpenAI, upload: Uploads) -> None:
    job = client.fine_tuning.jobs.create(
        model=MODEL, training_file=upload.labeled(), method=semi(upload(labeled(8, first=50), "logs.jsonl"))
    )
    warned = [event for event in client.fine_tuning.jobs.list_events(job.id) if event.level == "warn"]
    assert [(event.data["code"], event.data["count"]) for event in warned] == [("labels_ignored", 8)]  # type: ignore[index]


def test_45_jobs_come_in_pages_newest_first(client: openai.OpenAI, upload: Uploads) -> None:
    file = upload.labeled()
    made = [client.fine_tuning.jobs.create(model=MODEL, training_file=file, metadata={"n": str(i % 9)}).id for i in range(45)]
    page = client.fine_tuning.jobs.list()
    assert ([job.id for job in page.data], page.has_more) == (made[:-21:-1], True)
    assert [job.id for job in client.fine_tuning.jobs.list()] == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=7)] == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"n": "4"})] == made[4::9][::-1]
    last = client.fine_tuning.jobs.list(after=made[1])
    assert ([job.id for job in last.data], last.has_more) == ([made[0]], False)
    with pytest.raises(openai.BadRequestError) as unknown:
        client.fine_tuning.jobs.list(after="ftjob-unknown")
    assert (unknown.value.code, unknown.value.param) == ("invalid_cursor", "after")


def test_events_come_in_pages_newest_first(client: openai.OpenAI, upload: Uploads) -> None:
    file = upload.labeled()
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=file)
    run_to_the_end()
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=1)]
    assert messages == [
        "The job has successfully completed",
        "Fine-tuning job started",
        f"Created fine-tuning job: {job.id}",
    ]


def test_a_queued_job_is_cancelled_at_once_and_only_once(client: openai.OpenAI, upload: Uploads) -> None:
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=upload.labeled())
    first = client.fine_tuning.jobs.cancel(job.id)
    assert first.status == "cancelled"
    assert first.finished_at is not None
    assert client.fine_tuning.jobs.cancel(job.id) == first
    events = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
    assert events.count("The job was cancelled") == 1


def test_a_running_job_is_asked_to_stop(client: openai.OpenAI, upload: Uploads) -> None:
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=upload.labeled())
    claim()
    asked: Any = client.fine_tuning.jobs.cancel(job.id)
    assert (asked.status, asked.cancel_requested_at is not None) == ("running", True)
    assert client.fine_tuning.jobs.cancel(job.id) == asked


def test_a_finished_job_is_not_cancelled_and_the_client_does_not_ask_again(server: str, upload: Uploads) -> None:
    client = openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=2)
    calls: list[str] = []
    client._client.event_hooks["request"].append(lambda request: calls.append(request.url.path))
    with client:
        job = client.fine_tuning.jobs.create(model=MODEL, training_file=upload.labeled())
        fail()
        failed = client.fine_tuning.jobs.retrieve(job.id)
        assert failed.error is not None
        assert (failed.status, failed.error.code) == ("failed", "out_of_memory")
        calls.clear()
        with pytest.raises(openai.ConflictError) as refused:
            client.fine_tuning.jobs.cancel(job.id)
    assert refused.value.code == "invalid_state"
    assert refused.value.request_id is not None
    assert refused.value.request_id.startswith("req_")
    assert len(calls) == 1


def test_a_finished_job_shows_its_adapter_checkpoints_and_results(client: openai.OpenAI, upload: Uploads) -> None:
    job = client.fine_tuning.jobs.create(
        model=MODEL, training_file=upload.labeled(), method=semi(upload.unlabeled()), suffix="mine"
    )
    run_to_the_end()
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded"
    assert done.fine_tuned_model is not None
    assert done.fine_tuned_model.startswith("ft:semift-small:default:mine:")
    points = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [point.step_number for point in points] == [30, 10]
    assert points[0].fine_tuned_model_checkpoint.endswith(":ckpt-step-30")
    assert points[0].metrics.train_loss == 0.25
    names = [client.files.retrieve(file).filename for file in done.result_files]
    assert names == ["adapter_model.safetensors", "report.json", "report.md"]
    assert client.files.content(done.result_files[0]).read() == WEIGHTS
    with pytest.raises(openai.BadRequestError) as kept:
        client.files.delete(done.result_files[0])
    assert kept.value.code == "not_deletable"


def test_models_are_base_language_models_and_finished_adapters(client: openai.OpenAI, upload: Uploads) -> None:
    client.fine_tuning.jobs.create(model=MODEL, training_file=upload.labeled())
    run_to_the_end()
    listed = [model.id for model in client.models.list()]
    base, adapter = listed
    assert (base, adapter.startswith("ft:semift-small:")) == (MODEL, True)
    shown: Any = client.models.retrieve(adapter)
    assert (shown.object, shown.parent, shown.owned_by) == ("model", MODEL, "default")
    with pytest.raises(openai.PermissionDeniedError) as base_stays:
        client.models.delete(base)
    assert base_stays.value.code == "not_deletable"
    assert client.models.delete(adapter).deleted
    assert [model.id for model in client.models.list()] == [MODEL]
    for call in (client.models.retrieve, client.models.delete):
        with pytest.raises(openai.NotFoundError) as gone:
            call(adapter)
        assert gone.value.code == "model_not_found"


def test_base_language_models_with_a_slash_in_their_name_are_found(database: str, configure: Any, request: Any) -> None:
    configure(base_lms=json.dumps({"Qwen/Qwen3-0.6B": "/lms/qwen"}))
    client: openai.OpenAI = request.getfixturevalue("client")
    assert client.models.retrieve("Qwen/Qwen3-0.6B").id == "Qwen/Qwen3-0.6B"


def test_a_file_in_use_stays(client: openai.OpenAI, upload: Uploads) -> None:
    labeled_file, unlabeled_file = upload.labeled(), upload.unlabeled()
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=labeled_file, method=semi(unlabeled_file))
    for file in (labeled_file, unlabeled_file):
        with pytest.raises(openai.ConflictError) as used:
            client.files.delete(file)
        assert used.value.code == "file_in_use"
        assert job.id in used.value.message
        assert used.value.response.headers["x-should-retry"] == "false"
    client.fine_tuning.jobs.cancel(job.id)
    assert client.files.delete(labeled_file).deleted


def test_what_openai_has_and_this_server_has_not_is_said(client: openai.OpenAI) -> None:
    calls: list[Any] = [
        lambda: client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}]),
        lambda: client.vector_stores.create(name="x"),
        lambda: client.fine_tuning.alpha.graders.validate(grader={}),  # type: ignore[typeddict-item]
        lambda: client.embeddings.create(model=MODEL, input="hi"),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError) as refused:
            call()
        assert refused.value.code == "unsupported_endpoint"


def test_the_asynchronous_client_does_the_same(server: str) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as client:
            train = await client.files.create(file=("l.jsonl", labeled()), purpose="fine-tune")
            rest = await client.files.create(file=("u.jsonl", unlabeled()), purpose="fine-tune")
            ready = await client.files.wait_for_processing(train.id, poll_interval=0.01, max_wait_seconds=120)
            assert ready.status == "processed"
            made = [
                await client.fine_tuning.jobs.create(model=MODEL, training_file=train.id, method=semi(rest.id))
                for _ in range(3)
            ]
            assert [job.id async for job in client.fine_tuning.jobs.list(limit=2)] == [job.id for job in made[::-1]]
            assert [event.level async for event in client.fine_tuning.jobs.list_events(made[0].id)] == ["info"]
            assert [point async for point in client.fine_tuning.jobs.checkpoints.list(made[0].id)] == []
            assert (await client.fine_tuning.jobs.cancel(made[0].id)).status == "cancelled"
            assert [model.id async for model in client.models.list()] == [MODEL]
            assert (await client.files.content(train.id)).read() == labeled()

    asyncio.run(run())


def test_many_at_once_get_one_job_each(client: openai.OpenAI, upload: Uploads) -> None:
    """Orders, cancels and deletions in parallel: one writer after the other, and nobody is turned away."""
    file = upload.labeled()

    def order_and_cancel(number: int) -> tuple[str, str]:
        job = client.fine_tuning.jobs.create(model=MODEL, training_file=file, metadata={"n": str(number)})
        with pytest.raises(openai.ConflictError):
            client.files.delete(file)
        return job.id, client.fine_tuning.jobs.cancel(job.id).status

    with ThreadPoolExecutor(12) as pool:
        done = dict(pool.map(order_and_cancel, range(48)))
    assert len(done) == 48
    assert set(done.values()) == {"cancelled"}
    assert {job.id for job in client.fine_tuning.jobs.list(limit=10)} == set(done)
    assert client.files.delete(file).deleted
