"""The files that an open project is expected to have: they are well formed, and what they name exists."""

import hashlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import PROJECT

WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
HOOKS = PROJECT / ".pre-commit-config.yaml"
# Of https://www.apache.org/licenses/LICENSE-2.0.txt
APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md"]


def scripts_in(command: str) -> list[str]:
    """The files of the project that a shell command runs."""
    return [word for word in shlex.split(command, comments=True) if re.fullmatch(r"(tools|deploy)/[\w./-]+", word)]


def test_the_licence_is_apache_2_word_for_word():
    assert hashlib.sha256((PROJECT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_SHA256


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_top_level_pages_lead_to_files(page):
    links = re.findall(r"\]\(([^()\s]+)\)", (PROJECT / page).read_text(encoding="utf-8"))
    files = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert not [file for file in files if file and not (PROJECT / file).exists()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_pins_its_actions(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])


def test_workflows_run_the_two_commands_and_scripts_that_exist():
    steps = [
        step.get("run", "")
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
        for step in job["steps"]
    ]
    assert {"bash tools/quickstart.sh", "bash tools/test.sh", "bash tools/test_aarch64.sh"} <= set(steps)
    assert not [script for step in steps for script in scripts_in(step) if not (PROJECT / script).exists()]


def test_pythons_in_workflows_are_those_that_the_package_supports():
    (oldest,) = re.findall(r'^requires-python = ">=3\.(\d+)"$', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    tested = yaml.safe_load((PROJECT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    for name in ("quickstart", "test"):
        minors = [int(version.removeprefix("3.")) for version in tested[name]["strategy"]["matrix"]["python"]]
        assert minors == list(range(int(oldest), max(minors) + 1))


def test_hooks_run_the_tools_of_the_test_script():
    """Local hooks alone: nothing is downloaded, and versions are those of .venv."""
    (repository,) = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    entries = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    test_script = (PROJECT / "tools" / "test.sh").read_text(encoding="utf-8")
    for words in entries:
        tool = Path(words[0]).name
        if tool == "bash":
            assert (PROJECT / words[1]).exists()
        else:
            assert f".venv/bin/{tool}" in test_script, f"tools/test.sh does not run {tool}"
    assert ["bash", "tools/test.sh", "fast"] in entries
