"""What all tests share: a store of their own, and skips that must be on the list where MAQUETTE_STRICT_SKIPS is set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")
_surprises: list[str] = []


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's store, models or Hugging Face cache."""
    folder = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("MAQUETTE_STORE", str(folder / "store"))
    monkeypatch.setenv("MAQUETTE_MODELS", str(folder / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "hub"))


def _is_allowed(reason: str) -> bool:
    lines = ALLOWED.read_text(encoding="utf-8").splitlines()
    return any(line.strip() in reason for line in lines if line.strip() and not line.startswith("#"))


def _note(name: str, longrepr: object) -> None:
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    if os.environ.get("MAQUETTE_STRICT_SKIPS") and not _is_allowed(reason):
        _surprises.append(f"{name}: {reason}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _note(report.nodeid, report.longrepr)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _note(report.nodeid, report.longrepr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _surprises:
        terminalreporter.section("skips that are not in tests/allowed_skips.txt", red=True)
        for line in sorted(set(_surprises)):
            terminalreporter.line(line)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _surprises and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
