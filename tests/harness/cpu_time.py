"""A pytest plugin: CPU seconds of each test, with those of the processes that it started and waited for, and what each process
of pytest-xdist ran how long."""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Generator

import pytest

from .program import cpu_s

SHOWN, LONGEST = 15, 8
_per_test: defaultdict[str, float] = defaultdict(float)  # filled where the summary is printed
_last = [0.0]
_spans: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(
    lambda: defaultdict(list)
)  # by process and module


def _used_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime + cpu_s[0]


def pytest_collection_finish() -> None:
    _last[0] = _used_s()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "teardown":
        before, _last[0] = _last[0], _used_s()
        report.user_properties.append(("cpu_s", _last[0] - before))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    process = getattr(getattr(report, "node", None), "gateway", None)
    _spans[getattr(process, "id", "main")][report.nodeid.partition("::")[0]] += [report.start, report.stop]
    _per_test[report.nodeid] += sum(float(str(value)) for name, value in report.user_properties if name == "cpu_s")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    per_module: defaultdict[str, float] = defaultdict(float)
    for test, seconds in _per_test.items():
        per_module[test.partition("::")[0]] += seconds
    for title, counts in (("tests", _per_test), ("modules", per_module)):
        terminalreporter.section(f"CPU seconds of {title}")
        for name, seconds in sorted(counts.items(), key=lambda pair: -pair[1])[: SHOWN if title == "tests" else None]:
            terminalreporter.write_line(f"{seconds:7.1f}  {name}")
    terminalreporter.write_line(f"{sum(per_module.values()):7.1f}  in all")
    terminalreporter.section("From and to which second each process ran what took longest")
    began = min((times[0] for spans in _spans.values() for times in spans.values()), default=0.0)
    for process, spans in sorted(_spans.items()):
        longest = sorted(spans.items(), key=lambda span: span[1][0] - span[1][-1])[:LONGEST]
        for module, times in sorted(longest, key=lambda span: span[1][0]):
            terminalreporter.write_line(f"{process:5} {times[0] - began:6.0f} {times[-1] - began:6.0f}  {module}")
