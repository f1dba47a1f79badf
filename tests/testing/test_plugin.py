"""The pytest plugin, and the examples of docs/testing.md, in a project of a user's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from nbgen.schema import Status
from nbgen.studio import Studio
from nbgen.testing import Gate
from nbgen.testing.plugin import MakeStudio

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_examples_of_the_page_pass(tmp_path: Path) -> None:
    conftest, tests, *scripts = EXAMPLES
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_page.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-W", "error"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    for script in scripts:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_plugin_loads_no_torch() -> None:
    program = (
        "import sys, nbgen.testing.plugin; "
        "sys.exit(str({'torch', 'diffusers', 'tornado', 'ipywidgets', 'pandas'}"
        " & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stderr.strip() == ""


def test_studios_of_a_test_share_a_folder(make_nbgen_studio: MakeStudio) -> None:
    gate = Gate()
    first, second = make_nbgen_studio(gate), make_nbgen_studio(take_over=False)
    first.generate("a cat", task_id="a")
    gate.wait_reached()
    assert second.get_record("a").status is Status.GENERATING


def test_a_studio_of_the_fixture_draws(nbgen_studio: Studio) -> None:
    assert nbgen_studio.generate("a cat").result(10).images
