"""Lint of what is deployed: `python -m tests.lint_audit` asks whether a pinned version is known
to be vulnerable.

Takes requirements.lock; fails if the advisory database names a vulnerability of what it pins. Where
the database cannot be reached it says so in one line and fails nothing.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
UNREACHABLE = "pip-audit: the advisory database cannot be reached: skipped"
ANSWER_SECONDS = 5
WHOLE_SECONDS = 120


def pins(lock):
    """NAME==VERSION of every package, without hashes and markers."""
    return re.findall(r"^([A-Za-z0-9._-]+==[^ \\]+)", lock, re.MULTILINE)


def audit(pinned):
    """The output of pip-audit, as JSON; empty if it gets no answer."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pinned))
        file.flush()
        command = [
            sys.executable, "-m", "pip_audit", "--requirement", file.name, "--no-deps",
            "--disable-pip", "--format", "json", "--progress-spinner", "off",
            "--timeout", str(ANSWER_SECONDS),
        ]  # fmt: skip
        try:
            return subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                timeout=WHOLE_SECONDS,
            ).stdout  # fmt: skip
        except subprocess.TimeoutExpired:
            return ""


def verdict(answer):
    """Lines to print, and whether anything needs fixing."""
    try:
        packages = json.loads(answer)["dependencies"]
    except (ValueError, KeyError):
        return [UNREACHABLE], False
    known = [package for package in packages if "vulns" in package]
    if not known:  # a mirror of the registry may have no advisories
        return [UNREACHABLE], False
    lines = [
        f"requirements.lock: {package['name']} {package['version']}: {found['id']}: "
        f"fixed in {', '.join(found['fix_versions']) or 'no version yet'}: make lock"
        for package in known
        for found in package["vulns"]
    ]
    unknown = len(packages) - len(known)
    summary = f"pip-audit: {len(known)} packages looked up, {len(lines)} vulnerabilities"
    if unknown:
        summary += f"; nothing is known of {unknown} more"
    return [*lines, summary], bool(lines)


if __name__ == "__main__":
    lines, failed = verdict(audit(pins((ROOT / "requirements.lock").read_text())))
    print("\n".join(lines))
    sys.exit(failed)
