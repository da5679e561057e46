"""Whatever fits the OpenAPI document, and much that does not, is answered without a 5xx."""

from typing import Any

import pytest

pytest.importorskip("schemathesis")

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS

from tests.engines import embedded
from tests.serving import AS_ADMIN, make_app, make_index, with_service


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = embedded(tmp_path_factory.mktemp("openapi") / "index")
    make_index(base)
    app = make_app(with_service(base))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


schema = schemathesis.pytest.from_fixture("document")
UNWANTED = CHECKS.get_by_names(
    ["not_a_server_error", "response_schema_conformance", "content_type_conformance"]
)


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_breaks_it(case: Any) -> None:
    case.call_and_validate(headers=AS_ADMIN, checks=UNWANTED)
