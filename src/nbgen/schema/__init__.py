"""The nouns of nbgen: what to make, what became of it, and what people decided.

All are frozen values that import nothing of nbgen but its errors, so any thread may
hold them and any module may import them.
"""

from nbgen.schema.picture import GenerationResult, ImageRecord
from nbgen.schema.progress import (
    GenerationProgress,
    Preview,
    Stage,
    StagePlan,
    done_message,
    progress_of_record,
    rough_plan,
    shown_percentage,
)
from nbgen.schema.request import (
    GenerationRequest,
    Metadata,
    OutputFormat,
    SchedulerName,
    check_field,
)
from nbgen.schema.review import (
    ApprovalStatus,
    ContentTask,
    Decision,
    DecisionRequest,
    PublicationRecord,
    PublicationState,
    Verdict,
)
from nbgen.schema.subject import Change, Decided, Review, Ruling, Subject
from nbgen.schema.task import (
    BatchProgress,
    BatchRow,
    Outcome,
    Status,
    TaskEnd,
    TaskPage,
    TaskQuery,
    TaskRecord,
    counted_rows,
    in_batch,
    new_child,
    new_id,
    new_record,
)

__all__ = [
    "ApprovalStatus",
    "BatchProgress",
    "BatchRow",
    "Change",
    "ContentTask",
    "Decided",
    "Decision",
    "DecisionRequest",
    "GenerationProgress",
    "GenerationRequest",
    "GenerationResult",
    "ImageRecord",
    "Metadata",
    "Outcome",
    "OutputFormat",
    "Preview",
    "PublicationRecord",
    "PublicationState",
    "Review",
    "Ruling",
    "SchedulerName",
    "Stage",
    "StagePlan",
    "Status",
    "Subject",
    "TaskEnd",
    "TaskPage",
    "TaskQuery",
    "TaskRecord",
    "Verdict",
    "check_field",
    "counted_rows",
    "done_message",
    "in_batch",
    "new_child",
    "new_id",
    "new_record",
    "progress_of_record",
    "rough_plan",
    "shown_percentage",
]
