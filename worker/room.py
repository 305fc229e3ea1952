"""Whether something went wrong because a disk is full: a fault of the machine, never of the job that met it."""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)
SAID = ("No space left on device", "Disk quota exceeded", "database or disk is full")  # by libraries that keep no errno


def out_of_room(problem: BaseException | None) -> bool:
    """Also when that is only what led to `problem`."""
    seen: set[int] = set()
    while problem is not None and id(problem) not in seen:
        seen.add(id(problem))
        if getattr(problem, "errno", None) in FULL or any(said in str(problem) for said in SAID):
            return True
        problem = problem.__cause__ or problem.__context__
    return False
