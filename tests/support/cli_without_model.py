"""The `p4r` command with a HashEncoder: a process need not load a real model.

python -m tests.support.cli_without_model ARGUMENTS
"""

from indexer.cli import main
from p4r_qdrant.encoder.local import PersonaEncoder
from tests.support.hash_encoder import HashEncoder

if __name__ == "__main__":
    PersonaEncoder.from_settings = lambda _: HashEncoder()  # type: ignore[method-assign, assignment, return-value]
    main()
