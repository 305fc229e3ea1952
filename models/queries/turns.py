"""Whose turn it is: tenants share the workers, whoever has sent more jobs.

First the tenant with the fewest jobs running; among those the one served longest ago; within a tenant the oldest job. So a
tenant that has nothing running waits for at most one job of each other tenant, however many they have queued.

When a tenant was served last is the largest lease token of its jobs (tokens only grow): there is no second record that two
claims at once would have to lock.
"""

from typing import TypeVarTuple

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import aliased

from models.settings import settings
from models.status import JobStatus
from models.tables import Job, Tenant

Columns = TypeVarTuple("Columns")


def in_turn(free: Select[*Columns]) -> Select[*Columns]:
    """`free`, a selection of jobs, with the one whose turn it is first. Tenants at their limit of running jobs are left out."""
    working, earlier = aliased(Job), aliased(Job)
    running = (
        select(working.tenant_id, func.count().label("jobs"))
        .where(working.status == JobStatus.running)
        .group_by(working.tenant_id)
        .cte("running")
    )
    newest = select(func.max(earlier.lease_token)).where(earlier.tenant_id == Tenant.id).scalar_subquery()
    served = select(Tenant.id, newest.label("token")).cte("served").prefix_with("MATERIALIZED")  # once a tenant, not once a job
    busy = func.coalesce(running.c.jobs, 0)
    found = free.join(served, served.c.id == Job.tenant_id).outerjoin(running, running.c.tenant_id == Job.tenant_id)
    if limit := settings().tenant_running_jobs:
        found = found.where(or_(Job.status == JobStatus.running, busy < limit))  # one whose worker is gone counts already
    return found.order_by(busy, served.c.token, Job.created_at, Job.id)
