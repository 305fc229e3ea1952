"""The fault matrix F1 to F37: what goes wrong, and the tests that inject it; or why it cannot be injected here."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [f"F{number}" for number in range(1, 38)]


@dataclass(frozen=True)
class Row:
    """`tests`: file::function below tests/. `missing`: what of the row no test injects, and why; alone, where none does."""

    fault: str
    tests: tuple[str, ...] = ()
    missing: str = ""


NEMESIS = "chaos/test_nemesis.py::test_nothing_is_lost_or_doubled_in_seconds_of_random_faults"
MATRIX: Mapping[str, Row] = {
    "F1": Row(
        "kill -9 of the runner at each stage",
        (
            "worker/test_resume.py::test_a_runner_killed_in_a_chunk_costs_that_chunk_only_and_changes_no_result",
            "worker/test_crash_points.py::test_a_crash_changes_no_result",
            "worker/test_real_crash.py::test_a_worker_or_a_runner_killed_between_checkpoints_changes_no_byte",
            "worker/test_real_job.py::test_kill_9_in_propagate_and_in_training_changes_no_byte",
            NEMESIS,
        ),
    ),
    "F2": Row(
        "kill -9 of the worker alone",
        (
            "worker/test_celery.py::"
            "test_kill_9_of_the_worker_kills_its_runner_and_another_worker_finishes_with_the_same_result",
            NEMESIS,
        ),
    ),
    "F3": Row(
        "kill -9 of everybody", ("faults/test_servers.py::test_everybody_killed_at_once_and_started_again_loses_nothing",)
    ),
    "F4": Row(
        "a worker frozen for longer than its lease",
        (
            "chaos/test_nemesis.py::test_without_a_bug_the_same_happenings_break_nothing",
            "worker/test_resume.py::test_a_lost_lease_kills_the_runner_and_writes_nothing",
            "models/test_leases.py::test_a_silent_worker_loses_its_job_and_writes_nothing_afterwards",
        ),
    ),
    "F5": Row("a runner that hangs", ("worker/test_stall.py::test_a_stopped_process_is_a_stalled_one_and_changes_no_result",)),
    "F6": Row(
        "SIGTERM in the middle of work",
        (
            "worker/test_sigterm.py::test_told_to_end_in_training_and_in_propagation_a_worker_loses_no_step_and_no_chunk",
            "worker/test_celery.py::test_a_worker_told_to_end_gives_its_job_back_and_leaves",
            "worker/test_resume.py::test_a_worker_that_shuts_down_gives_its_job_back_at_once",
        ),
    ),
    "F7": Row("Redis FLUSHALL", ("worker/test_celery.py::test_losing_every_message_loses_no_job", NEMESIS)),
    "F8": Row(
        "Redis killed, and an empty one in its place",
        (
            "faults/test_servers.py::test_a_redis_that_is_dead_and_comes_back_empty_costs_no_job_and_no_token",
            "worker/test_celery.py::test_a_broker_that_is_away_blocks_nobody_and_costs_no_job",
        ),
    ),
    "F9": Row("Redis hangs", ("faults/test_servers.py::test_a_redis_that_hangs_holds_up_no_request_and_no_job",)),
    "F10": Row(
        "Redis is out of memory",
        (
            "worker/test_broker.py::test_a_redis_without_memory_ends_no_worker_costs_no_job_and_is_heard_when_it_has_some",
            "faults/test_servers.py::test_a_redis_without_memory_takes_no_message_and_costs_no_job",
        ),
    ),
    "F11": Row(
        "doubled, forged and broken messages",
        ("worker/test_celery.py::test_doubled_forged_and_broken_messages_do_no_harm", NEMESIS),
    ),
    "F12": Row(
        "PostgreSQL stopped and started",
        (
            "faults/test_servers.py::test_a_postgresql_that_is_stopped_is_named_and_work_goes_on_when_it_is_back",
            "worker/test_resume.py::test_a_worker_without_database_stops_before_its_lease_is_over",
        ),
    ),
    "F13": Row(
        "PostgreSQL killed while it commits",
        ("faults/test_servers.py::test_a_postgresql_killed_while_it_commits_keeps_what_it_confirmed", NEMESIS),
    ),
    "F14": Row(
        "a connection cut in the middle",
        (
            "faults/test_servers.py::test_a_connection_cut_after_some_bytes_makes_one_job",
            "models/test_db.py::test_a_connection_whose_other_end_is_gone_is_given_up_by_the_kernel",
            "worker/test_heart.py::test_a_worker_that_hangs_in_an_answer_loses_its_job_to_another",
            "worker/test_heart.py::test_a_heartbeat_that_hangs_does_not_keep_the_runner_alive",
            "worker/test_resume.py::test_a_database_that_drops_its_connections_costs_no_attempt",
            "api/test_idempotency.py::test_the_stock_client_that_lost_an_answer_gets_the_one_job",
        ),
    ),
    "F15": Row(
        "the pool is used up, a table is locked",
        (
            "faults/test_servers.py::test_requests_behind_a_locked_table_are_told_to_come_again_and_the_server_lives",
            "models/test_db.py::test_a_request_waits_for_a_lock_only_so_long",
            "models/test_db.py::test_a_statement_of_a_request_takes_only_so_long",
            "models/test_db.py::test_a_worker_waits_as_long_as_it_takes_also_on_a_connection_that_served_a_request",
        ),
    ),
    "F16": Row(
        "deadlocks and serialization failures",
        (
            "faults/test_small.py::test_two_transactions_that_deadlock_are_both_done_in_the_end",
            "faults/test_small.py::test_a_deadlock_is_an_error_that_is_worth_another_try",
        ),
    ),
    "F17": Row(
        "the disk is full",
        (
            "faults/test_small.py::test_a_full_disk_costs_no_attempt_and_the_job_goes_on_when_there_is_room",
            "faults/test_small.py::test_a_database_without_room_stops_work_and_breaks_nothing",
            "api/test_limits.py::test_a_full_disk_is_507_and_what_was_written_is_gone",
            "api/test_limits.py::test_a_full_database_disk_is_507_as_well",
        ),
        "The error is raised where the disk is written to; SQLite may not grow. The disk of a PostgreSQL is not filled.",
    ),
    "F18": Row(
        "a file system that is read-only or broken",
        (
            "faults/test_small.py::test_a_disk_that_takes_nothing_for_a_while_costs_an_attempt_and_no_byte",
            "worker/test_resume.py::test_a_worker_that_cannot_start_a_runner_counts_the_attempt_and_goes_on",
        ),
        "The error is raised by the store; no file system is remounted, because tests need not run as root.",
    ),
    "F19": Row(
        "a broken checkpoint",
        (
            "semisup/test_checkpoint.py::test_a_broken_checkpoint_is_noticed_and_the_one_before_is_used",
            "semisup/test_checkpoint.py::test_when_all_are_broken_the_training_starts_again",
            "worker/test_saves.py::test_a_rotten_one_is_told_and_passed_over",
        ),
    ),
    "F20": Row(
        "the output of a finished stage rots",
        ("worker/test_resume.py::test_an_output_that_rotted_is_made_again_with_the_same_bytes",),
    ),
    "F21": Row(
        "a loss that is no number",
        (
            "semisup/test_training_faults.py::test_a_loss_that_is_no_number_rolls_back_once_and_leaves_that_batch_out",
            "semisup/test_training_faults.py::test_the_second_time_the_step_is_named_and_the_last_good_weights_are_kept",
        ),
    ),
    "F22": Row(
        "out of memory",
        (
            "semisup/test_training_faults.py::test_a_micro_batch_that_does_not_fit_is_halved_at_the_same_effective_batch",
            "semisup/test_training_faults.py::test_one_row_that_does_not_fit_is_a_clear_error",
            "semisup/test_training_faults.py::test_a_generation_batch_that_does_not_fit_is_halved",
            "faults/test_memory.py::test_a_training_in_a_process_with_too_little_memory_halves_its_micro_batch_and_ends",
            "worker/test_desk.py::test_what_did_not_fit_is_known_to_whoever_goes_on",
            "semisup/test_gpu.py::test_micro_batches_are_halved_until_they_fit_a_small_card",
            "semisup/test_gpu.py::test_a_card_that_holds_not_even_one_row_is_a_clear_error",
        ),
        "Memory of the CPU is refused by the system; without a GPU CUDA's error is raised in its place.",
    ),
    "F23": Row(
        "the kernel's out-of-memory killer",
        ("worker/test_resume.py::test_deaths_without_progress_end_the_job_with_their_reason",),
        "The same SIGKILL from outside; memory limits of control groups need rights a test must not ask for.",
    ),
    "F24": Row(
        "a job that kills every runner",
        (
            "worker/test_resume.py::test_deaths_without_progress_end_the_job_with_their_reason",
            "worker/test_resume.py::test_a_job_that_kills_its_runners_holds_nobody_up",
            NEMESIS,
        ),
    ),
    "F25": Row(
        "a clock that is an hour off",
        ("faults/test_small.py::test_a_worker_whose_clock_is_an_hour_off_steals_nothing_and_loses_nothing",),
        "The clock of the one machine that SQLite and its workers share is not changed: other tests run on it.",
    ),
    "F26": Row(
        "fifty submits at once",
        (
            "api/test_idempotency.py::test_fifty_at_once_make_one_job_and_get_the_same_bytes",
            "api/test_idempotency.py::test_the_same_key_is_answered_alike_for_a_day_and_another_body_is_refused",
        ),
    ),
    "F27": Row(
        "a client dies in an upload, or lies about its length",
        (
            "api/test_limits.py::test_a_client_that_hangs_up_in_the_middle_leaves_nothing",
            "api/test_limits.py::test_a_body_shorter_than_it_says_is_a_mismatch",
            "api/test_limits.py::test_a_body_longer_than_it_says_is_not_another_request",
        ),
    ),
    "F28": Row(
        "slow clients",
        (
            "api/test_limits.py::test_a_head_that_does_not_end_is_answered_408",
            "api/test_limits.py::test_many_slow_connections_keep_nobody_else_waiting",
        ),
    ),
    "F29": Row(
        "uploads beyond the limit, and large ones within",
        (
            "api/test_files.py::test_64_megabytes_go_through_in_constant_memory",
            "api/test_limits.py::test_an_upload_over_the_limit_is_refused_with_its_first_byte_too_many",
        ),
    ),
    "F30": Row(
        "a cancel at any moment",
        (
            "models/test_leases.py::test_a_cancel_that_races_with_the_end_leaves_one_consistent_end",
            "worker/test_celery.py::test_a_running_job_is_cancelled_in_the_middle_of_a_step_and_the_worker_takes_the_next",
            NEMESIS,
        ),
    ),
    "F31": Row(
        "two of everything",
        (
            "models/test_leases.py::test_many_processes_claim_every_job_once_each_with_a_token_of_its_own",
            "worker/test_celery.py::test_two_worker_processes_share_the_chunks_of_one_stage",
            NEMESIS,
        ),
    ),
    "F32": Row(
        "a file or a fine-tuned model is deleted while a job uses it",
        (
            "api/test_openai_client.py::test_a_file_in_use_stays",
            "api/test_collaborators.py::test_a_fine_tuned_model_is_a_collaborator_while_its_base_is_offered",
        ),
    ),
    "F33": Row(
        "an upgrade in the middle of a job",
        ("migrations/test_upgrade.py::test_downgrade_leaves_nothing",),
        "Nothing has been released: there is no earlier version whose jobs could be resumed.",
    ),
    "F34": Row(
        "poisoned rows, control tokens, near-duplicates",
        (
            "semisup/test_plain.py::test_rows_add_no_control_token_whatever_they_hold",
            "security/test_poison.py::test_agreement_and_caps_keep_poisoned_rows_out",
            "security/test_poison.py::test_a_chain_of_near_duplicates_counts_once",
        ),
    ),
    "F35": Row(
        "an engine that fails in every way",
        (
            "semisup/test_engines.py::test_a_fault_that_passes_costs_no_sample_and_changes_none",
            "semisup/test_engines.py::test_all_faults_at_once_end_with_the_same_replies",
            "worker/test_collaborators.py::"
            "test_an_engine_that_stays_away_ends_the_job_only_after_attempts_without_progress_and_keeps_its_chunks",
        ),
    ),
    "F36": Row(
        "leaks, job after job",
        ("faults/test_small.py::test_job_after_job_leaves_no_descriptor_no_zombie_no_folder_and_no_memory",),
        "Sixteen jobs and not 200, and of memory what Python counts: the rest takes many minutes.",
    ),
    "F37": Row(
        "the sweeper's connection dies",
        ("worker/test_resume.py::test_a_database_that_drops_its_connections_costs_no_attempt", NEMESIS),
        "There is no advisory lock to lose: any number of sweepers run at once, and rows are locked one by one.",
    ),
}


def test_no_row_is_forgotten() -> None:
    assert list(MATRIX) == ROWS


def test_every_row_is_tested_or_says_why_not() -> None:
    assert [name for name, row in MATRIX.items() if not row.tests and not row.missing] == []


def named() -> Iterator[tuple[str, str]]:
    for name, row in MATRIX.items():
        yield from ((name, test) for test in row.tests)


@pytest.mark.parametrize(("row", "test"), list(named()))
def test_what_a_row_names_is_there(row: str, test: str) -> None:
    path, _, function = test.partition("::")
    assert function in functions(path), f"{row} names {test}"


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
