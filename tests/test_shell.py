"""The conventions of a shell: pipes, exit statuses, and refusals before anything is written."""

import os
import subprocess
import sys

import pytest

LAB = [sys.executable, "-m", "fastvar_lab"]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("arguments", [["experiment"], ["--help"]])
def test_a_reader_that_leaves_ends_a_command_quietly(arguments):
    read, written = os.pipe()
    os.close(read)
    pipes = {"stdout": written, "stderr": subprocess.PIPE, "env": BUFFERED}
    command = subprocess.Popen([*LAB, *arguments], **pipes)
    os.close(written)
    assert command.communicate(timeout=60)[1] == b""
    assert command.returncode == 141


def test_a_full_disk_is_one_line(tmp_path):
    with open("/dev/full", "w", encoding="utf-8") as full:
        ended = subprocess.run(
            [*LAB, "experiment"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 2
    assert ended.stderr == "fastvar-lab: [Errno 28] No space left on device\n"
