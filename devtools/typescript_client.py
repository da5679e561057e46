"""Generates the types of the TypeScript client from the service's OpenAPI document.

    python -m devtools.typescript_client        (make typescript)

Needs Node and npm. The first line of the types names the document that they were made from, so that
a test without Node finds out that they are old.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from p4r_qdrant.service.app import create_app
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.state import Service
from p4r_qdrant.settings import Settings
from p4r_qdrant.whole_files import write_whole

CLIENT = Path(__file__).parents[1] / "clients" / "typescript"
TYPES = Path("src") / "schema.ts"
"""The generated types, in the folder of the client."""


def document() -> dict[str, Any]:
    """The OpenAPI document of a service with the default settings; it reads no environment."""
    return create_app(Service(Backend(Settings.model_construct()))).openapi()


def heading(of: dict[str, Any]) -> str:
    """The first line of the types of a document. It ignores the version of the service."""
    text = json.dumps({**of, "info": None}, sort_keys=True)
    return f"// OpenAPI document: sha256 {hashlib.sha256(text.encode()).hexdigest()}\n"


def generate(client: Path, of: dict[str, Any]) -> str:
    """The types of a document, by the generator in `node_modules` of the client's folder.

    Raises subprocess.CalledProcessError with what the generator says.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(of, file)
        file.flush()
        # A request may leave out what has a default.
        options = ["--default-non-nullable=false"]
        command = ["node_modules/.bin/openapi-typescript", file.name, *options]
        done = subprocess.run(
            command, cwd=client, check=True, capture_output=True, text=True, timeout=300
        )
    return heading(of) + done.stdout


def install(client: Path) -> None:
    """Install what `package-lock.json` names into `node_modules`, without scripts of packages."""
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=client, check=True, capture_output=True, text=True, timeout=300)


def main() -> int:
    try:
        install(CLIENT)
        write_whole(CLIENT / TYPES, generate(CLIENT, document()))
    except FileNotFoundError:
        print("typescript_client: install Node 20 or newer with npm first", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"typescript_client: {error.cmd[0]} failed:\n{error.stderr}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
