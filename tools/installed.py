"""What an installed package can do far from the repository: `make test-installed` runs this."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tlc_minimal as tlc


def main() -> None:
    inside = Path(sys.prefix).resolve()
    assert inside in Path(tlc.__file__).resolve().parents, f"{tlc.__file__} is not in {inside}"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run("doctor")
        run("demo", "--epochs", "1", "--tune", "1")
        assert Path("runs/demo/report.html").stat().st_size > 10_000
        try:
            tlc.load_checkpoint("resnet18_w8_digits")
        except FileNotFoundError as error:
            assert "data/checkpoints" in str(error) and "\n" not in str(error)
        else:
            raise AssertionError("a checkpoint came from nowhere")
    print("installed and far from the repository: import, doctor, demo, and one sentence")


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "tlc_minimal", *arguments], check=True)


if __name__ == "__main__":
    main()
