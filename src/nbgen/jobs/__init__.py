"""What runs when: a queue and the one worker that empties it."""

from nbgen.jobs.history import RunHistory
from nbgen.jobs.queue import Job, JobQueue
from nbgen.jobs.worker import Worker

__all__ = ["Job", "JobQueue", "RunHistory", "Worker"]
