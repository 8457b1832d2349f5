import shutil
from contextlib import contextmanager

import pytest

from lightning_gap.recipes.runner import telling


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by playwright; where one of them is missing, what asks for it is skipped, saying so."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium on the PATH")
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def says_nothing_while_it_works(monkeypatch, request):
    """What takes more than two seconds says so on stderr, where tests look for errors: how fast is the machine?"""
    if not request.module.__name__.endswith("test_terminal"):
        monkeypatch.setattr(telling, "FIRST", 1e9)


@pytest.fixture
def full_disk():
    """Within ``full_disk(room)`` no file grows beyond that many bytes, which fails as a full disk does."""
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")

    @contextmanager
    def limited(room):
        before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)

    return limited
