"""The example catalogue is found in a checkout and in an installed wheel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p4r_qdrant.resources import resource
from tests.support.paths import ROOT


def test_in_a_checkout() -> None:
    assert resource("examples/bookshop") == ROOT / "examples" / "bookshop"
    assert resource("examples/bookshop/personas.jsonl").is_file()


@pytest.mark.parametrize("name", ["examples/nope", "nope"])
def test_what_is_not_there(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"{name} does not come with this installation"):
        resource(name)


def run(*command: str, cwd: Path, path: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name[:4] != "P4R_"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel of this checkout was installed into."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "wheels", str(ROOT), cwd=folder)
    [wheel] = (folder / "wheels").glob("*.whl")
    run(*pip, "install", "--no-deps", "--target", "site", str(wheel), cwd=folder)
    return folder / "site"


def test_in_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import p4r_qdrant, indexer; from p4r_qdrant.resources import resource;"
        "from indexer.artifacts.folder import ArtifactFolder, Refusals;"
        "wrong = Refusals(); folder = ArtifactFolder(resource('examples/bookshop'));"
        "print(p4r_qdrant.__file__, indexer.__file__, folder.path, sep='\\n');"
        "print(len(list(folder.index_rows('books', wrong))), wrong.total)"
    )
    *files, counts = run("-c", code, cwd=tmp_path, path=installed).splitlines()
    assert all(Path(file).is_relative_to(installed) for file in files), files
    assert counts == "24 0"


def test_the_pages_of_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "from indexer.audit.figures import Audit; from indexer.audit.page import page;"
        "print(page(Audit('f', *[None] * 6), 'a <folder>'))"
    )
    html = run("-c", code, cwd=tmp_path, path=installed)
    assert "<title>Audit of a &lt;folder&gt;</title>" in html
    assert "prefers-color-scheme: dark" in html


def test_a_wheel_carries_what_a_checkout_has_and_nothing_else(installed: Path) -> None:
    def below(folder: Path) -> set[str]:
        return {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    for package in ("p4r_qdrant", "indexer"):
        own = {name for name in below(installed / package) if not name.startswith("_resources/")}
        assert own == below(ROOT / package)
        assert "py.typed" in own
    bookshop = installed / "p4r_qdrant" / "_resources" / "examples" / "bookshop"
    assert below(bookshop) == below(ROOT / "examples" / "bookshop")
    unwanted = {"tests", "benchmarks", "devtools", "docker"}
    assert not unwanted & {path.name for path in installed.iterdir()}
    assert list(installed.glob("p4r_qdrant-*.dist-info/licenses/LICENSE"))


def test_the_command_of_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    [entry_points] = installed.glob("p4r_qdrant-*.dist-info/entry_points.txt")
    assert "p4r = indexer.cli:main" in entry_points.read_text()
    code = "import sys; from indexer.cli import main; sys.argv = ['p4r', '--help']; main()"
    assert "rerank" in run("-c", code, cwd=tmp_path, path=installed)
