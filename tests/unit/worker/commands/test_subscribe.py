import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["worker.cli", "worker.commands.subscribe", "worker.consumer"])
def test_nothing_heavy_is_imported_to_read_events(module):
    heavy = {"torch", "av", "numpy", "rich", "prometheus_client"}
    program = f"import sys, {module}; print(*{heavy} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.split() == []
