"""Bodies come back equal, and what a client sends wrongly is named."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgen.errors import InvalidRequest
from nbgen.schema import (
    ApprovalStatus,
    Attempt,
    AttemptOutcome,
    ContentTask,
    Decided,
    Decision,
    DecisionRequest,
    GenerationRequest,
    GenerationResult,
    ImageRecord,
    Metadata,
    Outcome,
    OutputFormat,
    PublicationRecord,
    PublicationState,
    QueueState,
    Review,
    SchedulerName,
    Status,
    TaskPage,
    TaskRecord,
    Verdict,
)
from nbgen.wire.http import (
    AcceptedAnswer,
    GenerateAnswer,
    GenerateBody,
    HistoryBody,
    Links,
    QueueBody,
    TaskBody,
    TaskPageBody,
    read_flag,
    read_task_query,
    sent_pictures,
)
from nbgen.wire.review import (
    BulkAnswer,
    BulkDecided,
    BulkRefused,
    ContentBody,
    DecideBody,
    DecisionAnswer,
    PutContentBody,
    read_bulk,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
TIMES = st.datetimes(timezones=st.just(dt.UTC))
NAMES = st.from_regex(r"\A[0-9a-f]{32}\.(png|jpeg|webp)\Z")
IDS = st.from_regex(r"\A[A-Za-z0-9_:-]{1,20}\Z")


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def sent(body: Any, kind: Any) -> Any:
    """Return a body as the other end decodes it."""
    return msgspec.json.decode(msgspec.json.encode(body), type=kind)


REQUESTS = st.builds(
    GenerationRequest,
    prompt=TEXTS.map(lambda text: f"a cat {text}".replace("\0", "")),
    width=maybe(st.sampled_from([64, 1024])),
    num_inference_steps=st.integers(10, 150),
    guidance_scale=st.floats(0, 20),
    seed=maybe(st.integers(0, 2**32 - 17)),
    use_refinement=st.booleans(),
    num_images=st.integers(1, 16),
    scheduler=st.sampled_from(SchedulerName),
    image=maybe(NAMES),
    strength=st.floats(0.5, 1),
    output_format=st.sampled_from(OutputFormat),
    metadata=st.sampled_from(Metadata),
)
ATTEMPTS = st.builds(
    Attempt,
    number=st.integers(1, 9),
    request=REQUESTS,
    seed=st.integers(0, 2**32 - 1),
    lane=maybe(WORDS),
    started_at=maybe(TIMES),
    ended_at=maybe(TIMES),
    outcome=maybe(st.sampled_from(AttemptOutcome)),
    error=maybe(TEXTS),
)
DECISIONS = st.builds(
    Decision,
    sequence=st.integers(1, 10**9),
    task_id=IDS,
    version=st.integers(1, 99),
    verdict=st.sampled_from(Verdict),
    reviewer_id=WORDS,
    feedback=maybe(TEXTS),
    tags=st.lists(WORDS, max_size=2).map(tuple),
    image=maybe(NAMES),
    featured_image_url=maybe(WORDS),
    decided_at=TIMES,
    supersedes=maybe(st.integers(1, 99)),
    child_id=maybe(IDS),
)
RESULTS = st.builds(
    GenerationResult,
    images=st.lists(
        st.builds(
            ImageRecord,
            name=NAMES,
            url=TEXTS,
            width=st.integers(1, 2048),
            height=st.integers(1, 2048),
            seed=st.integers(0, 2**32 - 1),
        ),
        max_size=2,
    ).map(tuple),
    generation_time=st.floats(0, 1e6),
    notes=st.lists(TEXTS, max_size=2).map(tuple),
)
RECORDS = st.builds(
    TaskRecord,
    id=IDS,
    parent_id=maybe(IDS),
    batch_id=maybe(IDS),
    batch_row=maybe(IDS),
    request=REQUESTS,
    seed=st.integers(0, 2**32 - 1),
    priority=st.integers(-1000, 1000),
    attempt=st.integers(0, 9),
    lane=maybe(WORDS),
    is_offered=st.booleans(),
    status=st.sampled_from(Status),
    outcome=maybe(st.sampled_from(Outcome)),
    error=maybe(TEXTS),
    created_at=TIMES,
    started_at=maybe(TIMES),
    ended_at=maybe(TIMES),
    current_step=st.integers(0, 150),
    stages=st.dictionaries(TEXTS, st.floats(0, 1e3), max_size=2),
    step_times=st.dictionaries(
        TEXTS, st.lists(st.floats(0, 9), max_size=2).map(tuple), max_size=2
    ),
    made_with=st.dictionaries(TEXTS, TEXTS, max_size=2),
    result=maybe(RESULTS),
    decisions=st.lists(DECISIONS, max_size=2).map(tuple),
    decision=maybe(DECISIONS),
    approval_status=st.sampled_from(ApprovalStatus),
)
PUBLICATIONS = st.lists(
    st.builds(
        PublicationRecord,
        number=st.integers(1, 99),
        decision=st.integers(1, 99),
        task_id=IDS,
        publisher=TEXTS,
        state=st.sampled_from(PublicationState),
        attempts=st.integers(0, 9),
        next_at=TIMES,
        url=maybe(TEXTS),
        error=maybe(TEXTS),
    ),
    max_size=2,
).map(tuple)
DECISION_REQUESTS = st.builds(
    DecisionRequest,
    task_id=IDS,
    verdict=st.sampled_from([Verdict.APPROVED, Verdict.REJECTED]),
    reviewer_id=IDS,
    feedback=maybe(IDS),
    tags=st.lists(IDS, max_size=2).map(tuple),
    image=maybe(NAMES),
    featured_image_url=maybe(IDS),
    expect_version=maybe(st.integers(0, 9)),
)


@given(REQUESTS, maybe(IDS), st.booleans())
def test_a_request_comes_back_equal(
    request: GenerationRequest, task_id: str | None, wait: bool
) -> None:
    body = GenerateBody.of(request, task_id=task_id, wait=wait)
    assert sent(body, GenerateBody) == body
    read = GenerateBody.read(sent(body, dict[str, Any]))
    assert (read.request, read.task_id, read.wait) == (request, task_id, wait)


@given(RECORDS, PUBLICATIONS)
def test_a_task_comes_back_equal(
    record: TaskRecord, publications: tuple[PublicationRecord, ...]
) -> None:
    body = sent(TaskBody.of(record, publications), TaskBody)
    assert body.record == record
    assert body.publications == publications
    assert body.version == len(record.decisions)
    page = sent(TaskPageBody.of(TaskPage([record], "x")), TaskPageBody).page
    assert (page, page.next_cursor) == ([record], "x")


@given(st.lists(ATTEMPTS, max_size=2).map(tuple))
def test_a_history_comes_back_equal(attempts: tuple[Attempt, ...]) -> None:
    body = HistoryBody(task_id="a", attempts=attempts)
    assert sent(body, HistoryBody) == body


def test_a_queue_comes_back_equal() -> None:
    state = QueueState(name="small", is_paused=True, waiting=2, running=1)
    body = QueueBody.of(state, running=["a"], waiting=["b", "c"], offered=[])
    assert sent(body, QueueBody) == body
    assert (body.name, body.is_paused, body.waiting) == ("small", True, ("b", "c"))


@given(
    st.builds(
        ContentTask,
        task_id=IDS,
        metadata=st.dictionaries(TEXTS, TEXTS | st.lists(st.booleans()), max_size=3),
        featured_image_url=maybe(TEXTS),
        created_at=TIMES,
        updated_at=TIMES,
        decisions=st.lists(DECISIONS, max_size=2).map(tuple),
        decision=maybe(DECISIONS),
        approval_status=st.sampled_from(ApprovalStatus),
    ),
    PUBLICATIONS,
)
def test_a_task_made_elsewhere_comes_back_equal(
    content: ContentTask, publications: tuple[PublicationRecord, ...]
) -> None:
    body = sent(ContentBody.of(content, publications), ContentBody)
    assert (body.content, body.publications) == (content, publications)
    put = PutContentBody(task_metadata=content.metadata)
    assert PutContentBody.read(sent(put, dict[str, Any])) == put


@given(DECISION_REQUESTS)
def test_a_request_to_decide_comes_back_equal(request: DecisionRequest) -> None:
    body = sent(DecideBody.of(request), dict[str, Any])
    assert DecideBody.read(body).request(request.task_id) == request
    item = {**body, "task_id": request.task_id}
    assert read_bulk({"decisions": [item, item]}) == [request, request]


@given(DECISIONS, PUBLICATIONS, st.sampled_from(ApprovalStatus))
def test_a_decision_comes_back_equal(
    decision: Decision,
    publications: tuple[PublicationRecord, ...],
    status: ApprovalStatus,
) -> None:
    review = Review(status, decision, None, {}, 3)
    decided = Decided(decision, review, publications, "Approved.")
    answer = sent(DecisionAnswer.of(decided), DecisionAnswer)
    assert answer == DecisionAnswer.of(decided)
    assert answer.decision == decision
    refused = BulkRefused.of(InvalidRequest("tags", 5, "a list"), "a")
    many = BulkAnswer([BulkDecided.of(decided), refused])
    back = BulkAnswer.decode(msgspec.json.encode(many))
    assert back == many
    assert back.answers[0] == decision
    error = back.answers[1]
    assert isinstance(error, InvalidRequest)
    assert (error.field, str(error)) == ("tags", "tags must be a list; got 5.")


def test_answers_to_a_generation_come_back_equal() -> None:
    image = ImageRecord(name="a.png", url="/images/a.png", width=8, height=16, seed=1)
    result = GenerationResult(images=(image,), generation_time=1.5)
    for answer in (
        GenerateAnswer.of(result, "a"),
        GenerateAnswer(success=False, message="Cancelled.", task_id=None),
    ):
        assert sent(answer, GenerateAnswer) == answer
    links = Links.of("a")
    accepted = AcceptedAnswer(task_id="a", status=Status.PENDING, links=links)
    assert sent(accepted, AcceptedAnswer) == accepted
    assert sent(links, dict[str, str])["self"] == "/api/tasks/a"


def test_a_wish_to_undo_is_never_a_rejection() -> None:
    [item] = read_bulk(
        {"decisions": [{"task_id": "a", "reviewer_id": "ada", "undo": True}]}
    )
    assert isinstance(item, BulkRefused)
    assert item.error.field == "approved"


@pytest.mark.parametrize("approved", [True, False])
def test_a_wish_to_undo_among_many_is_refused(approved: bool) -> None:
    wish = {"task_id": "a", "reviewer_id": "ada", "undo": True, "approved": approved}
    [item] = read_bulk({"decisions": [wish]})
    assert isinstance(item, BulkRefused)
    assert item.error.details["field"] == "undo"


def test_a_verdict_without_a_word_in_the_api_is_refused() -> None:
    request = DecisionRequest(
        task_id="a", verdict=Verdict.CHANGES_REQUESTED, reviewer_id="ada"
    )
    with pytest.raises(InvalidRequest, match="'approved' or 'rejected' over HTTP"):
        DecideBody.of(request)


def test_pictures_that_are_sent_are_found() -> None:
    body = {"image": "data:image/png;base64,aGk=", "mask": "a.png", "prompt": "data:"}
    assert sent_pictures(body) == {"image": b"hi"}
    with pytest.raises(InvalidRequest, match="mask must be a name"):
        sent_pictures({"mask": "data:,x"})


def test_a_query_for_tasks_is_read() -> None:
    query = read_task_query(
        {"limit": "5", "since": "2026-01-02T03:04:05 01:00", "token": "x"}
    )
    assert query.limit == 5
    assert query.since == dt.datetime(2026, 1, 2, 2, 4, 5, tzinfo=dt.UTC)
    assert read_task_query({}).limit == 100


def test_a_flag_of_an_address_is_true_or_false() -> None:
    assert (read_flag("force", "true"), read_flag("force", "false")) == (True, False)
    for value in ("", "1", "True", "yes"):
        with pytest.raises(InvalidRequest, match=r"^force must be true or false"):
            read_flag("force", value)
