"""A real JupyterLab, Notebook or Voila on a loopback port, and a real browser."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import pytest

with suppress(ImportError):  # without it these tests are skipped
    from playwright.sync_api import TimeoutError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
TOKEN = "only-for-this-test"
SHOTS = Path(os.environ.get("FASTVAR_LAB_SHOTS", "screenshots"))  # kept when the tests are over


def pytest_collection_modifyitems(items):
    if CHROMIUM:
        return
    mark = pytest.mark.skip(reason="no chromium here; get it with: apt-get install -y chromium")
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker(mark)


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield found
        found.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 1500})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    asked = page.get_by_role("dialog").filter(has_text="Select Kernel")  # by a slow start
    page.add_locator_handler(asked, lambda _: asked.get_by_text("Select", exact=True).click())
    yield page
    context.close()


@contextmanager
def served(folder, *command, theme="Light"):
    """Run a server on a free loopback port until the block ends; give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = folder / ".home"
    own = {f"JUPYTER_{d.upper()}_DIR": str(home / d) for d in ("config", "data", "runtime")}
    own |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings")}
    settings = home / "settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    for name, values in {
        "notification": {"fetchNews": "false", "checkForUpdates": False},
        "themes": {"theme": f"JupyterLab {theme}"},
    }.items():
        (settings / f"{name}.jupyterlab-settings").write_text(json.dumps(values))
    log = (folder / ".home" / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", *(part.format(port=port) for part in command)],
        cwd=folder,
        env={**os.environ, **own},
        stdout=log,
        stderr=log,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (home / "server.log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.25)
        else:
            raise TimeoutError((home / "server.log").read_text())
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:  # Jupyter may wait for its websockets without end
            process.kill()
            process.wait()
        log.close()
    text = (home / "server.log").read_text()  # kernels write there too
    assert not (faults := tracebacks(text)), faults


def tracebacks(log):
    """Return the tracebacks of a log, but for two that a loaded machine makes Jupyter write.

    Its server raises when a page asks for a kernel that it has replaced meanwhile, and the kernel
    that it replaces is interrupted while it starts.
    """
    parts = [part.split("\n[")[0] for part in log.split("Traceback (most recent call last)")[1:]]
    replaced = ("has no attribute 'kernel_ws_protocol'", "KeyboardInterrupt")
    return [part for part in parts if not part.rstrip().endswith(replaced)]


JUPYTER = ("--no-browser", "--allow-root", "--ServerApp.port={port}",
           f"--IdentityProvider.token={TOKEN}", "--ServerApp.ip=127.0.0.1")  # fmt: skip


@pytest.fixture
def lab(tmp_path):
    with served(tmp_path, "jupyterlab", *JUPYTER) as address:
        yield address


def write_notebook(path, *cells):
    """Write a notebook of code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, path)


def run_all(page, address, name, path="lab/tree"):
    """Open a notebook and run all of its cells."""
    page.goto(f"{address}/{path}/{name}?token={TOKEN}")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    begun = page.locator(".jp-CodeCell .jp-InputPrompt").first.filter(has_not_text="[ ]")
    for _ in range(5):  # a kernel that is not yet connected may drop the first request
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            begun.wait_for(timeout=5_000)
            return
        except TimeoutError:
            continue


def shoot(page, name, height=None):
    """Keep a screenshot of a page, or of its upper `height` pixels, or of an element."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    part = {}
    if height:
        width = page.viewport_size["width"]
        part = {"clip": {"x": 0, "y": 0, "width": width, "height": height}}
    page.screenshot(path=SHOTS / f"{name}.png", **part)
