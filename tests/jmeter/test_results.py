"""The arithmetic of the stress report, held against figures that Apache JMeter 5.6.3 itself gave for the same samples."""

from pathlib import Path

import pytest

from jmeter.stress.results import Limits, Sample, aggregate, conversions, judge, percentile, read, troubles

START = 1_700_000_000_000


def sample(label: str = "Upload", start: int = 0, elapsed: int = 10, success: bool = True, **more: object) -> Sample:
    """A sample that began `start` ms into the run."""
    fields = {"received": 0, "sent": 0, "code": "200", "trouble": "", "transaction": False, **more}
    return Sample(label, START + start, elapsed, success, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "share", "rank"),
    [
        (1, 0.5, 1), (2, 0.5, 1), (3, 0.5, 2),  # 1.5 rounds up to 2
        (10, 0.95, 10),  # 9.5 rounds up
        (10, 0.9, 9), (19, 0.95, 18), (60, 0.95, 57), (100, 0.99, 99), (1, 0.01, 1), (7, 1.0, 7),
    ],
)  # fmt: skip
def test_percentile_takes_the_rank_that_jmeter_takes(count: int, share: float, rank: int) -> None:
    """round(count × share) with halves up, and never below the first."""
    assert percentile(list(range(1, count + 1)), share) == rank


def test_percentile_of_nothing() -> None:
    """Nothing measured is 0, as in JMeter's table."""
    assert percentile([], 0.95) == 0


def test_table_is_jmeters() -> None:
    """The rows for these samples are what JMeter's SamplingStatCalculator says, to the digits that it shows."""
    times = [120, 80, 95, 300, 1500, 60, 61, 62, 700, 90]
    samples = [
        sample("Upload", 500 * at, elapsed, success=elapsed != 1500, received=883, sent=2_980_000)
        for at, elapsed in enumerate(times)
    ]
    samples.append(sample("Log in", 100, 45, received=1274, sent=264))
    upload, login, total = aggregate(samples)
    assert (upload.samples, upload.average, upload.median) == (10, 306, 90)
    assert (upload.p90, upload.p95, upload.p99, upload.least, upload.most) == (700, 1500, 1500, 60, 1500)
    assert upload.error_percent == pytest.approx(10.0)
    # From the first start to the last end: 500 × 8 + 700 ms.
    assert upload.throughput == pytest.approx(10 / 4.7)
    assert upload.received_kb == pytest.approx(8830 / 1024 / 4.7)
    assert upload.sent_kb == pytest.approx(29_800_000 / 1024 / 4.7)
    assert (login.samples, login.median, login.throughput) == (1, 45, pytest.approx(1000 / 45))
    assert (total.label, total.samples, total.average) == ("TOTAL", 11, 283)
    assert total.error_percent == pytest.approx(100 / 11)


def test_instant_sample_has_no_throughput() -> None:
    """A lone sample of 0 ms divides by nothing."""
    assert aggregate([sample(elapsed=0)])[0].throughput == 0


def test_no_samples_no_rows() -> None:
    """An empty result file gives an empty table, which no limit can pass."""
    assert aggregate([]) == []
    assert not all(verdict.passed for verdict in judge([], Limits(), "Upload", 30))


def test_one_error_in_sixty_is_too_many() -> None:
    """Each row must keep the error limit by itself: many cheap requests do not thin out the errors of the dear ones."""
    samples = [sample("Log in", at, success=at > 0) for at in range(60)] + [sample("Look", at) for at in range(1000)]
    verdicts = {verdict.what: verdict.passed for verdict in judge(aggregate(samples), Limits(), "Log in", 60)}
    assert verdicts["Errors, Log in"] is False
    assert verdicts["Errors, Look"] is True
    assert verdicts["Errors, TOTAL"] is True


def test_slow_requests_fail_and_slow_conversions_do_not() -> None:
    """The time limit is for requests; a conversion takes its time unless a limit of its own is named."""
    samples = [sample("Upload", at, 1501) for at in range(20)]
    samples += [sample("Upload to PROCESSED", at, 30_000, transaction=True) for at in range(20)]
    rows = aggregate(samples)
    verdicts = {verdict.what: verdict.passed for verdict in judge(rows, Limits(), "Upload", 20)}
    assert verdicts["95 % line, Upload"] is False
    assert "95 % line, Upload to PROCESSED" not in verdicts
    strict = judge(rows, Limits(processed_p95_ms=29_999), "Upload", 20)
    assert {verdict.what: verdict.passed for verdict in strict}["95 % line, Upload to PROCESSED"] is False


def test_limits_include_their_own_value() -> None:
    """Exactly 1 % and exactly 1.5 s are within the limits."""
    samples = [sample("Upload", at, 1500, success=at > 0) for at in range(100)]
    assert all(verdict.passed for verdict in judge(aggregate(samples), Limits(), "Upload", 100))


def test_missing_samples_fail() -> None:
    """A run that lost users must not pass on the fine figures of the rest."""
    verdicts = judge(aggregate([sample("Upload", at) for at in range(29)]), Limits(), "Upload", 30)
    assert [verdict.what for verdict in verdicts if not verdict.passed] == ["Samples of “Upload”"]


def test_conversions_a_minute() -> None:
    """PROCESSED ones over the time from the first upload to the last end; the best minute counts ends within 60 s."""
    done = [sample("P", 30_000 * at, 15_000, success=at != 4, transaction=True) for at in range(5)]
    found = conversions([*done, sample("Upload", 0, 100)])
    assert found is not None
    assert (found.asked, found.done, found.seconds) == (5, 4, 135)
    assert found.per_minute == pytest.approx(4 / 135 * 60)
    assert found.best_minute == 2
    assert conversions([sample("Upload")]) is None


def test_a_short_run_has_no_best_minute() -> None:
    """A minute that was not measured is not made up."""
    found = conversions([sample("P", 0, 2000, transaction=True)])
    assert found is not None
    assert found.best_minute is None
    assert found.per_minute == pytest.approx(30)


def test_result_file(tmp_path: Path) -> None:
    """JMeter's CSV, with quotes, commas and line breaks in messages, in any order of columns; transactions are told apart."""
    path = tmp_path / "results.jtl"
    path.write_text(
        "timeStamp,elapsed,label,responseCode,responseMessage,success,failureMessage,bytes,sentBytes\n"
        f'{START + 5},7,"List, newest",500,SERVER ERROR,false,"Test failed: code expected to equal\n\n****** 200",10,20\n'
        f'{START},900,P,200,"Number of samples in transaction : 4, number of failing samples : 0",true,,1,2\n'
    )
    transaction, listed = read(path)
    assert (transaction.label, transaction.transaction, transaction.end) == ("P", True, START + 900)
    assert (listed.label, listed.success, listed.received, listed.sent) == ("List, newest", False, 10, 20)
    assert troubles([transaction, listed, listed]) == [
        ("List, newest", "500", "Test failed: code expected to equal ****** 200", 2)
    ]
