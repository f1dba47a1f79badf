"""What runs when: a queue, the one worker that empties it, and what runs elsewhere."""

from nbgen.jobs.followed import FollowedTasks
from nbgen.jobs.history import RunHistory
from nbgen.jobs.queue import Job, JobQueue
from nbgen.jobs.worker import Worker

__all__ = ["FollowedTasks", "Job", "JobQueue", "RunHistory", "Worker"]
