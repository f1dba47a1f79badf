"""Every error that nbgen raises on purpose, each with a stable wire code.

::

    NbgenError
    ├── InvalidRequest            invalid_request         a field is not allowed
    ├── RowErrors                 row_errors              rows of a table are wrong
    ├── CheckpointNotFound        checkpoint_not_found    no such model here
    ├── OutOfMemory               out_of_memory           too big a picture for here
    ├── BrokenPicture             broken_picture          black, or not a number
    ├── EngineFailed              engine_failed           the engine raised it
    ├── WorkerDied                worker_died             the process of the model ended
    ├── NoRecipe                  no_recipe               a file without its recipe
    ├── UnknownImage              unknown_image           no picture of that name
    ├── PictureDamaged            picture_damaged         a file has other bytes now
    ├── UnknownBatch              unknown_batch           no batch of that id
    ├── PackageMissing            package_missing         an optional package is needed
    ├── DataFolderUnusable        data_folder_unusable    nothing can be kept there
    ├── ForeignPictures           foreign_pictures        others may refer to them
    ├── BackupElsewhere           backup_elsewhere        other programs copy it
    ├── QueueFull                 queue_full              too many tasks wait
    ├── TaskError                 task_error              wrong with one task
    │   ├── UnknownTask           unknown_task            no task of that id
    │   ├── TaskConflict          task_conflict           the id means another request
    │   ├── TaskNotEnded          task_not_ended          it waits or runs
    │   ├── TaskSucceeded         task_succeeded          it has its pictures already
    │   ├── TaskNotWaiting        task_not_waiting        it has no place in the queue
    │   ├── TaskProtected         task_protected          published or approved
    │   ├── TaskUnfinished        task_unfinished         no result in time
    │   ├── TaskCancelled         task_cancelled          ended by a cancel
    │   ├── TaskLost              task_lost               its process died
    │   ├── GenerationFailed      generation_failed       the engine gave up
    │   ├── DecisionConflict      decision_conflict       it cannot be decided so now
    │   └── FeaturedImageMissing  featured_image_missing  nothing to approve
    ├── PublishFailed             publish_failed          an approval did not get out
    ├── AccessDenied              access_denied           credential missing or wrong
    ├── PortTaken                 port_taken              a server cannot listen there
    ├── ServerUnreachable         server_unreachable      no server at that address
    ├── UnexpectedAnswer          unexpected_answer       the server is not nbgen's
    └── StudioClosed              studio_closed           used after ``close()``

The message of each says what is wrong and what to do next; it is written for the
person who made the mistake and may be shown to any client. The codes are part of the
HTTP API and do not change; ``nbgen.wire.errors`` has the HTTP status of each. Errors
may be pickled. Besides its message, an error holds JSON values only, so that it can be
rebuilt on the other end of a pipe or a connection.
"""

from nbgen.errors.base import NbgenError
from nbgen.errors.engine import (
    BrokenPicture,
    CheckpointNotFound,
    EngineFailed,
    OutOfMemory,
    WorkerDied,
)
from nbgen.errors.requests import (
    InvalidRequest,
    NoRecipe,
    PictureDamaged,
    RowErrors,
    RowMistake,
    UnknownBatch,
    UnknownImage,
)
from nbgen.errors.studio import (
    AccessDenied,
    BackupElsewhere,
    DataFolderUnusable,
    ForeignPictures,
    PackageMissing,
    PortTaken,
    PublishFailed,
    QueueFull,
    ServerUnreachable,
    StudioClosed,
    UnexpectedAnswer,
)
from nbgen.errors.tasks import (
    DecisionConflict,
    FeaturedImageMissing,
    GenerationFailed,
    TaskCancelled,
    TaskConflict,
    TaskError,
    TaskLost,
    TaskNotEnded,
    TaskNotWaiting,
    TaskProtected,
    TaskSucceeded,
    TaskUnfinished,
    UnknownTask,
)

__all__ = [
    "AccessDenied",
    "BackupElsewhere",
    "BrokenPicture",
    "CheckpointNotFound",
    "DataFolderUnusable",
    "DecisionConflict",
    "EngineFailed",
    "FeaturedImageMissing",
    "ForeignPictures",
    "GenerationFailed",
    "InvalidRequest",
    "NbgenError",
    "NoRecipe",
    "OutOfMemory",
    "PackageMissing",
    "PictureDamaged",
    "PortTaken",
    "PublishFailed",
    "QueueFull",
    "RowErrors",
    "RowMistake",
    "ServerUnreachable",
    "StudioClosed",
    "TaskCancelled",
    "TaskConflict",
    "TaskError",
    "TaskLost",
    "TaskNotEnded",
    "TaskNotWaiting",
    "TaskProtected",
    "TaskSucceeded",
    "TaskUnfinished",
    "UnexpectedAnswer",
    "UnknownBatch",
    "UnknownImage",
    "UnknownTask",
    "WorkerDied",
]
