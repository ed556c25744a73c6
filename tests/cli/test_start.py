"""A client begins at once: it imports what its work needs, and no more."""

import json
import subprocess
import sys
from pathlib import Path

NOT_FOR_A_CLIENT = {
    *("torch", "onnx", "onnxscript", "safetensors", "sklearn", "skimage", "matplotlib"),
    *("shapely", "tifffile", "distributed", "grpc", "sympy"),
}
ONLY_FOR_A_SERVER = {"tritonclient.http", "gevent", "geventhttpclient"}

PREDICT = """
import json, sys
from sagdeploy.cli.app import run
code = run({arguments!r})
print(json.dumps([code, sorted(sys.modules)]))
"""


def test_predict_in_process_imports_no_more_than_it_needs(
    tmp_path: Path, painted: Path, repository: Path
) -> None:
    arguments = ["predict", str(painted), "--repository", str(repository), "--out", str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, "-c", PREDICT.format(arguments=arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    code, modules = json.loads(ran.stdout.splitlines()[-1])
    assert code == 0, ran.stderr
    loaded = {name.split(".")[0] for name in modules}
    assert not NOT_FOR_A_CLIENT & loaded
    assert not ONLY_FOR_A_SERVER & {*modules}
