"""What became of mutants in earlier runs: a line of JSON for each, added as soon as it is known."""

import hashlib
import json
from pathlib import Path

HELPERS = Path(__file__).parents[1]
"""What tests share stands at the top of this folder."""


class KnownFates:
    """A fate holds for the mutated module and the tests that execute it, as they are."""

    def __init__(self, file):
        self._file = file
        self._fates = {}
        self._contents = {
            test: hashlib.sha256(test.read_bytes()).digest() for test in HELPERS.rglob("*.py")
        }
        if file.exists():
            for line in file.read_text().splitlines():
                try:
                    self._fates.update([json.loads(line)])
                except ValueError:
                    continue  # half a line: the run was killed
        file.parent.mkdir(parents=True, exist_ok=True)

    def digest(self, test_files):
        """Of these files of tests, and of what they share, as they were when the run began."""
        found = hashlib.sha256()
        for file in [*sorted(HELPERS.glob("*.py")), *sorted(test_files)]:
            if file not in self._contents:
                self._contents[file] = hashlib.sha256(file.read_bytes()).digest()
            found.update(self._contents[file])
        return found.hexdigest()

    def key(self, path, source, digest):
        """Of a mutant: its module, changed, and the digest of its tests."""
        return hashlib.sha256("\0".join((path, source, digest)).encode()).hexdigest()

    def get(self, key):
        """Its fate; None: not known."""
        return self._fates.get(key)

    def keep(self, key, fate):
        """For this run and those to come."""
        self._fates[key] = fate
        with self._file.open("a") as lines:
            lines.write(json.dumps([key, fate]) + "\n")
