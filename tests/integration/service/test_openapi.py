"""Whatever fits the OpenAPI document, and much that does not, is answered without a 5xx."""

from typing import Any

import pytest

pytest.importorskip("schemathesis")

import schemathesis
import schemathesis.specs.openapi.checks
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS

from tests.support.engines import embedded
from tests.support.serving import AS_ADMIN, make_app, make_index, with_service


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = embedded(tmp_path_factory.mktemp("openapi") / "index")
    make_index(base)
    app = make_app(with_service(base))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


UNWANTED = CHECKS.get_by_names(
    ["not_a_server_error", "response_schema_conformance", "content_type_conformance"]
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "examples", [5, pytest.param(25, marks=pytest.mark.long)], ids=["few", "many"]
)
def test_no_request_breaks_it(document: Any, examples: int) -> None:
    operations = [one.ok() for one in document.get_all_operations()]
    assert len(operations) > 8
    for operation in operations:

        @settings(
            max_examples=examples,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy())
        def answered(case: Any) -> None:
            case.call_and_validate(headers=AS_ADMIN, checks=UNWANTED)

        answered()
