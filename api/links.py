"""OpenAPI links: which operations take the id that another one gives. For readers of the document, and for fuzzers."""

from typing import Any

FILE = ("retrieveFile", "downloadFile", "getFileValidation", "previewFile", "deleteFile")
JOB = (
    *("retrieveFineTuningJob", "pauseFineTuningJob", "resumeFineTuningJob", "cancelFineTuningJob"),
    *("listFineTuningJobEvents", "listFineTuningJobCheckpoints", "listFineTuningJobRounds", "listFineTuningJobStages"),
    *("listFineTuningJobSamples", "listFineTuningJobArtifacts"),
)
# operation -> (parameter, where its answer has the value, the operations that take it)
LINKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "createFile": ("file_id", "$response.body#/id", FILE),
    "listFiles": ("file_id", "$response.body#/last_id", FILE[:4]),
    "createUpload": ("upload_id", "$response.body#/id", ("addUploadPart", "completeUpload", "cancelUpload")),
    "createFineTuningJob": ("job_id", "$response.body#/id", JOB),
    "listFineTuningJobs": ("job_id", "$response.body#/last_id", JOB),
    "listModels": ("model", "$response.body#/last_id", ("retrieveModel",)),
    "createApiKey": ("key_id", "$response.body#/id", ("retrieveApiKey", "revokeApiKey")),
}


def add_links(document: dict[str, Any]) -> None:
    """Writes them into an OpenAPI document. Raises KeyError for an operation that is not there."""
    operations = {operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()}
    for name, (parameter, where, targets) in LINKS.items():
        links = {}
        for target in targets:
            known = {given["name"] for given in operations[target]["parameters"]}
            if parameter not in known:
                raise KeyError(f"{target} takes no {parameter}")
            links[target] = {"operationId": target, "parameters": {parameter: where}}
        operations[name]["responses"]["200"]["links"] = links
